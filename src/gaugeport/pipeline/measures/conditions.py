"""One arm of an experiment: a (group, matcher) on one kind of evidence, and the gauges it recovers.

Every checkpoint carries a planted random gauge, so the truth is known. What an arm gets wrong is its *residual*
``r = q_B⁻¹ ∘ ĝ ∘ q_A``: the recovered gauge in the coordinates the runs really share, the identity for a perfect one.
Moving an object from A to B by ĝ in planted coordinates is the same as moving it by r in the runs' own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import fmean, stdev
from typing import Any, Protocol

import torch
from torch import Tensor

from gaugeport.alignment.matchers import MATCHERS, Match, Matcher, check_combination, default_matchers, match
from gaugeport.alignment.routes import Node, compose_along
from gaugeport.groups import GROUPS, Element, Orthogonal, SignedPermutation, compose, contains
from gaugeport.pipeline.measures.planted_evidence import (
    further_plants,
    node_name,
    relabel_evidence,
    replanted_truth,
)

CONTROLS = ("oracle", "none")
"""Matchers that look at no evidence: the planted gauge itself, and no gauge at all."""


class Evidence(Protocol):
    """Evidence between planted checkpoints: :class:`~gaugeport.pipeline.measures.planted_evidence.PlantedEvidence` or ``SelfEvidence``."""

    plants: dict[str, Element]

    @property
    def width(self) -> int: ...
    def truth(self, nodes: Sequence[Node]) -> Element: ...
    def between(self, a: Node, b: Node, kind: str, cross: bool = False) -> Tensor: ...


class Condition:
    """Local gauges of links, matched once each and reused by every walk that crosses them.

    ``kind`` is a site, ``pooled``, ``weights``, ``weights_all_rows`` or ``both``. ``plant`` 0 is the gauge planted on
    the checkpoints; others put an independent draw on top, which costs a relabelling of the evidence.
    """

    def __init__(self, evidence: Evidence, group: str, matcher: str, kind: str, seed: int):
        self.evidence, self.group, self.matcher, self.kind, self.seed = evidence, group, matcher, kind, seed
        self._known: dict[tuple[int, Node, Node], Match] = {}

    def gauge_and_truth(self, nodes: Sequence[Node], plant: int) -> tuple[Element, Element]:
        """The recovered gauge of a walk, and the true one."""
        plants = self._further(nodes, plant)
        truth = replanted_truth(self.evidence.truth(nodes), plants[nodes[0]], plants[nodes[-1]])
        if self.matcher == "oracle":
            return truth, truth
        if self.matcher == "none":
            return GROUPS[plant_group(self.evidence)].identity(self.evidence.width), truth
        return compose_along(nodes, lambda a, b: self.local(a, b, plant).gauge), truth

    def residual(self, nodes: Sequence[Node], plant: int) -> Element:
        """``q_B⁻¹ ∘ ĝ ∘ q_A`` of a walk from A to B, q being everything planted on its ends."""
        gauge, _ = self.gauge_and_truth(nodes, plant)
        further = self._further(nodes, plant)
        first, last = (compose(further[n], self.evidence.plants[node_name(n)]) for n in (nodes[0], nodes[-1]))
        return compose(last.inverse(), compose(gauge, first))

    def local(self, a: Node, b: Node, plant: int = 0) -> Match:
        """The match of one link, from a to b."""
        if (plant, a, b) not in self._known:
            group = "signed_permutation" if self.group == "identity" else self.group
            matcher = matcher_that_runs(group, self.matcher)
            c = self.evidence.between(a, b, self.kind, cross=matcher.reads_cross_moments)
            plants = self._further((a, b), plant)
            self._known[plant, a, b] = match(relabel_evidence(c, plants[a], plants[b]), group, matcher.name)
        return self._known[plant, a, b]

    @property
    def depends_on_plant(self) -> bool:
        """Whether the result varies over plants: where signs are not matched. Elsewhere matching is equivariant."""
        if self.group == "identity":
            return True
        name = "weights" if self.matcher in CONTROLS else self.matcher
        if self.group not in matcher_that_runs(self.group, name).depends_on_signs:
            return False
        return self.group != "global_sign_permutation" or plant_group(self.evidence) == "signed_permutation"

    def _further(self, nodes: Sequence[Node], plant: int) -> dict[Node, Element]:
        return further_plants(self.evidence.width, plant_group(self.evidence), nodes, self.seed, plant)


def gauge_accuracy(gauge: Element, truth: Element) -> dict[str, float]:
    """How a recovered gauge compares with the true one; metrics as :func:`~gaugeport.pipeline.measures.recovery.recovery_rows` names them.

    A rotation is read as a signed permutation by its largest entry per row; against a true rotation only
    ``rotation_error`` is defined.
    """
    found: dict[str, float] = {}
    if isinstance(gauge, Orthogonal) or isinstance(truth, Orthogonal):
        found["rotation_error"] = float((gauge.dense() - truth.dense()).norm()) / (2 * gauge.size) ** 0.5
    if not isinstance(truth, SignedPermutation):
        return found
    perm, sign = as_signed_permutation(gauge)
    index = perm == truth.perm
    signed = index & (sign == truth.sign)
    found["index_accuracy"] = float(index.float().mean())
    found["signed_accuracy"] = float(signed.float().mean())
    if bool(index.any()):
        found["sign_accuracy"] = float(signed.sum() / index.sum())
    return found


def mean_over_plants(found: Sequence[dict[str, float]]) -> Iterator[tuple[str, float]]:
    """``(metric, mean over the plants that have it)``, and ``(metric_plants_sd, spread)`` where there are several."""
    for metric in dict.fromkeys(m for f in found for m in f):
        values = [f[metric] for f in found if metric in f]
        yield metric, fmean(values)
        if len(values) > 1:
            yield f"{metric}_plants_sd", stdev(values)


def as_signed_permutation(gauge: Element) -> tuple[Tensor, Tensor]:
    """``(perm, sign)`` of an element; of a rotation the place and sign of the largest entry of each row."""
    if isinstance(gauge, SignedPermutation):
        return gauge.perm, gauge.sign
    assert isinstance(gauge, Orthogonal)
    perm = gauge.matrix.abs().argmax(1)
    return perm, torch.where(gauge.matrix[torch.arange(gauge.size), perm] < 0, -1, 1).to(torch.int8)


def matcher_that_runs(group: str, name: str) -> Matcher:
    """Return the matcher behind a config's name: for weights, the group's default one.

    Raises ``ValueError`` for a pair that is not valid.
    """
    name = default_matchers().get(group, name) if name == "weights" else name
    check_combination(group, name)
    return MATCHERS[name]


def plant_group(evidence: Evidence) -> str:
    """The group the planted gauges were drawn from: the models' exact one."""
    return next(iter(evidence.plants.values())).group


def check_group(group: str, exact: str) -> None:
    """Raise ``ValueError`` for a permutation group that is larger than the models' exact one."""
    cls: Any = GROUPS.get(group)
    if cls is not None and issubclass(cls, SignedPermutation) and not contains(exact, cls):
        raise ValueError(
            f"gauge={group} is larger than this model's exact gauge group {exact}; allowed: "
            f"{', '.join(g for g in default_matchers() if contains(exact, GROUPS[g]))} (each with a matcher of its own, "
            "hungarian_raw on a LayerNorm chart), identity, and orthogonal as a fit that is no gauge"
        )
