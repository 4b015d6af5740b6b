"""Audit index-level claims: how much of a top-k list survives a random gauge (table a9).

A residual gauge permutes and signs the coordinates of the stream and leaves the neurons alone; a neuron gauge
does the opposite. So each list is audited under the gauge that moves it, and the other gauge is its invariant
control.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import Any

from gaugeport.groups import Element, SignedPermutation
from gaugeport.pipeline.measures.conditions import mean_over_plants
from gaugeport.pipeline.measures.importance import LISTS, Scores
from gaugeport.pipeline.measures.list_agreement import compare_lists
from gaugeport.transport.directions import transport_direction, transport_magnitude

Row = dict[str, Any]

SPACE_MOVED_BY = {"residual": "coordinate", "neuron": "neuron"}
"""Kind of planted gauge -> the lists it moves. It leaves the other lists unchanged."""
METRICS = ("jaccard", "rank_correlation", "sign_agreement")


def audit_rows(a: Scores, b: Scores, gauges: Sequence[Element], planted: str, k: int) -> list[Row]:
    """Compare the lists of two models under the gauges that were not recovered.

    Args:
        a: scores of A.
        b: scores of B, in coordinates shared with A.
        gauges: the gauge left between the lists, one per plant: the identity where the planted gauge was
            recovered, the plant itself where it was not (with plants on both models, ``Condition.residual``).
        planted: the kind of planted gauge, ``residual`` or ``neuron``; lists that it does not move are left
            out.
        k: length of the lists.

    Returns:
        Rows ``{list, planted, metric, value}``: each metric is the mean over plants, with its
        ``…_plants_sd``.

    Raises:
        ValueError: unknown kind of gauge, a ``k`` that is not allowed, or a rotation: it has no index lists.
    """
    rows: list[Row] = []
    for name in _lists(planted):
        signed = LISTS[name].signed
        agreements = [compare_lists(a[name], b[name], g, k, signed) for g in gauges]
        kept = [_chosen(agreement) for agreement in agreements]
        rows += [
            {"list": name, "planted": planted, "metric": m, "value": v} for m, v in mean_over_plants(kept)
        ]
    return rows


def audit_run_rows(
    a: Scores, b: Scores, run: Scores, plant: SignedPermutation, planted: str, k: int
) -> list[Row]:
    """Check one plant by running the planted model.

    Args:
        a: scores of A.
        b: scores of B, in coordinates shared with A.
        run: scores measured on B with the plant applied to its weights.
        plant: the planted gauge.
        planted: its kind, ``residual`` or ``neuron``.
        k: length of the lists.

    Returns:
        Rows ``{list, planted, metric, value}``. Of a list that the plant moves, ``relabelling_error``: the
        largest difference between ``run`` and ``b`` moved by the plant, over the largest score
        (:func:`audit_rows` assumes it is zero). Of the others, the invariant controls, the agreement of ``a``
        and ``run`` without any gauge.
    """
    moving = _lists(planted)
    rows: list[Row] = []
    for name, kind in LISTS.items():
        if name in moving:
            moved = (transport_direction if kind.signed else transport_magnitude)(b[name], plant)
            metrics = {"relabelling_error": float((run[name] - moved).abs().max() / moved.abs().max())}
        else:
            identity = SignedPermutation.identity(len(a[name]))
            metrics = _chosen(compare_lists(a[name], run[name], identity, k, kind.signed))
        rows += [{"list": name, "planted": planted, "metric": m, "value": v} for m, v in metrics.items()]
    return rows


def reliability_rows(halves: Sequence[tuple[Scores, Scores]], k: int) -> list[Row]:
    """Compare lists made on two halves of the tokens, to tell noise from drift (a control not in the papers).

    Args:
        halves: scores of A and of B on the first half of the tokens, then on the second, in shared
            coordinates. B may be the same object as A.
        k: length of the lists.

    Returns:
        Rows ``{list, metric, value}``; each value is the mean of two comparisons. ``…_same_model`` compares
        the two halves of one model: its distance from 1 is noise. ``…_other_model`` (where B is not A)
        compares the first half of one model with the second half of the other: what it loses beyond that is
        drift.

    Raises:
        ValueError: a ``k`` that is not allowed.
    """
    (a, b), (a_second, b_second) = halves
    pairs = {"same_model": [(a, a_second), (b, b_second)]}
    if b is not a:
        pairs["other_model"] = [(a, b_second), (b, a_second)]
    rows: list[Row] = []
    for name, kind in LISTS.items():
        same = SignedPermutation.identity(len(a[name]))
        for suffix, compared in pairs.items():
            agreements = [_chosen(compare_lists(x[name], y[name], same, k, kind.signed)) for x, y in compared]
            for metric in agreements[0]:
                value = fmean(agreement[metric] for agreement in agreements)
                rows.append({"list": name, "metric": f"{metric}_{suffix}", "value": value})
    return rows


def _chosen(agreement: dict[str, float]) -> dict[str, float]:
    return {metric: agreement[metric] for metric in METRICS if metric in agreement}


def _lists(planted: str) -> list[str]:
    """Return the names of the lists that this kind of gauge moves."""
    if planted not in SPACE_MOVED_BY:
        raise ValueError(f"planted={planted!r}; allowed: {', '.join(SPACE_MOVED_BY)}")
    return [name for name, kind in LISTS.items() if kind.space == SPACE_MOVED_BY[planted]]
