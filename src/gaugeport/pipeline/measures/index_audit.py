"""Index-level claims under random gauges: what is left of a top-k list, raw and after naming the gauge (table a9).

A residual gauge permutes and signs the coordinates and leaves the neurons alone; a neuron gauge does the opposite.
Each list is therefore audited under the gauge that moves it, with the other gauge as its invariant control.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import Any

from gaugeport.groups import Element, SignedPermutation
from gaugeport.pipeline.measures.conditions import mean_over_plants
from gaugeport.pipeline.measures.importance import LISTS, Scores, compare_lists
from gaugeport.transport.directions import transport_direction, transport_magnitude

Row = dict[str, Any]

SPACE_MOVED_BY = {"residual": "coordinate", "neuron": "neuron"}
"""Planted gauge -> what it moves; it leaves the other lists invariant."""
METRICS = ("jaccard", "rank_correlation", "sign_agreement")


def audit_rows(a: Scores, b: Scores, gauges: Sequence[Element], planted: str, k: int) -> list[Row]:
    """Rows ``{list, planted, metric, value}`` of the lists that a gauge of kind ``planted`` moves.

    ``a``, ``b`` are scores of two models in coordinates that they share. ``gauges`` are what stands between the lists
    once the gauge was named, one per plant: the identity where it was named rightly, the plant itself where not at all
    (with planted coordinates on both sides, the residual of :class:`~gaugeport.pipeline.measures.conditions.Condition`). Each metric is the
    mean over plants, with its ``…_plants_sd``.

    Raises ``ValueError`` for an unknown kind, a k the scores do not have, and rotations: they have no index lists.
    """
    rows: list[Row] = []
    for name in _lists(planted):
        signed = LISTS[name].signed
        found = [compare_lists(a[name], b[name], g, k, signed) for g in gauges]
        kept = [{m: f[m] for m in METRICS if m in f} for f in found]
        rows += [
            {"list": name, "planted": planted, "metric": m, "value": v} for m, v in mean_over_plants(kept)
        ]
    return rows


def audit_run_rows(
    a: Scores, b: Scores, run: Scores, plant: SignedPermutation, planted: str, k: int
) -> list[Row]:
    """Rows of one plant that was really run: ``run`` are the scores measured on B carrying ``plant``.

    For the lists that the plant moves, ``relabelling_error``: the largest difference between ``run`` and the scores
    ``b`` moved by the plant, over the largest score; what :func:`audit_rows` takes for zero. For the others, the invariant
    controls, the list of ``a`` against that of ``run``, with nothing named.
    """
    moving = _lists(planted)
    rows: list[Row] = []
    for name, kind in LISTS.items():
        if name in moving:
            moved = (transport_direction if kind.signed else transport_magnitude)(b[name], plant)
            found = {"relabelling_error": float((run[name] - moved).abs().max() / moved.abs().max())}
        else:
            nothing = SignedPermutation.identity(len(a[name]))
            found = compare_lists(a[name], run[name], nothing, k, kind.signed)
            found = {m: found[m] for m in METRICS if m in found}
        rows += [{"list": name, "planted": planted, "metric": m, "value": v} for m, v in found.items()]
    return rows


def reliability_rows(halves: Sequence[tuple[Scores, Scores]], k: int) -> list[Row]:
    """Rows ``{list, metric, value}`` of lists made on two halves of the tokens: what of a gap between models is noise.

    ``halves`` are the scores of A and of B on the first half and on the second, in coordinates that they share. Each
    metric is a mean of two: ``…_same_model``, the first half against the second of the same model, and, where B is not A,
    ``…_other_model``, the first half of one against the second of the other. What the former lack to 1 is noise, what
    the latter lack beyond is drift.

    Raises ``ValueError`` for a ``k`` the scores do not have. No table of the papers has this control.
    """
    (a, b), (a_second, b_second) = halves
    pairs = {"same_model": [(a, a_second), (b, b_second)]}
    if b is not a:
        pairs["other_model"] = [(a, b_second), (b, a_second)]
    rows: list[Row] = []
    for name, kind in LISTS.items():
        same = SignedPermutation.identity(len(a[name]))
        for suffix, compared in pairs.items():
            found = [compare_lists(x[name], y[name], same, k, kind.signed) for x, y in compared]
            rows += [
                {"list": name, "metric": f"{m}_{suffix}", "value": fmean(f[m] for f in found)}
                for m in METRICS
                if m in found[0]
            ]
    return rows


def _lists(planted: str) -> list[str]:
    if planted not in SPACE_MOVED_BY:
        raise ValueError(f"unknown planted gauge {planted!r}; allowed: {', '.join(SPACE_MOVED_BY)}")
    return [name for name, kind in LISTS.items() if kind.space == SPACE_MOVED_BY[planted]]
