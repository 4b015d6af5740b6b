"""Predict how well a steering vector transfers to another model, and test it (paper B, section 9.2).

The paper's rule: a vector transfers cleanly where it lies in the subspace that shared output weights pin. The
predictor is the vector's share in that subspace; the cosine of a vector with its rotated self is another.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from scipy import stats
from torch import Tensor

from gaugeport.utils.linalg import svd
from gaugeport.utils.seeds import generator

Row = dict[str, Any]

FEWEST_POINTS = 3
"""Points that a rank correlation needs."""


def reader_span(readers: Sequence[Tensor]) -> Tensor:
    """Return an orthonormal basis of what output heads can tell apart: differences of rows of one reader.

    A softmax does not see what is common to all rows, so each reader is centred over its rows.

    Args:
        readers: Weights of heads with the gain of the norm that they read behind, float[rows, d] each.

    Returns:
        The basis, float64[d, rank].
    """
    stacked = torch.cat([w.double() - w.double().mean(0) for w in readers])
    _, s, vh = svd(stacked, full_matrices=False)
    return vh[s > s.max() * 1e-8].T


def share_in(v: Tensor, basis: Tensor) -> float:
    """Return the share of ``‖v‖²`` in the span of an orthonormal basis: the predictor of section 9.2.

    Args:
        v: A vector, float[d].
        basis: Orthonormal columns, float64[d, rank]; without columns the share is 0.
    """
    v = v.double()
    return float((v @ basis).square().sum() / v.square().sum())


def cosine(v: Tensor, w: Tensor) -> float:
    """Return the cosine of two vectors [d]. That of v and R v says how far a rotation R keeps v in place."""
    return float(torch.nn.functional.cosine_similarity(v.double(), w.double(), dim=0))


def predictor_rows(name: str, values: Sequence[float], ratios: Sequence[float | None]) -> Iterator[Row]:
    """Yield Spearman's rank correlations of a predictor with transfer ratios.

    ``<name>_points`` counts the points that have a ratio. ``<name>_transfer_correlation``, the paper's claim,
    is with −|1 − ratio|: a vector transfers the better the nearer its cross effect is to its within effect,
    above or below. ``<name>_ratio_correlation`` is with the signed ratio itself. Both are left out where
    fewer than :data:`FEWEST_POINTS` points are left or one side is constant.

    Args:
        name: Name of the predictor, the prefix of the metrics.
        values: The predictor at every point.
        ratios: The transfer ratio at every point; None where there is no effect.
    """
    with_ratio = [(x, r) for x, r in zip(values, ratios, strict=True) if r is not None]
    yield {"metric": f"{name}_points", "value": float(len(with_ratio))}
    x = [value for value, _ in with_ratio]
    sides = {"transfer": [-abs(1 - r) for _, r in with_ratio], "ratio": [r for _, r in with_ratio]}
    for side, y in sides.items():
        if len(with_ratio) >= FEWEST_POINTS and len(set(x)) > 1 and len(set(y)) > 1:
            value = float(stats.spearmanr(x, y).statistic)
            yield {"metric": f"{name}_{side}_correlation", "value": value}


def share_test(
    shares: Sequence[float], closeness: Sequence[float], sites: Sequence[str], draws: int, seed: int = 0
) -> tuple[float, float]:
    """Test whether shares go with closeness, by permuting shares within sites.

    The unit is a vector at a site: a share belongs to the anchor alone, so other seeds vary only the noise in
    ``closeness``, and an interval over seeds says nothing of the predictor. Depth goes with both, which is
    why permutations stay within sites.

    Args:
        shares: The share of every vector at a site.
        closeness: How near its transfer ratio is to 1.
        sites: Its site.
        draws: Number of permutations.
        seed: Seed of the permutations.

    Returns:
        Spearman's correlation and its one-sided p.

    Raises:
        ValueError: There are fewer than :data:`FEWEST_POINTS` vectors and sites.
    """
    if len(shares) < FEWEST_POINTS:
        raise ValueError(f"{len(shares)} vectors and sites; allowed: {FEWEST_POINTS} or more")
    x, y = (torch.tensor(stats.rankdata(v)) for v in (shares, closeness))
    strata = [torch.tensor([i for i, s in enumerate(sites) if s == site]) for site in dict.fromkeys(sites)]
    gen, reached = generator(seed, "share test"), 0
    own = float(torch.corrcoef(torch.stack([x, y]))[0, 1])
    for _ in range(draws):
        permuted = x.clone()
        for members in strata:
            permuted[members] = x[members[torch.randperm(len(members), generator=gen)]]
        reached += float(torch.corrcoef(torch.stack([permuted, y]))[0, 1]) >= own - 1e-12
    return own, (1 + reached) / (1 + draws)
