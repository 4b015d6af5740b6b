"""S_d, B_d, O(d) and an affine map on the same tasks: where a larger group helps, and where it costs (table c1)."""

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
    """Rows ``{group, matcher, tokens, metric, value}`` of every group, means over ``plants`` put on B before the fit.

    The group ``identity`` moves no coordinate: the true gauge of two runs of one base, of other pairs no gauge at all.

    ``fit_a``, ``fit_b``, ``test_a``, ``test_b`` [n, d] are streams of the same tokens; ``tokens`` says how many of the
    fitting rows are used. ``heldout_fit`` is the explained variance 1 − NMSE of B's held-out stream predicted from A's,
    ``heldout_fit_shrunk`` the same with each map's scale of least squares (:func:`~gaugeport.pipeline.measures.maps.shrink`).
    With all fitting rows also: ``sae_nmse``, B's held-out stream carried back, reconstructed by the ``sae`` of A and
    carried forth (``sae_nmse_native``: that SAE on A itself; ``round_trip_nmse``: there and back without it, which is not 0
    for the affine map); ``retention(map)``'s metrics (``retention_native``, where there is an effect to transport);
    ``index_precision``, the share of A's top ``k`` coordinates by mean |activation| that, moved, are among B's own. A map that is no permutation
    moves no index (``index_refused`` = 1). Raises ``ValueError`` where ``tokens`` asks for more rows than there are.
    """
    if not tokens or max(tokens) > len(fit_a) or min(tokens) < 2:
        raise ValueError(f"tokens={list(tokens)} of {len(fit_a)} rows to fit on; allowed: 2 to {len(fit_a)}")
    rows = [_row("none", "none", 0, "sae_nmse_native", nmse(test_a, reconstruct(sae, test_a[None], 0)[0][0]))]
    for group, matcher in {"identity": "none", **MATCHER_OF_GROUP}.items():
        drawn = (
            plants if group == "permutation" else plants[:1]
        )  # the others are equivariant: one plant says all
        if group == "identity":
            drawn = [SignedPermutation.identity(fit_a.shape[1])]
        for n in sorted(tokens):
            seen = fit_a[:n], fit_b[:n]
            maps = [
                identity_map(*seen) if group == "identity" else fit_map(group, *seen, plant)
                for plant in drawn
            ]
            for metric, tried in (
                ("heldout_fit", maps),
                ("heldout_fit_shrunk", [shrink(m, *seen) for m in maps]),
            ):
                explained = fmean(1 - nmse(test_b, m.forward(test_a)) for m in tried)
                rows.append(_row(group, matcher, n, metric, explained))
        found = [
            {
                "sae_nmse": nmse(test_b, m.forward(reconstruct(sae, m.backward(test_b)[None], 0)[0][0])),
                "round_trip_nmse": 1 - round_trip_explained_variance(m, test_b),
                **retention(m),
                **_indices(m, plant, test_a, test_b, k),
            }
            for m, plant in zip(maps, drawn, strict=True)
        ]
        for metric in dict.fromkeys(name for f in found for name in f):
            rows.append(
                _row(group, matcher, max(tokens), metric, fmean(f[metric] for f in found if metric in f))
            )
    return rows


def _indices(m: Map, plant: SignedPermutation, a: Tensor, b: Tensor, k: int) -> dict[str, float]:
    if not isinstance(m.gauge, SignedPermutation):
        return {"index_refused": 1.0}
    top_a, top_b = (x.abs().mean(0).topk(k).indices for x in (a, plant.act(b)))
    moved = transport_indices(top_a, m.gauge).index
    return {"index_precision": float(torch.isin(moved, top_b).double().mean())}


def _row(group: str, matcher: str, tokens: int, metric: str, value: float) -> Row:
    return {"group": group, "matcher": matcher, "tokens": tokens, "metric": metric, "value": value}
