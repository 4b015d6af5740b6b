"""Compare a rotation with many Haar-random ones: Monte-Carlo nulls and calibrated p-values (section 8.3).

The eigen-angles of one matrix repel each other: they lie more evenly than independent angles do. A test that
takes them as independent, as the paper's two-sample Kolmogorov-Smirnov test does, gives p ≈ 1 on Haar
matrices and says next to nothing. The calibrated test compares a statistic of the whole matrix with the same
statistic of whole Haar matrices.
"""

from __future__ import annotations

import functools
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
    """Statistics of Haar-random rotations of one group and width d.

    Attributes:
        group: The group that they were drawn from.
        statistics: Name -> float64[draws].
        angles: The sorted |θ| of each draw, float64[draws, m], with m the size of the free part.
        traces: The trace of the leading r×r block of the free part at [:, r−1], float64[draws, m].
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
        """Return ``‖(R−I)V‖_F / √(2r)`` of every draw, float64[draws], for r orthonormal directions V.

        Any V will do, because Haar prefers no direction.

        Args:
            rank: The number r of directions.

        Raises:
            ValueError: The free part has fewer than ``rank`` directions, or ``rank`` is below 1.
        """
        if not 1 <= rank <= self.traces.shape[1]:
            raise ValueError(f"rank {rank}; allowed: 1 to {self.traces.shape[1]}")
        return (1 - self.traces[:, rank - 1] / rank).clamp_min(0).sqrt()


def draw_null(d: int, draws: int, seed: int, group: str = "orthogonal") -> Null:
    """Draw Haar-random rotations and measure them.

    Args:
        d: Width of the rotations.
        draws: How many to draw.
        seed: Seed of the draws.
        group: The group that they are drawn from.

    Raises:
        ValueError: ``draws`` is below 1, the group is unknown, or the width is too small for it.
    """
    if draws < 1:
        raise ValueError(f"draws={draws}; allowed: 1 or more")
    m, gen = free_width(d, group), generator(seed, "haar null", group, d)
    values: dict[str, list[float]] = {name: [] for name in TAILS}
    angles, traces = torch.empty(draws, m, dtype=torch.float64), torch.empty(draws, m, dtype=torch.float64)
    for i in tqdm(range(draws), desc=f"Haar null, d = {d}", unit="matrix", delay=2, disable=None):
        r = random_rotation(d, group, gen)
        free = free_part(r, group)
        angles[i], traces[i] = eigenangles(free), free.diagonal().cumsum(0)
        measured = rotation_statistics(r, group)
        for name in TAILS:
            values[name].append(measured[name])
    statistics = {name: torch.tensor(x, dtype=torch.float64) for name, x in values.items()}
    return Null(group, statistics, angles, traces)


def stored_null(store: Store, d: int, draws: int, seed: int, group: str = "orthogonal") -> Null:
    """Return :func:`draw_null`, drawn once for each group, width, number of draws and seed.

    Args:
        store: Where the null is kept.
        d: Width of the rotations.
        draws: How many to draw.
        seed: Seed of the draws.
        group: The group that they are drawn from.

    Raises:
        ValueError: As :func:`draw_null`.
    """

    def build(folder: Path) -> None:
        drawn = draw_null(d, draws, seed, group)
        tensors = {**drawn.statistics, "angles": drawn.angles, "traces": drawn.traces}
        save_file(tensors, folder / "null.safetensors")

    key = {"group": group, "width": d, "draws": draws, "seed": seed, "statistics": sorted(TAILS)}
    tensors = load_file(store.ensure("haar", key, build) / "null.safetensors")
    return Null(group, {name: tensors[name] for name in TAILS}, tensors["angles"], tensors["traces"])


def p_value(value: float, draws: Tensor, tail: str) -> float:
    """Return the Monte-Carlo p-value ``(1 + #) / (N + 1)`` of a statistic.

    Args:
        value: The statistic.
        draws: The same statistic of N Haar draws, float[N].
        tail: Which values speak against the null: ``large``, ``small``, or ``both`` (twice the smaller p, at
            most 1).

    Raises:
        ValueError: ``tail`` is none of these.
    """
    return _p_of_counts(int((draws <= value).sum()), int((draws >= value).sum()), len(draws), tail)


def pooled_p_value(
    values: Tensor, draws: Tensor, tail: str, seed: int = 0, permutations: int = 9999
) -> float:
    """Return one p-value for several independent matrices, of the mean of their statistics.

    This is a permutation test: under the null all k + N values are exchangeable, so the mean of the k is
    compared with that of any k of them. It is exact, whatever the statistic and however few draws.

    Args:
        values: The statistic of k matrices, float[k].
        draws: The same statistic of N Haar draws, float64[N].
        tail: As in :func:`p_value`.
        seed: Seed of the permutations.
        permutations: How many to draw.

    Raises:
        ValueError: There are no values, or ``tail`` is unknown.
    """
    if not len(values):
        raise ValueError("no values to pool; allowed: 1 or more")
    everything = torch.cat([values.double(), draws])
    chosen = _subsets(seed, permutations, len(everything), len(values))
    means, own = everything[chosen].mean(1), float(values.double().mean())
    # the mean of the same values in another order is neither smaller nor larger
    slack = 1e-12 * float(everything.abs().max())
    small, large = int((means <= own + slack).sum()), int((means >= own - slack).sum())
    return _p_of_counts(small, large, permutations, tail)


@functools.cache  # a table asks for the same few sizes at every site and statistic
def _subsets(seed: int, permutations: int, n: int, k: int) -> Tensor:
    """Draw ``k`` of ``n`` indices per permutation, int64[permutations, k]."""
    scores = torch.rand(permutations, n, generator=generator(seed, "pooled p"))
    return scores.topk(k, sorted=False).indices


def naive_p_value(signed: Tensor, reference: Tensor) -> float:
    """Return the paper's p-value, which takes the eigen-angles of one matrix as independent.

    It is the two-sample Kolmogorov-Smirnov test of ``signed`` eigen-angles [m] against Haar's ``reference``
    [n].
    """
    return float(ks_2samp(signed.numpy(), reference.numpy(), method="asymp").pvalue)


def _p_of_counts(small: int, large: int, n: int, tail: str) -> float:
    p = {"small": (1 + small) / (n + 1), "large": (1 + large) / (n + 1)}
    if tail in p:
        return p[tail]
    if tail != "both":
        raise ValueError(f"tail {tail!r}; allowed: both, large, small")
    return min(1.0, 2 * min(p.values()))
