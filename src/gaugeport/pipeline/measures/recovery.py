"""Measure gauge recovery: how many coordinates a group, matcher and route place correctly (tables a3, c2)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import fmean, stdev
from typing import Any

from gaugeport.alignment.routes import Node, loop, walk
from gaugeport.groups import SignedPermutation
from gaugeport.pipeline.measures.conditions import (
    CONTROLS,
    Condition,
    as_signed_permutation,
    check_group,
    gauge_accuracy,
    plant_group,
)
from gaugeport.pipeline.measures.planted_evidence import PlantedEvidence

Row = dict[str, Any]


def recovery_rows(
    evidence: PlantedEvidence,
    *,
    group: str,
    matcher: str,
    route: str,
    steps: Sequence[int],
    spacing: int,
    plants: int,
    seed: int,
) -> list[Row]:
    """Compare recovered gauges with the planted ones, for one (group, matcher, route).

    Metrics, as shares of coordinates:
        ``index_accuracy``: right partner.
        ``signed_accuracy``: right partner and sign (the headline metric of B_d).
        ``sign_accuracy``: right sign, among coordinates with the right partner.
        ``loop_consistency``: signed accuracy of a loop that must compose to the identity (route
            ``trajectory``).
    Other metrics:
        ``rotation_error``: ‖Q − Q*‖ / √(2d), for rotations only.
        ``margin_right``, ``margin_wrong``: mean margin of rightly and of wrongly placed coordinates (route
        ``endpoint``).
    Where the result depends on the signs of the plant (S_d, raw matching), a metric is the mean over
    ``plants`` plants, and ``…_plants_sd`` is its standard deviation. Elsewhere matching is equivariant, and
    one plant suffices.

    Args:
        evidence: evidence between the planted checkpoints.
        group: the gauge group to match in.
        matcher: the name of a matcher, or a control.
        route: ``endpoint``, ``via_base`` or ``trajectory``.
        steps: the steps to measure at, ascending.
        spacing: steps between the checkpoints of a trajectory.
        plants: number of plants to average over where the result depends on them.
        seed: seed of the further plants.

    Returns:
        Rows ``{evidence, site, step, metric, value}``.

    Raises:
        ValueError: the group is a permutation group larger than the models' exact one (B_d on a LayerNorm
            model): its further elements change what the model computes. Rotations are allowed, as a
            comparison.
    """
    check_group(group, plant_group(evidence))
    rows: list[Row] = []
    for kind, site, label in _kinds(evidence, matcher):
        condition = Condition(evidence, group, matcher, kind, seed)
        n_plants = plants if condition.depends_on_plant and matcher not in CONTROLS else 1
        for step in steps:
            nodes = walk(route, step, spacing)
            scores = [gauge_accuracy(*condition.gauge_and_truth(nodes, plant)) for plant in range(n_plants)]
            where = {"evidence": label, "site": site, "step": step}
            rows += [{**where, "metric": m, "value": v} for m, v in _summary(scores, n_plants)]
            if route == "endpoint":
                rows += [{**where, "metric": m, "value": v} for m, v in _margins(condition, nodes)]
        if route == "trajectory" and matcher not in CONTROLS:
            there_and_back, truth = condition.gauge_and_truth(loop(steps[-1], spacing), 0)
            where = {"evidence": label, "site": site, "step": steps[-1]}
            share = gauge_accuracy(there_and_back, truth).get("signed_accuracy")
            if share is not None:  # planted rotations have no share of coordinates
                rows.append({**where, "metric": "loop_consistency", "value": share})
    return rows


def _margins(condition: Condition, link: Sequence[Node]) -> Iterator[tuple[str, float]]:
    """Yield the mean margin of the rightly and of the wrongly placed coordinates of a direct link."""
    gauge, truth = condition.gauge_and_truth(link, 0)
    if condition.matcher in CONTROLS or not isinstance(truth, SignedPermutation):
        return
    right = as_signed_permutation(gauge)[0] == truth.perm
    for name, which in (("margin_right", right), ("margin_wrong", ~right)):
        if bool(which.any()):
            yield name, float(condition.local(link[0], link[1]).margin[which].mean())


def _kinds(evidence: PlantedEvidence, matcher: str) -> Iterator[tuple[str, str, str]]:
    """Yield (kind of evidence, value of the site column, value of the evidence column) for a matcher."""
    if matcher in CONTROLS:
        yield "", "", ""
    elif matcher == "weights":
        yield "weights", "", "weights"
        yield "weights_all_rows", "", "weights_all_rows"
    else:
        yield from ((site, site, "site") for site in evidence.sites)
        yield "pooled", "", "pooled"
        yield "both", "", "both"


def _summary(scores: Sequence[dict[str, float]], n_plants: int) -> Iterator[tuple[str, float]]:
    """Average over plants. The standard deviation of several plants is 0 where one of them has the metric."""
    for metric in dict.fromkeys(m for s in scores for m in s):
        values = [s[metric] for s in scores if metric in s]
        yield metric, fmean(values)
        if n_plants > 1:
            yield f"{metric}_plants_sd", stdev(values) if len(values) > 1 else 0.0
