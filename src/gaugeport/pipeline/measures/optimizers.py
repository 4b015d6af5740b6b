"""Table c4: which optimizer states transport under which group, stated by theory and measured on resumed runs."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from gaugeport.charts.chart import Chart, chart_of
from gaugeport.charts.fold import fold_gains
from gaugeport.charts.logit_change import YARDSTICK_FACTOR, norms_in_float64, random_tokens
from gaugeport.charts.rules import matches
from gaugeport.groups import (
    Element,
    GlobalSignPermutation,
    MeanPreservingOrthogonal,
    Orthogonal,
    SignedPermutation,
)
from gaugeport.pipeline.measures.displacement import displacement
from gaugeport.pipeline.measures.gauge_groups import generic_element, tiny_model
from gaugeport.pipeline.measures.optimizer_recipes import (
    CLIP_NORM,
    CLIP_VALUE,
    RECIPES,
    Parts,
    Recipe,
    build_optimizers,
    split_parameters,
)
from gaugeport.transport.model import transport_model
from gaugeport.transport.optimizer import transport_optimizer
from gaugeport.transport.optimizer_rules import OPTIMIZERS, state_axes

ARMS = ("signs", "signed", "signs_dropped", "rotation_frozen", "rotation_trained")
"""Sign changes alone; a generic element of B_d (of S_d × {±1} on a LayerNorm chart); its weights with a state moved
without the signs; a Haar rotation of the folded chart with its gains frozen; and with its gains trained from there on."""

FLOAT64 = 1e-10
"""What summation order may cost over a few steps in float64 (issue 3); Muon computes in bfloat16 and has its own floor."""

States = dict[str, dict[str, Any]]


def optimizer_rows(
    optimizer: str,
    family: str,
    seed: int,
    dtype: str | None = None,
    warmup: int = 5,
    steps: int = 5,
    width: int = 32,
) -> list[dict[str, Any]]:
    """Relative displacement of a resumed run that was moved from the run that was not, for one optimizer, per arm.

    A tiny random model of ``family`` is trained for ``warmup`` steps; its weights and state are moved by a random
    element, both runs go on for ``steps`` on the same batches, and the moved one is brought back: the value is
    ‖g⁻¹θ' − θ‖ / ‖θ − θ_resume‖. Each record has ``optimizer, arm, group, metric, value, yardstick, theory, library``:
    ``yardstick`` is ten times what reordering MLP neurons does to the same run (at least 1e-10 in float64, and 0 where
    only signs change); ``theory`` is ``"exact"``, ``"broken"`` (nothing can notice) or ``"refused"`` (the state is moved
    with ``strict=False`` to measure it); ``library`` says whether ``transport_optimizer`` ``"moves"`` or ``"refuses"`` it.

    ``optimizer`` is one of ``RECIPES``, each with a ``dtype`` of its own; ``family`` one of ``MODEL_TYPES``, rotations being left out where the gains
    cannot be folded. Raises ``ValueError`` for others. Source: DESIGN §1, PAPER_CLAIMS c4.
    """
    if optimizer not in RECIPES:
        raise ValueError(f"unknown optimizer {optimizer!r}; allowed: {', '.join(RECIPES)}")
    recipe, generator = RECIPES[optimizer], torch.Generator().manual_seed(seed)
    dtype = dtype or recipe.dtype
    if dtype not in ("float32", "float64"):
        raise ValueError(f"unknown dtype {dtype!r}; allowed: float32, float64")
    raw = tiny_model(family, generator, width).to(getattr(torch, dtype))
    batches = [random_tokens(raw, generator) for _ in range(warmup + steps)]
    rest = batches[warmup:]
    records = []
    for arm in ARMS if chart_of(raw).foldable else [a for a in ARMS if not a.startswith("rotation")]:
        start = starting_model(arm, raw)
        chart = chart_of(start)
        g, parts = random_element(arm, chart, generator), split_parameters(recipe, chart, start)
        of_state = g.without_signs() if arm == "signs_dropped" and isinstance(g, SignedPermutation) else g
        states = train_from(recipe, parts, start, {}, batches[:warmup], hold_gains=arm == "rotation_trained")
        reference, moved = copy.deepcopy(start), transport_model(start, g)
        library, moved_states = transport_states(states, of_state, start, parts)
        train_from(recipe, parts, reference, states, rest)
        train_from(recipe, parts, moved, moved_states, rest)
        back = transport_model(
            moved, g.inverse(), inplace=True, strict=False
        )  # trained gains are no longer folded
        records.append(
            {
                "optimizer": optimizer,
                "arm": arm,
                "group": of_state.group,
                "metric": "relative_displacement",
                "value": displacement(*map(parameters_by_name, (back, reference, start))),
                "yardstick": 0.0
                if arm == "signs"
                else yardstick(recipe, parts, start, states, reference, rest, generator),
                "theory": expected_by_theory(recipe, arm),
                "library": library,
            }
        )
    return records


def expected_by_theory(recipe: Recipe, arm: str) -> str:
    """What the algebra of the optimizers says (the rules of ``OPTIMIZERS``), never the measurement."""
    if arm in ("signs", "signed"):
        return "exact"
    if arm == "signs_dropped":
        return "broken" if recipe.momentum else "exact"
    if arm == "rotation_trained" or any(OPTIMIZERS[rule].group != "orthogonal" for rule in recipe.parts):
        return "refused"
    return "broken" if recipe.clip == "value" else "exact"


def starting_model(arm: str, raw: Any) -> Any:
    """A copy of ``raw`` to start an arm from: folded for rotations, with its gains frozen where the arm says so."""
    if not arm.startswith("rotation"):
        return copy.deepcopy(raw)
    model = fold_gains(raw)
    gains = chart_of(model).names("gain")
    for name, p in model.named_parameters():
        p.requires_grad_(arm == "rotation_trained" or name not in gains)
    return model


def random_element(arm: str, chart: Chart, generator: torch.Generator) -> SignedPermutation | Orthogonal:
    """A random element for an arm: of the chart's group for rotations, else a generic signed permutation of it."""
    if arm.startswith("rotation"):
        return (MeanPreservingOrthogonal if chart.norm == "layer" else Orthogonal).random(
            chart.width, generator
        )
    g = generic_element(
        GlobalSignPermutation if chart.norm == "layer" else SignedPermutation, chart.width, generator
    )
    assert isinstance(g, SignedPermutation)
    return type(g)(torch.arange(chart.width), g.sign) if arm == "signs" else g


