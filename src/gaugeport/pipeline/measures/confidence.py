"""Measure whether margins are calibrated: accuracy among coordinates with the largest margins (table c3)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from gaugeport.alignment.matchers import MATCHERS, combinations
from gaugeport.alignment.routes import Node, walk
from gaugeport.groups import SignedPermutation
from gaugeport.pipeline.measures.conditions import (
    CONTROLS,
    Condition,
    Evidence,
    check_group,
    matcher_that_runs,
    mean_over_plants,
    plant_group,
)

Row = dict[str, Any]

SHARES = tuple(i / 10 for i in range(1, 11))
"""Shares of the coordinates to keep, those with the largest margins."""


def confidence_rows(
    evidence: Evidence,
    kinds: Iterable[str],
    *,
    group: str,
    matcher: str,
    route: str,
    step: int,
    spacing: int,
    plants: int,
    seed: int,
) -> list[Row]:
    """Measure how well margins sort right placements before wrong ones, for one (group, matcher, route).

    The metrics are those of :func:`accuracy_by_share_kept` (in rows with ``kept``) and of
    :func:`calibration`. Where the result depends on the signs of the plant, a metric is the mean over
    ``plants`` plants, and ``…_plants_sd`` is its standard deviation.

    Args:
        evidence: evidence between the planted checkpoints.
        kinds: kinds of evidence to match on, as in ``Condition``.
        group: the gauge group to match in.
        matcher: the name of a matcher with margins.
        route: ``endpoint``, ``via_base`` or ``trajectory``.
        step: the step to measure at.
        spacing: steps between the checkpoints of a trajectory.
        plants: number of plants to average over where the result depends on them.
        seed: seed of the further plants.

    Returns:
        Rows ``{evidence, site, step, metric, value}``, some with ``kept``, the share of coordinates kept.

    Raises:
        ValueError: the matcher is a control (which matches nothing), the matcher or the group is one of
            rotations (which place no coordinate), or the group is larger than the models' exact one.
    """
    check_group(group, plant_group(evidence))
    if matcher in CONTROLS or not matcher_that_runs(group, matcher).margins_are_scores:
        pairs = [(g, m) for g, m in combinations() if MATCHERS[m].margins_are_scores]
        raise ValueError(
            f"gauge={group} with matcher={matcher} has no margin per placed coordinate; allowed: weights in "
            f"a permutation group, or {'; '.join(f'{g} with {m}' for g, m in pairs)}"
        )
    nodes, rows = walk(route, step, spacing), []
    for kind in kinds:
        condition = Condition(evidence, group, matcher, kind, seed)
        n_plants = plants if condition.depends_on_plant else 1
        placed = [placements_and_margins(condition, nodes, plant) for plant in range(n_plants)]
        at_site = kind == "embed" or kind.startswith("block")
        where = {"evidence": "site" if at_site else kind, "site": kind if at_site else "", "step": step}
        curves = [accuracy_by_share_kept(*p) for p in placed]
        for name in ("kept_accuracy", "threshold"):
            for share in SHARES:
                at_share = {**where, "kept": share}
                means = mean_over_plants([{name: curve[share][name]} for curve in curves])
                rows += [{**at_share, "metric": metric, "value": value} for metric, value in means]
        means = mean_over_plants([calibration(*p) for p in placed])
        rows += [{**where, "metric": metric, "value": value} for metric, value in means]
    return rows


def placements_and_margins(condition: Condition, nodes: Sequence[Node], plant: int) -> tuple[Tensor, Tensor]:
    """Return which coordinates a walk places correctly, and their margins.

    Args:
        condition: the group, matcher and evidence.
        nodes: the walk.
        plant: the number of the plant.

    Returns:
        ``(right bool[d], margin float64[d])``, indexed by the coordinates of the last node. ``right``
        requires both index and sign. A margin is the smallest of the links on the way of its coordinate, as
        in ``align_along``.
    """
    gauge, truth = condition.gauge_and_truth(nodes, plant)
    assert isinstance(gauge, SignedPermutation) and isinstance(truth, SignedPermutation)
    margin: Tensor | None = None
    for a, b in pairwise(nodes):
        link = condition.local(a, b, plant)
        assert isinstance(link.gauge, SignedPermutation)
        margin = link.margin if margin is None else torch.minimum(margin[link.gauge.perm], link.margin)
    assert margin is not None
    return (gauge.perm == truth.perm) & (gauge.sign == truth.sign), margin


def accuracy_by_share_kept(right: Tensor, margin: Tensor) -> dict[float, dict[str, float]]:
    """Measure accuracy among the coordinates with the largest margins.

    Args:
        right: bool[d], which coordinates are placed correctly.
        margin: float[d], their margins.

    Returns:
        share kept -> ``kept_accuracy``, the share of right placements among the coordinates kept, and
        ``threshold``, their smallest margin (pass it as ``align(abstain=…)`` to keep that share).
    """
    order = margin.argsort(descending=True, stable=True)
    by_share = {}
    for share in SHARES:
        kept = order[: max(1, round(share * len(order)))]
        accuracy = float(right[kept].double().mean())
        by_share[share] = {"kept_accuracy": accuracy, "threshold": float(margin[kept[-1]])}
    return by_share


def calibration(right: Tensor, margin: Tensor) -> dict[str, float]:
    """Measure how well the order of margins sorts right placements before wrong ones.

    Args:
        right: bool[d], which coordinates are placed correctly.
        margin: float[d], their margins.

    Returns:
        ``area_under_curve``: accuracy among the m coordinates with the largest margins, averaged over m = 1 …
            d (one minus the area under the risk-coverage curve).
        ``area_random``: its expectation for a random order, the overall accuracy.
        ``area_best``: its value for the best order, all right placements first.
        ``area_gain``: ``area_under_curve`` minus ``area_random``.
        ``top_half_gain``: accuracy of the half with the larger margins minus the overall accuracy.
        ``margin_auroc``: the probability that a right placement has a larger margin than a wrong one, where
            ties count one half; left out where all placements or none are right.
    """
    d, n_right = len(right), int(right.sum())
    ordered = right[margin.argsort(descending=True, stable=True)].double()
    counts = torch.arange(1, d + 1, dtype=torch.float64)
    area = float((ordered.cumsum(0) / counts).mean())
    metrics = {
        "area_under_curve": area,
        "area_random": n_right / d,
        "area_best": float((counts.clamp(max=n_right) / counts).mean()),
        "area_gain": area - n_right / d,
        "top_half_gain": float(ordered[: max(1, d // 2)].mean()) - n_right / d,
    }
    if 0 < n_right < d:
        above = margin[right, None] - margin[None, ~right]
        metrics["margin_auroc"] = float((above > 0).double().mean() + 0.5 * (above == 0).double().mean())
    return metrics
