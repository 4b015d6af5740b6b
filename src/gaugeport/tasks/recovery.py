"""Gauge recovery: how many coordinates a group, matcher and route place correctly, against planted gauges (a3, c2)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import fmean, stdev
from typing import Any

import torch

from gaugeport.align import DEFAULT_MATCHER
from gaugeport.groups import GROUPS, Element, Orthogonal, SignedPermutation, contains
from gaugeport.matchers import Match, match
from gaugeport.routes import Node, compose_along, loop, walk
from gaugeport.tasks.planted import PlantedEvidence, further_plants, replant, replanted_truth

Row = dict[str, Any]


def recovery(
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
    _check_group(group, _plant_group(evidence))
    rows: list[Row] = []
    for kind, site, label in _kinds(evidence, matcher):
        solver = _Solver(evidence, group, matcher, kind, seed)
        n_plants = plants if _depends_on_plant(group, matcher, _plant_group(evidence)) else 1
        for step in steps:
            nodes = walk(route, step, spacing)
            scores = [score(*solver.gauge_and_truth(nodes, plant)) for plant in range(n_plants)]
            where = {"evidence": label, "site": site, "step": step}
            rows += [{**where, "metric": m, "value": v} for m, v in _summary(scores, n_plants)]
            if route == "endpoint":
                rows += [{**where, "metric": m, "value": v} for m, v in solver.margins(nodes)]
        if route == "trajectory" and matcher not in ("oracle", "none"):
            there_and_back, truth = solver.gauge_and_truth(loop(steps[-1], spacing), 0)
            where = {"evidence": label, "site": site, "step": steps[-1]}
            share = score(there_and_back, truth).get("signed_accuracy")
            if share is not None:  # a share of coordinates: planted rotations have none
                rows.append({**where, "metric": "loop_consistency", "value": share})
    return rows


def score(gauge: Element, truth: Element) -> dict[str, float]:
    """How a recovered gauge compares with the true one; metrics as :func:`recovery` names them.

    A rotation is read as a signed permutation by its largest entry per row; against a true rotation only
    ``rotation_error`` is defined.
    """
    found: dict[str, float] = {}
    if isinstance(gauge, Orthogonal) or isinstance(truth, Orthogonal):
        found["rotation_error"] = float((gauge.dense() - truth.dense()).norm()) / (2 * gauge.size) ** 0.5  # type: ignore[attr-defined]
    if not isinstance(truth, SignedPermutation):
        return found
    perm, sign = _read(gauge)
    index = perm == truth.perm
    signed = index & (sign == truth.sign)
    found["index_accuracy"] = float(index.float().mean())
    found["signed_accuracy"] = float(signed.float().mean())
    if bool(index.any()):
        found["sign_accuracy"] = float(signed.sum() / index.sum())
    return found


class _Solver:
    """Local gauges of links, matched once each and reused by every walk that crosses them."""

    def __init__(self, evidence: PlantedEvidence, group: str, matcher: str, kind: str, seed: int):
        self.evidence, self.group, self.matcher, self.kind, self.seed = evidence, group, matcher, kind, seed
        self._known: dict[tuple[int, Node, Node], Match] = {}

    def gauge_and_truth(self, nodes: Sequence[Node], plant: int) -> tuple[Element, Element]:
        group = "signed_permutation" if self.group == "identity" else self.group
        planted = _plant_group(self.evidence)
        plants = further_plants(self.evidence.width, planted, nodes, self.seed, plant)
        truth = replanted_truth(self.evidence.truth(nodes), plants[nodes[0]], plants[nodes[-1]])
        if self.matcher == "oracle":
            return truth, truth
        if self.matcher == "none":
            return SignedPermutation.identity(self.evidence.width), truth

        def local(a: Node, b: Node) -> Element:
            if (plant, a, b) not in self._known:
                matcher = DEFAULT_MATCHER.get(group, "weights") if self.matcher == "weights" else self.matcher
                c = self.evidence.between(a, b, self.kind, cross=matcher == "procrustes")
                self._known[plant, a, b] = match(replant(c, plants[a], plants[b]), group, matcher)
            return self._known[plant, a, b].gauge

        return compose_along(nodes, local), truth

    def margins(self, link: Sequence[Node]) -> Iterator[tuple[str, float]]:
        """Mean margin of a direct link's coordinates, those placed rightly and those placed wrongly apart."""
        gauge, truth = self.gauge_and_truth(link, 0)
        found = self._known.get((0, link[0], link[1]))
        if found is None or not isinstance(truth, SignedPermutation):
            return
        right = _read(gauge)[0] == truth.perm
        for name, which in (("margin_right", right), ("margin_wrong", ~right)):
            if bool(which.any()):
                yield name, float(found.margin[which].mean())


def _check_group(group: str, exact: str) -> None:
    cls = GROUPS.get(group)
    if cls is not None and issubclass(cls, SignedPermutation) and not contains(exact, cls):
        raise ValueError(
            f"gauge={group} is larger than this model's exact gauge group {exact}; allowed: "
            f"{', '.join(g for g in DEFAULT_MATCHER if contains(exact, GROUPS[g]))}, orthogonal, identity"
        )


def _plant_group(evidence: PlantedEvidence) -> str:
    return next(iter(evidence.plants.values())).group


def _kinds(evidence: PlantedEvidence, matcher: str) -> Iterator[tuple[str, str, str]]:
    """(kind, site column, evidence column) of everything a matcher can be measured on."""
    if matcher in ("oracle", "none"):
        yield "", "", ""
    elif matcher == "weights":
        yield "weights", "", "weights"
        yield "weights_all_rows", "", "weights_all_rows"
    else:
        yield from ((site, site, "site") for site in evidence.sites)
        yield "pooled", "", "pooled"
        yield "both", "", "both"


def _depends_on_plant(group: str, matcher: str, planted: str) -> bool:
    if group == "global_sign_permutation":
        return planted == "signed_permutation"
    return group == "permutation" or (group == "signed_permutation" and matcher == "hungarian_raw")


def _summary(scores: Sequence[dict[str, float]], n_plants: int) -> Iterator[tuple[str, float]]:
    for metric in dict.fromkeys(m for s in scores for m in s):
        values = [s[metric] for s in scores if metric in s]
        yield metric, fmean(values)
        if n_plants > 1:
            yield f"{metric}_plants_sd", stdev(values) if len(values) > 1 else 0.0


def _read(gauge: Element) -> tuple[torch.Tensor, torch.Tensor]:
    if isinstance(gauge, SignedPermutation):
        return gauge.perm, gauge.sign
    assert isinstance(gauge, Orthogonal)
    perm = gauge.matrix.abs().argmax(1)
    return perm, torch.where(gauge.matrix[torch.arange(gauge.size), perm] < 0, -1, 1).to(torch.int8)
