"""Are margins calibrated? Accuracy among the coordinates kept in order of their margin, against the share kept (c3)."""

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
    """Rows of one (group, matcher, route) at ``step``, for each kind of evidence, all of :func:`calibration`'s metrics.

    Where the result depends on the plant's signs, means over ``plants`` plants with ``…_plants_sd``.

    Raises ``ValueError`` for the controls (they match nothing), for rotations (they place no coordinate), and for a
    group larger than the models' exact one.
    """
    check_group(group, plant_group(evidence))
    if matcher in CONTROLS or not matcher_that_runs(group, matcher).margins_are_scores:
        pairs = [(g, m) for g, m in combinations() if MATCHERS[m].margins_are_scores]
        raise ValueError(
            f"gauge={group} with matcher={matcher} has no margin per placed coordinate; allowed: weights in a "
            f"permutation group, or {'; '.join(f'{g} with {m}' for g, m in pairs)}"
        )
    nodes, rows = walk(route, step, spacing), []
    for kind in kinds:
        arm = Condition(evidence, group, matcher, kind, seed)
        placed = [
            placements_and_margins(arm, nodes, plant)
            for plant in range(plants if arm.depends_on_plant else 1)
        ]
        at_site = kind == "embed" or kind.startswith("block")
        where = {"evidence": "site" if at_site else kind, "site": kind if at_site else "", "step": step}
        curves = [accuracy_by_share_kept(*p) for p in placed]
        for name in ("kept_accuracy", "threshold"):
            for share in SHARES:
                found = [{name: c[share][name]} for c in curves]
                rows += [
                    {**where, "kept": share, "metric": m, "value": v} for m, v in mean_over_plants(found)
                ]
        rows += [
            {**where, "metric": m, "value": v} for m, v in mean_over_plants([calibration(*p) for p in placed])
        ]
    return rows


def placements_and_margins(arm: Condition, nodes: Sequence[Node], plant: int) -> tuple[Tensor, Tensor]:
    """``(right bool[d], margin float64[d])`` of the coordinates of a walk's last node.

    ``right`` wants index and sign. The margin of a walk is the smallest on a coordinate's way, as in ``align_along``.
    """
    gauge, truth = arm.gauge_and_truth(nodes, plant)
    assert isinstance(gauge, SignedPermutation) and isinstance(truth, SignedPermutation)
    margin: Tensor | None = None
    for a, b in pairwise(nodes):
        link = arm.local(a, b, plant)
        assert isinstance(link.gauge, SignedPermutation)
        margin = link.margin if margin is None else torch.minimum(margin[link.gauge.perm], link.margin)
    assert margin is not None
    return (gauge.perm == truth.perm) & (gauge.sign == truth.sign), margin


def accuracy_by_share_kept(right: Tensor, margin: Tensor) -> dict[float, dict[str, float]]:
    """Share kept -> ``kept_accuracy``, the share of right placements among the coordinates of largest margin, and
    ``threshold``, the smallest margin among them: what to pass as ``align(abstain=…)`` to keep that share."""
    order = margin.argsort(descending=True, stable=True)
    found = {}
    for share in SHARES:
        kept = order[: max(1, round(share * len(order)))]
        accuracy = float(right[kept].double().mean())
        found[share] = {"kept_accuracy": accuracy, "threshold": float(margin[kept[-1]])}
    return found


def calibration(right: Tensor, margin: Tensor) -> dict[str, float]:
    """How well the order of margins sorts right placements before wrong ones.

    ``area_under_curve``: accuracy among the m coordinates of largest margin, averaged over m = 1 … d (one minus the
    area under the risk-coverage curve); ``area_random`` what a random order is expected to give, flat at the overall
    accuracy; ``area_best`` what the best order gives, all right ones first; ``area_gain`` the first minus the second.
    ``top_half_gain``: accuracy of the upper half minus that of all. ``margin_auroc``: the chance that a right
    placement has a larger margin than a wrong one, ties counting half; left out where all or none are right.
    """
    d, n_right = len(right), int(right.sum())
    ordered = right[margin.argsort(descending=True, stable=True)].double()
    counts = torch.arange(1, d + 1, dtype=torch.float64)
    area = float((ordered.cumsum(0) / counts).mean())
    found = {
        "area_under_curve": area,
        "area_random": n_right / d,
        "area_best": float((counts.clamp(max=n_right) / counts).mean()),
        "area_gain": area - n_right / d,
        "top_half_gain": float(ordered[: max(1, d // 2)].mean()) - n_right / d,
    }
    if 0 < n_right < d:
        above = margin[right, None] - margin[None, ~right]
        found["margin_auroc"] = float((above > 0).double().mean() + 0.5 * (above == 0).double().mean())
    return found
