"""Measure how often each test rejects: false positives on Haar draws, power on others (section 8.3)."""

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
    from_free_part,
    random_rotation,
    rotation_statistics,
    signed_angles,
)
from gaugeport.utils.seeds import generator

NEAR_IDENTITY_LARGEST_RADIANS = 1.0
"""About the largest eigen-angle of ``near_identity``."""

ONE_FIXED_DIRECTION_IN = 6
"""``low_rank_identity`` keeps one direction in so many where it is: 10 of 64."""

MATRICES_PER_POOL = 10
"""Matrices whose eigen-angles the naive test pools at a time."""


def near_identity(d: int, group: str, gen: torch.Generator) -> Tensor:
    """Draw exp of a Gaussian skew matrix, float64[d, d].

    Its angles fill a semicircle law of radius :data:`NEAR_IDENTITY_LARGEST_RADIANS`.
    """
    m = free_width(d, group)
    g = torch.randn(m, m, generator=gen, dtype=torch.float64) * NEAR_IDENTITY_LARGEST_RADIANS / (2 * m**0.5)
    return from_free_part(torch.linalg.matrix_exp(g.triu(1) - g.triu(1).T), group)


def low_rank_identity(d: int, group: str, gen: torch.Generator) -> Tensor:
    """Draw a rotation as rank-deficient data would give it, float64[d, d].

    It is the identity on one random direction in :data:`ONE_FIXED_DIRECTION_IN` and Haar on the others.
    """
    m = free_width(d, group)
    kept, frame = max(1, m // ONE_FIXED_DIRECTION_IN), haar_matrix(m, gen)
    inside = torch.block_diag(torch.eye(kept, dtype=torch.float64), haar_matrix(m - kept, gen))
    return from_free_part(frame @ inside @ frame.T, group)


def permutation(d: int, group: str, gen: torch.Generator) -> Tensor:
    """Draw a random permutation, float64[d, d]."""
    return Permutation.random(d, gen).dense()


def signed_permutation(d: int, group: str, gen: torch.Generator) -> Tensor:
    """Draw a random element of B_d, float64[d, d].

    Where the group fixes the all-ones vector, draw one of S_d × {±1} that acts on its complement.
    """
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
"""Distributions of rotations: name -> ``draw(d, group, generator)``, float64[d, d]."""


def rejection_rates(
    d: int, alternative: str, draws: int, null: Null, level: float = 0.05, seed: int = 0
) -> dict[str, float]:
    """Return the share of rotations of an alternative that each test rejects.

    Args:
        d: Width of the rotations.
        alternative: One of :data:`ALTERNATIVES`.
        draws: Number of rotations, at least :data:`MATRICES_PER_POOL`.
        null: Haar draws of the same width.
        level: Level of the tests, between 0 and 1.
        seed: Seed of the draws.

    Returns:
        Test -> share: the calibrated test of every statistic of :data:`TAILS` against ``null``; ``naive_ks``,
        the paper's test of one matrix; ``naive_ks_pooled``, that of the eigen-angles of
        :data:`MATRICES_PER_POOL` matrices at once.

    Raises:
        ValueError: The alternative is unknown, the level is outside (0, 1), there are fewer draws than are
            pooled, or the null has another width.
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
    # 1) test every matrix by itself
    gen = generator(seed, "haar power", alternative, null.group, d)
    rejected = dict.fromkeys((*TAILS, "naive_ks"), 0)
    spectra = torch.empty(draws, m, dtype=torch.float64)
    for i in tqdm(range(draws), desc=f"{alternative}, d = {d}", unit="matrix", delay=2, disable=None):
        r = ALTERNATIVES[alternative](d, null.group, gen)
        measured = rotation_statistics(r, null.group)
        spectra[i] = signed_angles(eigenangles(free_part(r, null.group)))
        for name, tail in TAILS.items():
            rejected[name] += p_value(measured[name], null.statistics[name], tail) <= level
        rejected["naive_ks"] += naive_p_value(spectra[i], null.reference) <= level
    # 2) test pools of matrices
    pools = spectra[: draws // MATRICES_PER_POOL * MATRICES_PER_POOL].view(-1, MATRICES_PER_POOL * m)
    rejected_pools = sum(naive_p_value(pool, null.reference) <= level for pool in pools)
    rates = {name: n / draws for name, n in rejected.items()}
    return {**rates, "naive_ks_pooled": rejected_pools / len(pools)}
