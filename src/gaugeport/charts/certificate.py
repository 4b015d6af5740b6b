"""``certify``: measure on one model that its chart's group is exact, and that the next larger one is not."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gaugeport.charts.chart import Chart, chart_of, check_movable
from gaugeport.charts.logit_change import change_under, random_tokens, yardstick_for
from gaugeport.groups import GROUPS, Orthogonal, SignedPermutation

BREAKS = 0.1
"""A change of the logits by more than this share of their spread is no rounding."""


@dataclass(frozen=True)
class Certificate:
    """What ``certify`` found. Logit changes are the largest absolute difference over the logits' standard deviation.

    ``inside`` is the largest change under random elements of ``group``, to be held against ``yardstick``; ``outside``
    the smallest change under random elements of ``outside_kind``, None where no larger group was left to try.
    ``degenerate`` lists the sets of coordinates that have one signed gain in *every* norm.
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
        """Whether elements of the group change no more than summation order does, and little (NaN: no)."""
        return self.inside <= self.yardstick and self.inside <= BREAKS

    @property
    def outside_breaks(self) -> bool | None:
        """Whether elements from outside change the logits by more than a tenth of their spread; None if none exist."""
        return None if self.outside is None else self.outside > BREAKS

    @property
    def degenerate_note(self) -> str:
        """In words: what coordinates of equal gain add to the group; empty where gains are generic."""
        if not self.degenerate:
            return ""
        many = sum(len(s) for s in self.degenerate)
        counts = (
            f"{len(self.degenerate)} set(s) of coordinates, {many} of {self.width} in all, the largest of "
        )
        counts += f"{len(self.degenerate[0])}, have the same signed gain in every norm"
        if self.group in ("orthogonal", "mean_preserving_orthogonal"):
            return f"{counts}: all gains are 1, which is what the group {self.group} says already"
        if self.norm == "layer":
            return f"{counts}: the group also holds the rotations within a set that fix its sum (sets of 3 or more)"
        return (
            f"{counts}: the group is larger than {self.group}, every rotation within a set is exact as well"
        )

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
            lines.append("outside  nothing to try: no larger linear group preserves the norm")
        else:
            broken = "broken, as it should be" if self.outside_breaks else "NOT broken"
            broken += ", see the note" if self.degenerate and not self.outside_breaks else ""
            lines.append(f"outside  {self.outside:.2g} under {self.outside_kind}: {broken}")
        if self.degenerate:
            lines.append(f"note     {self.degenerate_note}")
        return "\n".join(lines)


def certify(
    model: nn.Module,
    generator: torch.Generator | None = None,
    elements: int = 3,
    tokens: Tensor | None = None,
) -> Certificate:
    """Measure the chart's group on ``model``, which is left untouched (a working copy is made, dropout is off).

    Models in 16 bits are measured in float32: the group is that of the function, not of how sums are rounded.

    ``generator`` draws elements and tokens (seed 0 if None); ``tokens`` int64[batch, length] replaces the random ones.
    Inside: ``elements`` random members of the group. Outside: Haar rotations for B_d, half of the signs flipped under
    LayerNorm, rotations that move the all-ones direction for folded LayerNorm, nothing for O(d). The yardstick is
    :func:`gaugeport.charts.logit_change.yardstick_for`.

    Raises ``ValueError`` where :func:`chart_of` does, for a model that is offloaded or quantized, and for ``elements``
    below 1. Source: DESIGN §1.
    """
    if elements < 1:
        raise ValueError(f"elements must be at least 1, found {elements}")
    generator = generator or torch.Generator().manual_seed(0)
    check_movable(chart_of(model), model)
    if chart_of(model).embedding(model).weight.dtype in (torch.float16, torch.bfloat16):
        model = copy.deepcopy(model).float()
    chart = chart_of(model)
    tokens = random_tokens(model, generator) if tokens is None else tokens
    work = copy.deepcopy(model)
    members: list[Any] = [GROUPS[chart.group].random(chart.width, generator) for _ in range(elements)]
    kind, strangers = outside_elements(chart, generator, elements)
    rotation = members[0] if isinstance(members[0], Orthogonal) else None
    return Certificate(
        model_type=chart.model_type,
        width=chart.width,
        dtype=str(chart.embedding(model).weight.dtype).removeprefix("torch."),
        norm=chart.norm,
        folded=chart.folded,
        group=chart.group,
        inside=max(change_under(chart, model, work, tokens, g) for g in members),
        yardstick=yardstick_for(chart, model, work, tokens, generator, rotation),
        outside_kind=kind,
        outside=min((change_under(chart, model, work, tokens, g) for g in strangers), default=None),
        degenerate=degenerate_sets(chart, model),
        elements=elements,
    )


def outside_elements(
    chart: Chart, generator: torch.Generator, n: int
) -> tuple[str | None, list[SignedPermutation | Orthogonal]]:
    """``n`` random elements just outside the chart's group, and what they are; none for O(d)."""
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
    """The sets of two or more coordinates that share one signed gain in every norm, largest first."""
    parameters = dict(model.named_parameters())
    gains = torch.stack([parameters[name].detach().cpu() for name in chart.names("gain")])
    _, which, counts = torch.unique(gains, dim=1, return_inverse=True, return_counts=True)
    sets = [tuple(torch.nonzero(which == k).flatten().tolist()) for k in torch.nonzero(counts > 1).flatten()]
    return tuple(sorted(sets, key=lambda s: (-len(s), s)))