def train_from(
    recipe: Recipe,
    parts: Parts,
    model: Any,
    states: States,
    batches: Sequence[Tensor],
    hold_gains: bool = False,
) -> States:
    """Train ``model`` in place from ``states`` (empty: from scratch), one step a batch, and return copies of the states.

    ``hold_gains`` keeps the gains where they are, so that a folded chart stays folded although they are trainable.
    """
    optimizers, parameters = build_optimizers(recipe, parts, model), dict(model.named_parameters())
    held = (
        {name: parameters[name].detach().clone() for name in chart_of(model).names("gain")}
        if hold_gains
        else {}
    )
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
                parameters[name].data.copy_(value)  # weight decay moves them without a gradient too
    return {rule: copy.deepcopy(optimizer.state_dict()) for rule, optimizer in optimizers.items()}


def next_token_loss(model: Any, tokens: Tensor) -> Tensor:
    """Mean next-token cross-entropy (nats) in the model's own dtype; the one of transformers goes through float32."""
    logits = model(tokens, use_cache=False).logits[:, :-1]
    return nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())


def transport_states(states: States, g: Element, model: Any, parts: Parts) -> tuple[str, States]:
    """Whether ``transport_optimizer`` moves or refuses the states, and the states moved (forced where it refuses)."""

    def move(strict: bool) -> States:
        return {
            # these models run in evaluation mode, where the dropout that some families default to is off
            rule: transport_optimizer(
                state, g, model, names=parts[rule], optimizer=rule, strict=strict, allow_dropout=True
            )
            for rule, state in states.items()
        }

    try:
        return "moves", move(strict=True)
    except ValueError:
        return "refuses", move(strict=False)  # which skips nothing but the groups


def parameters_by_name(model: Any) -> dict[str, Tensor]:
    """The parameters of a model by name, a tied one once."""
    return dict(model.named_parameters())


def yardstick(
    recipe: Recipe, parts: Parts, start: Any, states: States, reference: Any, batches: Sequence[Tensor],
    generator: torch.Generator, n: int = 2,
) -> float:  # fmt: skip
    """Ten times the largest displacement of the same run under ``n`` reorderings of its MLP neurons.

    Weights and states are reordered alike: the same run, summed in another order. At least 1e-10 in float64.
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
    floor = FLOAT64 if next(start.parameters()).dtype == torch.float64 else 0.0
    return max(floor, YARDSTICK_FACTOR * worst)


def _reorder_weights(model: nn.Module, axes: dict[str, tuple[str, ...]], perm: Tensor) -> None:
    for name, p in model.named_parameters():
        p.data = reorder(p.data, axes[name], perm)


def neuron_axes(chart: Chart, model: nn.Module) -> dict[str, tuple[str, ...]]:
    """Of every parameter, which axes count MLP neurons (``"neuron"``), by the declarations of its family."""
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
    """``x`` with its neuron axes permuted; a fused gate/up axis holds the neurons twice."""
    for axis, kind in enumerate(kinds):
        if kind != "none":
            halves = range(x.shape[axis] // len(perm))
            x = x.index_select(axis, torch.cat([perm + k * len(perm) for k in halves]))
    return x
