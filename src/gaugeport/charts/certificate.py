"""Measure on one model that its chart's gauge group is exact and that the next larger group is not."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gaugeport.charts.chart import Chart, chart_of, check_movable
from gaugeport.charts.logit_change import change_under, random_tokens, yardstick_for
from gaugeport.charts.tokens import check_tokens
from gaugeport.groups import GROUPS, LinearGauge, Orthogonal, SignedPermutation
from gaugeport.utils.progress import Progress, counting

BROKEN_LOGIT_CHANGE = 0.1
"""A change of the logits by more than this share of their standard deviation is not rounding."""


@dataclass(frozen=True)
class Certificate:
    """The result of :func:`certify`. Logit changes are relative: largest difference over standard deviation.

    Attributes:
        model_type, width, norm, folded, group: The chart's.
        dtype: The precision of the measurement, e.g. ``"float32"``.
        inside: The largest logit change under random elements of ``group``.
        yardstick: The largest change that still counts as rounding.
        outside_kind: What the elements outside the group are; None if no larger group exists.
        outside: The smallest logit change under those elements, or None.
        degenerate: The sets of coordinates that share one signed gain in *every* norm, largest first.
        elements: How many elements were drawn inside, and as many outside.
    """

    model_type: str
    width: int
    dtype: str
    norm: str
    folded: bool
    group: str
    inside: float
    yardstick: float
    outside_kind: str | None
    outside: float | None
    degenerate: tuple[tuple[int, ...], ...]
    elements: int

    @property
    def exact(self) -> bool:
        """Whether elements of the group change the logits by rounding only (False for NaN)."""
        return self.inside <= self.yardstick and self.inside <= BROKEN_LOGIT_CHANGE

    @property
    def outside_breaks(self) -> bool | None:
        """Whether elements outside the group change the function; None if there are none to try."""
        return None if self.outside is None else self.outside > BROKEN_LOGIT_CHANGE

    @property
    def degenerate_note(self) -> str:
        """A sentence on what coordinates of equal gain add to the group; empty if gains are generic."""
        if not self.degenerate:
            return ""
        coordinates = sum(len(s) for s in self.degenerate)
        counts = (
            f"{len(self.degenerate)} set(s) of coordinates, {coordinates} of {self.width} in all, "
            f"the largest of {len(self.degenerate[0])}, have the same signed gain in every norm"
        )
        if self.group in ("orthogonal", "mean_preserving_orthogonal"):
            return f"{counts}: all gains are 1, and the group {self.group} already includes this"
        if self.norm == "layer":
            return f"{counts}: rotations within a set of 3 or more that fix its sum are exact as well"
        return f"{counts}: the group is larger than {self.group}, as every rotation within a set is exact too"

    def __str__(self) -> str:
        gains = "gains all 1" if self.folded else "gains in place"
        verdict = "exact" if self.exact else "NOT exact"
        lines = [
            f"{self.model_type}, d = {self.width}, {self.dtype}, {self.norm}-norm, {gains}",
            f"group    {self.group}",
            f"inside   {self.inside:.2g} of the logits' std over {self.elements} random elements: {verdict} "
            f"(yardstick {self.yardstick:.2g})",
        ]
        if self.outside is None:
            lines.append("outside  not measured: no larger linear group preserves the norm")
        else:
            verdict = "not exact, as expected" if self.outside_breaks else "EXACT, against expectation"
            if self.degenerate and not self.outside_breaks:
                verdict = "exact too, see the note"
            lines.append(f"outside  {self.outside:.2g} under {self.outside_kind}: {verdict}")
        if self.degenerate:
            lines.append(f"note     {self.degenerate_note}")
        return "\n".join(lines)


def certify(
    model: nn.Module,
    generator: torch.Generator | None = None,
    elements: int = 3,
    tokens: Tensor | None = None,
    progress: Progress | None = None,
) -> Certificate:
    """Measure whether the chart's gauge group is exact for a model, and whether larger ones are not.

    Elements inside the group must change the logits by rounding only. Elements outside must change them
    clearly: Haar rotations for B_d, half of the signs flipped for LayerNorm, rotations that move the
    all-ones direction for folded LayerNorm. For O(d) there is nothing outside. Models in 16 bits are
    measured in float32, because the group belongs to the function and not to its rounding.

    Args:
        model: A causal LM. It is not changed (a copy is made), and dropout is off.
        generator: Draws elements and tokens; None for seed 0.
        elements: How many elements to draw inside and outside.
        tokens: int64[batch, length], instead of random ones (at most 16 a row, fewer if the model has fewer
            positions).
        progress: Called as ``progress(done, total, what)`` after each element, and after the yardstick
            (:mod:`gaugeport.utils.progress`).

    Returns:
        The certificate. ``print`` it for a summary.

    Raises:
        ValueError: If :func:`chart_of` raises, if the model is offloaded or quantized, if ``elements`` is
            below 1, or if the model does not take the ``tokens``.
    """
    if elements < 1:
        raise ValueError(f"elements must be at least 1, got {elements}")
    generator = generator or torch.Generator().manual_seed(0)
    check_movable(chart_of(model), model)
    if chart_of(model).embedding(model).weight.dtype in (torch.float16, torch.bfloat16):
        model = copy.deepcopy(model).float()
    chart = chart_of(model)
    tokens = random_tokens(model, generator) if tokens is None else tokens
    check_tokens(chart, model, tokens)
    work = copy.deepcopy(model)
    # the order of the draws is fixed: members, elements outside, then the yardstick's permutations
    members: list[Any] = [GROUPS[chart.group].random(chart.width, generator) for _ in range(elements)]
    kind, outsiders = outside_elements(chart, generator, elements)
    rotation = members[0] if isinstance(members[0], Orthogonal) else None
    step = counting(progress, len(members) + 1 + len(outsiders), "certifying")

    def change(g: LinearGauge) -> float:
        value = change_under(chart, model, work, tokens, g)
        step()
        return value

    inside = max(change(g) for g in members)
    yardstick = yardstick_for(chart, model, work, tokens, generator, rotation)
    step()
    return Certificate(
        model_type=chart.model_type,
        width=chart.width,
        dtype=str(chart.embedding(model).weight.dtype).removeprefix("torch."),
        norm=chart.norm,
        folded=chart.folded,
        group=chart.group,
        inside=inside,
        yardstick=yardstick,
        outside_kind=kind,
        outside=min((change(g) for g in outsiders), default=None),
        degenerate=degenerate_sets(chart, model),
        elements=elements,
    )


def outside_elements(
    chart: Chart, generator: torch.Generator, n: int
) -> tuple[str | None, list[LinearGauge]]:
    """Draw ``n`` elements just outside the chart's group, and name their kind; (None, []) for O(d)."""
    d = chart.width
    if chart.group == "orthogonal":
        return None, []
    if chart.group == "global_sign_permutation":
        return "half_signs_flipped", [_half_flipped(d, generator) for _ in range(n)]
    kind = "haar_rotation" if chart.group == "signed_permutation" else "rotation_moving_the_mean"
    return kind, [Orthogonal.random(d, generator) for _ in range(n)]


def _half_flipped(d: int, generator: torch.Generator) -> SignedPermutation:
    sign = torch.ones(d, dtype=torch.int8)
    sign[torch.randperm(d, generator=generator)[: d // 2]] = -1
    return SignedPermutation(torch.arange(d), sign)


def degenerate_sets(chart: Chart, model: nn.Module) -> tuple[tuple[int, ...], ...]:
    """Return the sets of two or more coordinates that share one signed gain in every norm, largest first."""
    parameters = dict(model.named_parameters())
    gains = torch.stack([parameters[name].detach().cpu() for name in chart.names("gain")])
    _, which, counts = torch.unique(gains, dim=1, return_inverse=True, return_counts=True)
    repeated = torch.nonzero(counts > 1).flatten()
    sets = [tuple(torch.nonzero(which == k).flatten().tolist()) for k in repeated]
    return tuple(sorted(sets, key=lambda s: (-len(s), s)))
