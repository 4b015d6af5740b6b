"""Recover gauges under one condition of an experiment: a group and a matcher on one kind of evidence.

A random gauge q is planted on every checkpoint, so the true gauge between two checkpoints is known. The
*residual* ``r = q_B⁻¹ ∘ ĝ ∘ q_A`` is the error of the recovered gauge ĝ, in the coordinates that the two runs
really share; it is the identity where ĝ is right. Moving an object from A to B by ĝ in planted coordinates is
the same as moving it by r in shared coordinates.
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
from gaugeport.pipeline.measures.planted_evidence import relabel_evidence, replanted_truth
from gaugeport.pipeline.measures.plants import further_plants, node_name

CONTROLS = ("oracle", "none")
"""Matchers that read no evidence: ``oracle`` returns the planted gauge, ``none`` the identity."""


class Evidence(Protocol):
    """Evidence between planted checkpoints: ``PlantedEvidence`` (two runs) or ``SelfEvidence`` (a copy)."""

    plants: dict[str, Element]
    """Name of a checkpoint -> the gauge planted on it."""
    positive_share: float
    """Expected share of positive signs of the true gauge from A to B."""

    @property
    def width(self) -> int: ...
    def truth(self, nodes: Sequence[Node]) -> Element: ...
    def massive_rows(self) -> list[dict[str, Any]]: ...
    def between(self, a: Node, b: Node, kind: str, cross: bool = False) -> Tensor: ...


class Condition:
    """A (group, matcher) on one kind of evidence.

    Each link is matched once; walks that cross it reuse the match. Every method takes a ``plant``: 0 is the
    gauge planted on the checkpoints, other numbers plant an independent draw on top, by relabelling the
    evidence.
    """

    def __init__(self, evidence: Evidence, group: str, matcher: str, kind: str, seed: int):
        """Store the condition; nothing is matched yet.

        Args:
            evidence: evidence between the planted checkpoints.
            group: a group of ``GROUPS``, or ``identity`` (matched as a signed permutation).
            matcher: the name of a matcher, or one of ``CONTROLS``.
            kind: which evidence to read: a site, ``pooled``, ``weights``, ``weights_all_rows`` or ``both``.
            seed: seed of the further plants.
        """
        self.evidence, self.group, self.matcher, self.kind, self.seed = evidence, group, matcher, kind, seed
        self._matches: dict[tuple[int, Node, Node], Match] = {}

    def gauge_and_truth(self, nodes: Sequence[Node], plant: int) -> tuple[Element, Element]:
        """Return the recovered gauge of a walk, and the true one."""
        plants = self._further(nodes, plant)
        truth = replanted_truth(self.evidence.truth(nodes), plants[nodes[0]], plants[nodes[-1]])
        if self.matcher == "oracle":
            return truth, truth
        if self.matcher == "none":
            return GROUPS[plant_group(self.evidence)].identity(self.evidence.width), truth
        return compose_along(nodes, lambda a, b: self.local(a, b, plant).gauge), truth

    def residual(self, nodes: Sequence[Node], plant: int) -> Element:
        """Return ``q_B⁻¹ ∘ ĝ ∘ q_A`` of a walk from A to B, where q is everything planted on a checkpoint."""
        gauge, _ = self.gauge_and_truth(nodes, plant)
        further = self._further(nodes, plant)
        first, last = (compose(further[n], self.evidence.plants[node_name(n)]) for n in (nodes[0], nodes[-1]))
        return compose(last.inverse(), compose(gauge, first))

    def local(self, a: Node, b: Node, plant: int = 0) -> Match:
        """Return the match of the link from ``a`` to ``b``."""
        if (plant, a, b) not in self._matches:
            group = "signed_permutation" if self.group == "identity" else self.group
            matcher = matcher_that_runs(group, self.matcher)
            c = self.evidence.between(a, b, self.kind, cross=matcher.reads_cross_moments)
            plants = self._further((a, b), plant)
            self._matches[plant, a, b] = match(relabel_evidence(c, plants[a], plants[b]), group, matcher.name)
        return self._matches[plant, a, b]

    @property
    def depends_on_plant(self) -> bool:
        """Whether the result varies over plants: only where signs are not matched."""
        if self.group == "identity":
            return True
        name = "weights" if self.matcher in CONTROLS else self.matcher
        if self.group not in matcher_that_runs(self.group, name).depends_on_signs:
            return False
        return self.group != "global_sign_permutation" or plant_group(self.evidence) == "signed_permutation"

    def _further(self, nodes: Sequence[Node], plant: int) -> dict[Node, Element]:
        e = self.evidence
        return further_plants(
            e.width, plant_group(e), nodes, self.seed, plant, e.positive_share, planted=e.plants
        )


def gauge_accuracy(gauge: Element, truth: Element) -> dict[str, float]:
    """Compare a recovered gauge with the true one.

    A rotation is read as a signed permutation by the largest entry of each row.

    Args:
        gauge: the recovered gauge.
        truth: the true gauge, of the same width.

    Returns:
        metric -> value: ``index_accuracy``, ``signed_accuracy`` and ``sign_accuracy`` (shares of coordinates,
        see ``recovery_rows``), where the truth is a signed permutation; ``rotation_error`` where either is a
        rotation.
    """
    accuracy: dict[str, float] = {}
    if isinstance(gauge, Orthogonal) or isinstance(truth, Orthogonal):
        accuracy["rotation_error"] = float((gauge.dense() - truth.dense()).norm()) / (2 * gauge.size) ** 0.5
    if not isinstance(truth, SignedPermutation):
        return accuracy
    perm, sign = as_signed_permutation(gauge)
    index_right = perm == truth.perm
    both_right = index_right & (sign == truth.sign)
    accuracy["index_accuracy"] = float(index_right.float().mean())
    accuracy["signed_accuracy"] = float(both_right.float().mean())
    if bool(index_right.any()):
        accuracy["sign_accuracy"] = float(both_right.sum() / index_right.sum())
    return accuracy


def mean_over_plants(metrics: Sequence[dict[str, float]]) -> Iterator[tuple[str, float]]:
    """Average metrics over plants.

    Args:
        metrics: metric -> value, one dictionary per plant. A metric may be missing from some of them.

    Yields:
        ``(metric, mean)``, then ``(metric_plants_sd, standard deviation)`` where two plants or more have the
        metric.
    """
    for metric in dict.fromkeys(name for of_plant in metrics for name in of_plant):
        values = [of_plant[metric] for of_plant in metrics if metric in of_plant]
        yield metric, fmean(values)
        if len(values) > 1:
            yield f"{metric}_plants_sd", stdev(values)


def as_signed_permutation(gauge: Element) -> tuple[Tensor, Tensor]:
    """Return ``(perm, sign)`` of a gauge; of a rotation, place and sign of the largest entry of each row."""
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
    """Return the group the planted gauges were drawn from: the models' exact gauge group."""
    return next(iter(evidence.plants.values())).group


def check_group(group: str, exact: str) -> None:
    """Check that a permutation group is no larger than the models' exact gauge group.

    Args:
        group: the name of any group; only permutation groups are checked.
        exact: the name of the models' exact gauge group.

    Raises:
        ValueError: the group is a larger permutation group.
    """
    cls: Any = GROUPS.get(group)
    if cls is not None and issubclass(cls, SignedPermutation) and not contains(exact, cls):
        permutations = [name for name in default_matchers() if contains(exact, GROUPS[name])]
        raise ValueError(
            f"gauge={group} is larger than this model's exact gauge group {exact}; allowed: "
            f"{', '.join(permutations)} (each with a matcher of its own; hungarian_raw on a LayerNorm "
            "chart), identity, and orthogonal (fitted for comparison; it is no gauge of this model)"
        )
