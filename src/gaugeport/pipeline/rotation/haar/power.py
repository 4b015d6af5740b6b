"""How often each test calls a rotation not Haar: false positives on Haar draws, power against what is not (section 8.3)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from tqdm import tqdm

from gaugeport.groups import GlobalSignPermutation, Permutation, SignedPermutation, haar_matrix
from gaugeport.pipeline.rotation.haar.null import Null, naive_p_value, p_value
from gaugeport.pipeline.rotation.haar.statistics import (
    TAILS,
    check_group,
    eigenangles,
    free_part,
    free_width,
    random_rotation,
    rotation_statistics,
    signed_angles,
    whole,
)
from gaugeport.utils.seeds import generator

NEAR_IDENTITY_LARGEST_ANGLE = 1.0
"""Radians: about the largest eigen-angle of ``near_identity``."""

FIXED_ONE_DIRECTION_IN = 6
"""One direction in so many stays where it is in ``low_rank_identity``: 10 of 64, the example of PAPER_CLAIMS."""

MATRICES_PER_POOL = 10
"""Matrices whose eigen-angles the naive test pools at a time."""


def near_identity(d: int, group: str, gen: torch.Generator) -> Tensor:
    """exp of a Gaussian skew matrix, whose angles fill a semicircle law of radius :data:`NEAR_IDENTITY_LARGEST_ANGLE`."""
    m = free_width(d, group)
    g = torch.randn(m, m, generator=gen, dtype=torch.float64) * NEAR_IDENTITY_LARGEST_ANGLE / (2 * m**0.5)
    return whole(torch.linalg.matrix_exp(g.triu(1) - g.triu(1).T), group)


def low_rank_identity(d: int, group: str, gen: torch.Generator) -> Tensor:
    """The identity on one random direction in :data:`FIXED_ONE_DIRECTION_IN`, Haar on the others: what rank-deficient data would show."""
    m = free_width(d, group)
    kept, frame = max(1, m // FIXED_ONE_DIRECTION_IN), haar_matrix(m, gen)
    inside = torch.block_diag(torch.eye(kept, dtype=torch.float64), haar_matrix(m - kept, gen))
    return whole(frame @ inside @ frame.T, group)


def permutation(d: int, group: str, gen: torch.Generator) -> Tensor:
    """A random permutation."""
    return Permutation.random(d, gen).dense()


def signed_permutation(d: int, group: str, gen: torch.Generator) -> Tensor:
    """A random element of B_d; where the all-ones vector is fixed, one of S_d × {±1} acting on its complement."""
    if group == "orthogonal":
        return SignedPermutation.random(d, gen).dense()
    g = GlobalSignPermutation.random(d, gen).dense()
    return g + (1 - g.sum(1)[0]) / d


ALTERNATIVES: dict[str, Callable[[int, str, torch.Generator], Tensor]] = {
    "haar": random_rotation,
    "signed_permutation": signed_permutation,
    "permutation": permutation,
    "near_identity": near_identity,
    "low_rank_identity": low_rank_identity,
}
"""What rotations may be: name -> ``draw(d, group, generator)``, float64[d, d]."""


def rejection_rates(
    d: int, alternative: str, draws: int, null: Null, level: float = 0.05, seed: int = 0
) -> dict[str, float]:
    """Share of ``draws`` rotations of an alternative that each test rejects at ``level``.

    The calibrated test of every statistic of :data:`TAILS` against ``null``; ``naive_ks``, the paper's test of one
    matrix, and ``naive_ks_pooled``, that of the eigen-angles of :data:`MATRICES_PER_POOL` matrices at once. Raises ``ValueError``
    for an unknown alternative, a level outside (0, 1), fewer draws than are pooled, or a null of another width.
    """
    if alternative not in ALTERNATIVES:
        raise ValueError(f"alternative {alternative!r}; allowed: {', '.join(ALTERNATIVES)}")
    if not 0 < level < 1:
        raise ValueError(f"level={level}; allowed: between 0 and 1")
    if draws < MATRICES_PER_POOL:
        raise ValueError(f"draws={draws}; allowed: {MATRICES_PER_POOL} or more")
    check_group(null.group)
    m = free_width(d, null.group)
    if null.angles.shape[1] != m:
        raise ValueError(
            f"width {d} with a null of {null.angles.shape[1]} eigen-angles; allowed: a null of {m}"
        )
    gen = generator(seed, "haar power", alternative, null.group, d)
    rejected = dict.fromkeys((*TAILS, "naive_ks", "naive_ks_pooled"), 0)
    spectra = torch.empty(draws, m, dtype=torch.float64)
    for i in tqdm(range(draws), desc=f"{alternative}, d = {d}", unit="matrix", delay=2, disable=None):
        r = ALTERNATIVES[alternative](d, null.group, gen)
        found = rotation_statistics(r, null.group)
        spectra[i] = signed_angles(eigenangles(free_part(r, null.group)))
        for name, tail in TAILS.items():
            rejected[name] += p_value(found[name], null.statistics[name], tail) <= level
        rejected["naive_ks"] += naive_p_value(spectra[i], null.reference) <= level
    pools = spectra[: draws // MATRICES_PER_POOL * MATRICES_PER_POOL].view(-1, MATRICES_PER_POOL * m)
    rejected["naive_ks_pooled"] = sum(naive_p_value(pool, null.reference) <= level for pool in pools)
    return {name: n / (len(pools) if name == "naive_ks_pooled" else draws) for name, n in rejected.items()}
