"""Match the gauge that the evidence of a pair of models shows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import reduce

import torch
from torch import Tensor

from gaugeport.alignment.evidence import activation_evidence, both, check_varies
from gaugeport.alignment.matchers import (
    MATCHERS,
    check_combination,
    cross_moment,
    default_matchers,
    match,
)
from gaugeport.alignment.pair_evidence import Evidence
from gaugeport.alignment.result import Alignment, check_some_kept
from gaugeport.alignment.variance import with_scale_and_shift
from gaugeport.charts import Chart
from gaugeport.groups import GROUPS, Element, LinearGauge, contains

EVIDENCE = ("activations", "weights", "both")
AFFINE = "affine"


def linear_group(group: str, chart: Chart) -> str:
    """Return the group to match in: of an affine gauge, that of its linear part.

    This is O(d), or for LayerNorm models the rotations that fix the all-ones direction up to sign.
    """
    return rotation_group(chart) if group == AFFINE else group


def rotation_group(chart: Chart) -> str:
    """Return the name of the largest group of rotations that is natural for a chart's norm."""
    return "mean_preserving_orthogonal" if chart.norm == "layer" else "orthogonal"


def choose(group: str | None, matcher: str | None, exact: str, chart: Chart, larger: bool) -> tuple[str, str]:
    """Return the names of the group and the matcher to use.

    Args:
        group: the group asked for; None for the exact one.
        matcher: the matcher asked for; None for the group's own.
        exact: the exact group that both models share.
        chart: A's chart.
        larger: whether a group larger than the exact one is accepted.

    Raises:
        ValueError: for an unknown name, a group that is too large, or a matcher that does not recover its
            elements.
    """
    group = group or exact
    groups = [*default_matchers(), AFFINE]
    if group not in groups:
        raise ValueError(f"unknown gauge group {group!r}; allowed: {', '.join(groups)}")
    allowed = [g for g in groups if contains(exact, GROUPS[g])]
    if not larger and group not in allowed:
        raise ValueError(
            f"{group} is larger than this chart's exact gauge group {exact}: its further elements change "
            f"what the model computes. Allowed here: {', '.join(allowed)}; pass allow_larger=True to fit it "
            "anyway (rotations between independently trained models)"
        )
    fitted = linear_group(group, chart)
    matcher = matcher or default_matchers()[fitted]
    check_combination(fitted, matcher)
    return group, matcher


def check_affine(group: str, evidence: str, sites: Sequence[str]) -> None:
    """Raise ``ValueError`` for an affine gauge of weights or of several sites: a shift belongs to one."""
    if group != AFFINE:
        return
    if evidence == "weights":
        raise ValueError(
            "weights have no means to shift; allowed for group='affine': 'activations' or 'both'"
        )
    if len(sites) != 1:
        raise ValueError(
            f"an affine gauge has one scale and one shift, which belong to one site, got {len(sites)} sites; "
            f"allowed: one of {', '.join(sites)}"
        )


def check_abstain(abstain: float | None) -> None:
    """Raise ``ValueError`` unless a threshold is None or a finite number."""
    number = isinstance(abstain, int | float) and not isinstance(abstain, bool)
    if abstain is not None and not (number and math.isfinite(abstain)):
        raise ValueError(
            f"abstain={abstain!r}; allowed: None, or a finite margin below which coordinates are left out"
        )


def fit(
    ev: Evidence, group: str, matcher: str, evidence: str, sites: str | Sequence[str], abstain: float | None
) -> Alignment:
    """Match a gauge.

    Args:
        ev: the evidence of the pair.
        group: name of the gauge group.
        matcher: name of a matcher that recovers its elements, or those of its linear part.
        evidence: which kinds to read, one of :data:`EVIDENCE`.
        sites: sites of ``ev`` whose activations are averaged.
        abstain: threshold of ``Alignment.kept``.

    Raises:
        ValueError: if ``ev`` lacks what is to be read, a coordinate is constant at every site, a rotation is
            to be fitted where a stream is constant, or ``abstain`` leaves no coordinate.
    """
    fitted, chosen = linear_group(group, ev.chart_a), MATCHERS[matcher]
    # Elements that fix the all-ones direction have a sign along it, which only the token means show.
    moments = ev.moments_with_mean if fitted == "mean_preserving_orthogonal" else ev.moments
    used: list[str] = []
    parts: list[Tensor] = []
    if evidence != "weights":
        used = ev.at(sites)
        if chosen.reads_cross_moments:
            check_varies(moments, used)
            parts.append(torch.stack([cross_moment(moments[site]) for site in used]).mean(0))
        else:
            parts.append(activation_evidence(moments, used))
    if evidence != "activations":
        weights = ev.weights_cross if chosen.reads_cross_moments else ev.weights
        if weights is None:
            raise ValueError("this evidence has no weights; allowed: evidence='activations', or weights=True")
        parts.append(weights)
    check_affine(group, evidence, used)
    result = match(reduce(both, parts), fitted, matcher)
    gauge: Element = result.gauge
    if group == AFFINE:
        assert isinstance(gauge, LinearGauge)
        gauge = with_scale_and_shift(gauge, ev.moments[used[0]])
    left_out = {site: moments[site].left_out for site in used}
    found = gauge, result.margin, result.objective
    alignment = Alignment(*found, group, matcher, evidence, tuple(used), abstain, massive_tokens=left_out)
    check_some_kept(alignment)
    return alignment
