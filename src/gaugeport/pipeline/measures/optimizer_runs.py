"""Train the tiny models of table c4, and measure what the order of their sums may change."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from gaugeport.charts.chart import Chart, chart_of
from gaugeport.charts.logit_change import YARDSTICK_FACTOR, norms_in_float64
from gaugeport.charts.rules import matches
from gaugeport.pipeline.measures.displacement import displacement
from gaugeport.pipeline.measures.optimizer_recipes import (
    CLIP_NORM,
    CLIP_VALUE,
    Parts,
    Recipe,
    build_optimizers,
)
from gaugeport.transport.optimizer_rules import OPTIMIZERS, state_axes

States = dict[str, dict[str, Any]]
"""Name of a transport rule -> the state of its optimizer."""

FLOAT64_FLOOR = 1e-10
"""Least yardstick in float64: the displacement that summation order may cause over a few steps."""


def train_from(
    recipe: Recipe,
    parts: Parts,
    model: Any,
    states: States,
    batches: Sequence[Tensor],
    hold_gains: bool = False,
) -> States:
    """Train a model in place, one step per batch.

    Args:
        recipe: how gradients are clipped and what builds the optimizers.
        parts: which parameters each optimizer trains.
        model: the model to train.
        states: optimizer states to continue from; empty for fresh optimizers.
        batches: int64[batch, length] token ids, one per step.
        hold_gains: keep the gains at their values although they are trainable, so that a folded chart stays
            folded.

    Returns:
        Copies of the optimizer states after training.
    """
    optimizers, parameters = build_optimizers(recipe, parts, model), dict(model.named_parameters())
    gains = chart_of(model).names("gain") if hold_gains else ()
    held = {name: parameters[name].detach().clone() for name in gains}
    for rule, state in states.items():
        optimizers[rule].load_state_dict(copy.deepcopy(state))
    double = next(model.parameters()).dtype == torch.float64
    with norms_in_float64(model) if double else nullcontext():
        for tokens in batches:
            model.zero_grad()
            next_token_loss(model, tokens).backward()
            for name in held:
                parameters[name].grad = torch.zeros_like(held[name])
            if recipe.clip == "norm":
                nn.utils.clip_grad_norm_(parameters.values(), CLIP_NORM)
            elif recipe.clip == "value":
                nn.utils.clip_grad_value_(parameters.values(), CLIP_VALUE)
            for optimizer in optimizers.values():
                optimizer.step()
            for name, value in held.items():
                parameters[name].data.copy_(value)  # weight decay moves gains even at gradient 0
    return {rule: copy.deepcopy(optimizer.state_dict()) for rule, optimizer in optimizers.items()}


def next_token_loss(model: Any, tokens: Tensor) -> Tensor:
    """Return the mean next-token loss (nats) in the model's own dtype; that of transformers is in float32."""
    logits = model(tokens, use_cache=False).logits[:, :-1]
    return nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())


def parameters_by_name(model: Any) -> dict[str, Tensor]:
    """Return the parameters of a model by name, tied ones once."""
    return dict(model.named_parameters())


def yardstick(
    recipe: Recipe, parts: Parts, start: Any, states: States, reference: Any, batches: Sequence[Tensor],
    generator: torch.Generator, n: int = 2,
) -> float:  # fmt: skip
    """Return ten times the largest displacement of a run whose sums are taken in another order.

    Weights and states have their MLP neurons reordered alike, which changes nothing but the order of sums.

    Args:
        recipe: how the run is trained.
        parts: which parameters each optimizer trains.
        start: the model the run starts from.
        states: the optimizer states it starts from.
        reference: the model at the end of the run.
        batches: the batches of the run.
        generator: random generator of the reorderings.
        n: number of reorderings.

    Returns:
        The yardstick, at least 1e-10 in float64.
    """
    axes = neuron_axes(chart_of(start), start)
    shapes = {name: p.shape for name, p in start.named_parameters()}
    neurons = min(
        shapes[name][i] for name, kinds in axes.items() for i, kind in enumerate(kinds) if kind == "neuron"
    )
    worst = 0.0
    for _ in range(n):
        perm = torch.randperm(neurons, generator=generator)
        work, moved = copy.deepcopy(start), copy.deepcopy(states)
        for rule, state in moved.items():
            for index, held in state["state"].items():
                for key, value in held.items():
                    if isinstance(value, Tensor):
                        kinds = state_axes(OPTIMIZERS[rule].keys[key], axes[parts[rule][index]], value.dim())
                        held[key] = reorder(value, kinds, perm)
        _reorder_weights(work, axes, perm)
        train_from(recipe, parts, work, moved, batches)
        _reorder_weights(work, axes, torch.argsort(perm))
        worst = max(worst, displacement(*map(parameters_by_name, (work, reference, start))))
    floor = FLOAT64_FLOOR if next(start.parameters()).dtype == torch.float64 else 0.0
    return max(floor, YARDSTICK_FACTOR * worst)


def _reorder_weights(model: nn.Module, axes: dict[str, tuple[str, ...]], perm: Tensor) -> None:
    for name, p in model.named_parameters():
        p.data = reorder(p.data, axes[name], perm)


def neuron_axes(chart: Chart, model: nn.Module) -> dict[str, tuple[str, ...]]:
    """Return ``neuron`` or ``none`` for every axis of every parameter, by the chart's family."""
    return {
        name: tuple(
            "neuron"
            if any(i == axis and matches(pattern, name) for pattern, axis in chart.family.neurons)
            else "none"
            for i in range(p.dim())
        )
        for name, p in model.named_parameters()
    }


def reorder(x: Tensor, kinds: Sequence[str], perm: Tensor) -> Tensor:
    """Return ``x`` with its neuron axes permuted; a fused gate/up axis holds the neurons twice."""
    for axis, kind in enumerate(kinds):
        if kind != "none":
            halves = range(x.shape[axis] // len(perm))
            x = x.index_select(axis, torch.cat([perm + k * len(perm) for k in halves]))
    return x
