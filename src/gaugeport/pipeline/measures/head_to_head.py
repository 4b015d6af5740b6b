"""Compare S_d, B_d, O(d) and an affine map on the same tasks (table c1)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from gaugeport.groups import SignedPermutation
from gaugeport.pipeline.measures.maps import (
    MATCHER_OF_GROUP,
    Map,
    fit_map,
    identity_map,
    round_trip_explained_variance,
    shrink,
)
from gaugeport.pipeline.measures.sae_transfer import nmse, reconstruct
from gaugeport.transport.indices import transport_indices

if TYPE_CHECKING:
    from sae_lens import SAE

Row = dict[str, Any]


def head_to_head_rows(
    fit_a: Tensor,
    fit_b: Tensor,
    test_a: Tensor,
    test_b: Tensor,
    *,
    sae: SAE[Any],
    retention: Callable[[Map], dict[str, float]],
    tokens: Sequence[int],
    plants: Sequence[SignedPermutation],
    k: int,
) -> list[Row]:
    """Fit every group on the same tokens and measure fit, SAE transfer, steering and index transfer.

    Metrics, means over plants:
        ``heldout_fit``: explained variance 1 − NMSE of B's held-out stream, predicted from A's.
        ``heldout_fit_shrunk``: the same with the scale of least squares (:func:`~.maps.shrink`).
    Metrics for maps fitted on the most tokens:
        ``sae_nmse``: error when B's held-out stream is carried to A, reconstructed by the SAE, and carried
            back.
        ``round_trip_nmse``: the same without the SAE; not 0 for the affine map.
        ``index_precision``: the share of A's top ``k`` coordinates by mean |activation| that, once moved, are
            among B's own. A map that is no permutation has ``index_refused`` = 1 instead.
        and the metrics of ``retention``.
    Metric without a map: ``sae_nmse_native``, the error of the SAE on A itself.

    Args:
        fit_a: float[n, d], A's stream on the fitting tokens.
        fit_b: float[n, d], B's stream on the same tokens.
        test_a: float[m, d], A's stream on the held-out tokens.
        test_b: float[m, d], B's stream on the same tokens.
        sae: an SAE of A.
        retention: measures steering through a map and returns metric -> value; metrics may be missing.
        tokens: numbers of fitting tokens to fit on, each from 2 to n.
        plants: gauges to apply to B before the fit.
        k: length of the index lists.

    Returns:
        Rows ``{group, matcher, tokens, metric, value}``. The group ``identity`` moves no coordinate: it is
        the true gauge of two runs of one base, and no gauge of any other model pair.

    Raises:
        ValueError: ``tokens`` is empty, or asks for fewer than 2 rows or more than there are.
    """
    if not tokens or max(tokens) > len(fit_a) or min(tokens) < 2:
        raise ValueError(f"tokens={list(tokens)} of {len(fit_a)} rows to fit on; allowed: 2 to {len(fit_a)}")
    rows = [_row("none", "none", 0, "sae_nmse_native", nmse(test_a, reconstruct(sae, test_a[None])[0][0]))]
    for group, matcher in {"identity": "none", **MATCHER_OF_GROUP}.items():
        # 1) choose plants: only raw permutations depend on them, the other fits are equivariant
        drawn = plants if group == "permutation" else plants[:1]
        if group == "identity":
            drawn = [SignedPermutation.identity(fit_a.shape[1])]
        # 2) fit on more and more tokens
        for n in sorted(tokens):
            seen = fit_a[:n], fit_b[:n]
            if group == "identity":
                maps = [identity_map(*seen)]
            else:
                maps = [fit_map(group, *seen, plant) for plant in drawn]
            shrunk = [shrink(m, *seen) for m in maps]
            for metric, tried in (("heldout_fit", maps), ("heldout_fit_shrunk", shrunk)):
                explained = fmean(1 - nmse(test_b, m.forward(test_a)) for m in tried)
                rows.append(_row(group, matcher, n, metric, explained))
        # 3) use the maps fitted on the most tokens
        by_plant = []
        for m, plant in zip(maps, drawn, strict=True):
            reconstruction = reconstruct(sae, m.backward(test_b)[None])[0][0]
            by_plant.append(
                {
                    "sae_nmse": nmse(test_b, m.forward(reconstruction)),
                    "round_trip_nmse": 1 - round_trip_explained_variance(m, test_b),
                    **retention(m),
                    **_indices(m, plant, test_a, test_b, k),
                }
            )
        for metric in dict.fromkeys(name for metrics in by_plant for name in metrics):
            mean = fmean(metrics[metric] for metrics in by_plant if metric in metrics)
            rows.append(_row(group, matcher, max(tokens), metric, mean))
    return rows


def _indices(m: Map, plant: SignedPermutation, a: Tensor, b: Tensor, k: int) -> dict[str, float]:
    """Return the precision of A's top-k coordinates moved by the map."""
    if not isinstance(m.gauge, SignedPermutation):
        return {"index_refused": 1.0}
    top_a, top_b = (x.abs().mean(0).topk(k).indices for x in (a, plant.act(b)))
    moved = transport_indices(top_a, m.gauge).index
    return {"index_precision": float(torch.isin(moved, top_b).double().mean())}


def _row(group: str, matcher: str, tokens: int, metric: str, value: float) -> Row:
    return {"group": group, "matcher": matcher, "tokens": tokens, "metric": metric, "value": value}
