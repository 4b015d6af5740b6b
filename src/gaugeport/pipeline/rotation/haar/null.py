"""What Haar-random rotations give: Monte-Carlo nulls, calibrated p-values, and the paper's own test (section 8.3).

The eigen-angles of one matrix repel each other: they lie more evenly than independent angles do, so a test that takes
them as independent, as the two-sample Kolmogorov-Smirnov test does, gives p ≈ 1 on Haar matrices and says next to
nothing. Calibrated is the comparison of a whole matrix's statistic with that statistic of whole Haar matrices.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from scipy.stats import ks_2samp
from torch import Tensor
from tqdm import tqdm

from gaugeport.pipeline.rotation.haar.statistics import (
    TAILS,
    eigenangles,
    free_part,
    free_width,
    random_rotation,
    rotation_statistics,
    signed_angles,
)
from gaugeport.pipeline.store.store import Store
from gaugeport.utils.seeds import generator

REFERENCE_MATRICES = 10
"""Haar matrices whose eigenvalues are the paper's second sample: 5,120 eigenvalues at d = 512."""


@dataclass(frozen=True)
class Null:
    """Statistics of Haar-random rotations of a ``group`` at width d.

    ``statistics``: name -> float64[draws]; ``angles`` float64[draws, m], sorted |θ| of each; ``traces`` float64[draws, m],
    the trace of the leading r×r block of the free part at [:, r−1].
    """

    group: str
    statistics: dict[str, Tensor]
    angles: Tensor
    traces: Tensor

    @property
    def reference(self) -> Tensor:
        """The signed eigen-angles of the first :data:`REFERENCE_MATRICES` draws, pooled."""
        return signed_angles(self.angles[:REFERENCE_MATRICES]).flatten()

    def supported_distance(self, rank: int) -> Tensor:
        """float64[draws]: ``‖(R−I)V‖_F / √(2r)`` for any r orthonormal directions V; Haar prefers none.

        Raises ``ValueError`` for a rank that the free part does not have.
        """
        if not 1 <= rank <= self.traces.shape[1]:
            raise ValueError(f"rank {rank}; allowed: 1 to {self.traces.shape[1]}")
        return (1 - self.traces[:, rank - 1] / rank).clamp_min(0).sqrt()


def draw_null(d: int, draws: int, seed: int, group: str = "orthogonal") -> Null:
    """Statistics of ``draws`` Haar-random rotations. Raises ``ValueError`` for no draws, a width too small, a bad group."""
    if draws < 1:
        raise ValueError(f"draws={draws}; allowed: 1 or more")
    m, gen = free_width(d, group), generator(seed, "haar null", group, d)
    found: dict[str, list[float]] = {name: [] for name in TAILS}
    angles, traces = torch.empty(draws, m, dtype=torch.float64), torch.empty(draws, m, dtype=torch.float64)
    for i in tqdm(range(draws), desc=f"Haar null, d = {d}", unit="matrix", delay=2, disable=None):
        r = random_rotation(d, group, gen)
        free = free_part(r, group)
        angles[i], traces[i] = eigenangles(free), free.diagonal().cumsum(0)
        for name, value in rotation_statistics(r, group).items():
            if name in found:
                found[name].append(value)
    return Null(group, {k: torch.tensor(v, dtype=torch.float64) for k, v in found.items()}, angles, traces)


def stored_null(store: Store, d: int, draws: int, seed: int, group: str = "orthogonal") -> Null:
    """:func:`draw_null`, computed once for each group, width, number of draws and seed."""

    def build(folder: Path) -> None:
        made = draw_null(d, draws, seed, group)
        save_file(
            {**made.statistics, "angles": made.angles, "traces": made.traces}, folder / "null.safetensors"
        )

    key = {"group": group, "width": d, "draws": draws, "seed": seed, "statistics": sorted(TAILS)}
    tensors = load_file(store.ensure("haar", key, build) / "null.safetensors")
    return Null(group, {name: tensors[name] for name in TAILS}, tensors["angles"], tensors["traces"])


def p_value(value: float, draws: Tensor, tail: str) -> float:
    """Monte-Carlo p-value ``(1 + #) / (N + 1)`` of a statistic against its ``draws`` [N].

    ``tail``: ``large`` or ``small`` values speak against the null, or ``both`` (twice the smaller p, at most 1). Raises
    ``ValueError`` for another tail.
    """
    return _two_or_one(int((draws <= value).sum()), int((draws >= value).sum()), len(draws), tail)


def pooled_p_value(
    values: Tensor, draws: Tensor, tail: str, seed: int = 0, permutations: int = 9999
) -> float:
    """One p-value for several independent matrices: the mean of their statistics ``values`` [k] against ``draws`` [N].

    A permutation test: under the null all k + N values are exchangeable, so the mean of the k is compared with that of
    any k of them, ``permutations`` times. It is exact, whatever the statistic and however few draws. Raises ``ValueError`` for no
    values and a bad tail.
    """
    if not len(values):
        raise ValueError("no values to pool; allowed: 1 or more")
    everything, gen = torch.cat([values.double(), draws]), generator(seed, "pooled p")
    chosen = torch.rand(permutations, len(everything), generator=gen).topk(len(values), sorted=False).indices
    means, own = everything[chosen].mean(1), float(values.double().mean())
    slack = 1e-12 * float(
        everything.abs().max()
    )  # the same values in another order are no smaller and no larger
    return _two_or_one(
        int((means <= own + slack).sum()), int((means >= own - slack).sum()), permutations, tail
    )


def naive_p_value(signed: Tensor, reference: Tensor) -> float:
    """The paper's p: two-sample Kolmogorov-Smirnov of signed eigen-angles against Haar's, taken as independent."""
    return float(ks_2samp(signed.numpy(), reference.numpy(), method="asymp").pvalue)


def _two_or_one(small: int, large: int, n: int, tail: str) -> float:
    p = {"small": (1 + small) / (n + 1), "large": (1 + large) / (n + 1)}
    if tail in p:
        return p[tail]
    if tail != "both":
        raise ValueError(f"tail {tail!r}; allowed: both, large, small")
    return min(1.0, 2 * min(p.values()))
