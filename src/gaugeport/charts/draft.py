"""Draft the chart of an unknown architecture: try random gauges on its axes, then check it on logits."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from gaugeport.charts.chart import chart_by
from gaugeport.charts.draft_axes import SAME, block_axes, module_axes
from gaugeport.charts.draft_modules import find_modules, gain_offset, watch
from gaugeport.charts.draft_rules import draft_neurons, draft_rules
from gaugeport.charts.logit_change import change_under, random_tokens, yardstick_for
from gaugeport.charts.rules import Family
from gaugeport.groups import GlobalSignPermutation, SignedPermutation
from gaugeport.utils.progress import Progress, counting

CHECKED = 3
"""How many random elements a draft is checked with."""


@dataclass(frozen=True)
class Draft:
    """A drafted family, and how far it can be trusted.

    Attributes:
        family: The declaration.
        notes: What could not be decided, in sentences.
        inside: The largest relative change of the logits under random elements of its group.
        yardstick: The largest change that counts as rounding.
    """

    family: Family
    notes: tuple[str, ...]
    inside: float
    yardstick: float

    @property
    def exact(self) -> bool:
        """Whether its group changes the logits by rounding only."""
        return self.inside <= self.yardstick


@torch.no_grad()
def draft(model: nn.Module, seed: int = 0, progress: Progress | None = None) -> Draft:
    """Draft a family from one model of it.

    A model whose residual, head and neuron sizes all differ leaves the least open.

    Args:
        model: A causal language model, of an architecture that may have no chart. It is not changed.
        seed: Seed of the gauges and tokens.
        progress: Called as ``progress(done, total, what)`` after the axes of a block, and after each check on
            logits (:mod:`gaugeport.utils.progress`).

    Raises:
        ValueError: The model has no blocks or no final norm that can be found, or leaves too much open.
    """
    generator, step = torch.Generator().manual_seed(seed), counting(progress, 2 + CHECKED, "drafting")
    config: Any = model.config
    modules, tokens, notes = find_modules(model), random_tokens(model, generator), []
    cls = GlobalSignPermutation if modules.norm == "layer" else SignedPermutation
    g = _generic_element(cls, int(config.hidden_size), generator)
    # 1) the axes of a block, from the first one: all blocks are taken to be alike
    seen = watch(model, modules, tokens, g)
    first = model.get_submodule(modules.blocks)[0]  # type: ignore[index]
    decided = block_axes(first, seen.stream, seen.call, g)
    step()
    notes += [f"{modules.blocks}.*.{name}: other axes fit as well" for name in decided.undecided]
    if decided.error >= SAME:
        notes.append(
            f"no axes make {modules.blocks}.* commute with {cls.group}: the nearest are off by "
            f"{decided.error:.2g} of its output's std"
        )
    axes = {f"{modules.blocks}.*.{name}": a for name, a in decided.axes.items()}
    # 2) what lies outside of the blocks
    final = model.get_submodule(modules.final_norm)
    axes |= {f"{modules.final_norm}.{n}": a for n, a in (module_axes(final, g) or {}).items()}
    rules = draft_rules(model, modules, axes, seen.norm_of, notes)
    family = Family(
        name=str(config.model_type),
        model_types=(str(config.model_type),),
        norm=modules.norm,
        embedding=modules.embedding,
        blocks=modules.blocks,
        final_norm=modules.final_norm,
        unembedding=modules.unembedding,
        rules=rules,
        neurons=draft_neurons(model, modules, rules, notes),
        gain_offset=gain_offset(final, g.size) if modules.norm == "rms" else 0.0,
        post_norm=seen.post_norm,
    )
    # 3) the whole of it, on logits
    chart, work = chart_by(model, family), copy.deepcopy(model)
    inside = 0.0
    for _ in range(CHECKED):
        element = _generic_element(cls, g.size, generator)
        inside = max(inside, change_under(chart, model, work, tokens, element))
        step()
    yardstick = yardstick_for(chart, model, work, tokens, generator)
    step()
    return Draft(family, tuple(notes), inside, yardstick)


def _generic_element(
    cls: type[SignedPermutation], width: int, generator: torch.Generator
) -> SignedPermutation:
    """Return a random element; of S_d × {±1} one with the sign, which tells a gain from a vector."""
    element = cls.random(width, generator)
    if cls is GlobalSignPermutation:
        return GlobalSignPermutation(element.perm, torch.tensor(-1))
    return element
