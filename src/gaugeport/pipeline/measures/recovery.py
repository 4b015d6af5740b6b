"""Gauge recovery: how many coordinates a group, matcher and route place correctly, against planted gauges (a3, c2)."""

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
    """Rows ``{evidence, site, step, metric, value}`` of one (group, matcher, route).

    Metrics, as shares of coordinates: ``index_accuracy`` (right partner), ``signed_accuracy`` (right partner and sign:
    the headline for B_d), ``sign_accuracy`` (right sign among right partners); for rotations ``rotation_error``
    ‖Q−Q*‖/√(2d). Where the result depends on the plant's signs (S_d, raw matching) every metric is the mean over
    ``plants`` plants and ``…_plants_sd`` their spread; elsewhere matching is equivariant and one plant says all.
    At the endpoint also ``margin_right`` and ``margin_wrong``: the mean margin of rightly and wrongly placed coordinates.

    Raises ``ValueError`` for a permutation group larger than the chart's exact one (B_d on a LayerNorm model): its
    further elements change what the model computes. Rotations are fitted all the same, as the comparison they are.
    """
    check_group(group, plant_group(evidence))
    rows: list[Row] = []
    for kind, site, label in _kinds(evidence, matcher):
        arm = Condition(evidence, group, matcher, kind, seed)
        n_plants = plants if arm.depends_on_plant and matcher not in CONTROLS else 1
        for step in steps:
            nodes = walk(route, step, spacing)
            scores = [gauge_accuracy(*arm.gauge_and_truth(nodes, plant)) for plant in range(n_plants)]
            where = {"evidence": label, "site": site, "step": step}
            rows += [{**where, "metric": m, "value": v} for m, v in _summary(scores, n_plants)]
            if route == "endpoint":
                rows += [{**where, "metric": m, "value": v} for m, v in _margins(arm, nodes)]
        if route == "trajectory" and matcher not in CONTROLS:
            there_and_back, truth = arm.gauge_and_truth(loop(steps[-1], spacing), 0)
            where = {"evidence": label, "site": site, "step": steps[-1]}
            share = gauge_accuracy(there_and_back, truth).get("signed_accuracy")
            if share is not None:  # a share of coordinates: planted rotations have none
                rows.append({**where, "metric": "loop_consistency", "value": share})
    return rows


def _margins(arm: Condition, link: Sequence[Node]) -> Iterator[tuple[str, float]]:
    """Mean margin of a direct link's coordinates, those placed rightly and those placed wrongly apart."""
    gauge, truth = arm.gauge_and_truth(link, 0)
    if arm.matcher in CONTROLS or not isinstance(truth, SignedPermutation):
        return
    right = as_signed_permutation(gauge)[0] == truth.perm
    for name, which in (("margin_right", right), ("margin_wrong", ~right)):
        if bool(which.any()):
            yield name, float(arm.local(link[0], link[1]).margin[which].mean())


def _kinds(evidence: PlantedEvidence, matcher: str) -> Iterator[tuple[str, str, str]]:
    """(kind, site column, evidence column) of everything a matcher can be measured on."""
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
    for metric in dict.fromkeys(m for s in scores for m in s):
        values = [s[metric] for s in scores if metric in s]
        yield metric, fmean(values)
        if n_plants > 1:
            yield f"{metric}_plants_sd", stdev(values) if len(values) > 1 else 0.0
