"""Measure which optimizer states transport under which group, on resumed runs (table c4)."""

from __future__ import annotations

import copy
from typing import Any

import torch

from gaugeport.charts.chart import Chart, chart_of
from gaugeport.charts.fold import fold_gains
from gaugeport.charts.logit_change import random_tokens
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
    RECIPES,
    Parts,
    Recipe,
    split_parameters,
)
from gaugeport.pipeline.measures.optimizer_runs import (
    States,
    parameters_by_name,
    train_from,
    yardstick,
)
from gaugeport.transport.model import transport_model
from gaugeport.transport.optimizer import transport_optimizer
from gaugeport.transport.optimizer_rules import OPTIMIZERS

CONDITIONS = ("signs", "signed", "signs_dropped", "rotation_frozen", "rotation_trained")
"""The conditions of a row.

``signs``: sign changes alone.
``signed``: a generic element of B_d (of S_d × {±1} on a LayerNorm chart).
``signs_dropped``: the same for the weights; the state is moved without the signs.
``rotation_frozen``: a Haar rotation of the folded chart, whose gains stay frozen.
``rotation_trained``: the same, and the gains are trained from there on.
"""


def optimizer_rows(
    optimizer: str,
    family: str,
    seed: int,
    dtype: str | None = None,
    warmup: int = 5,
    steps: int = 5,
    width: int = 32,
) -> list[dict[str, Any]]:
    """Measure how far a moved run, once resumed, leaves the run it was moved from, for one optimizer.

    A tiny random model is trained for ``warmup`` steps. Its weights and optimizer state are moved by a random
    element, both runs are trained for ``steps`` on the same batches, and the moved one is brought back. The
    value is ‖g⁻¹θ' − θ‖ / ‖θ − θ_resume‖.

    Args:
        optimizer: one of ``RECIPES``.
        family: one of ``MODEL_TYPES``; rotations are left out where its gains cannot be folded.
        seed: seed of the model, its batches and the elements.
        dtype: ``float32`` or ``float64``; the recipe's own by default.
        warmup: steps before the move.
        steps: steps after it.
        width: width d of the stream, a multiple of 8.

    Returns:
        A row ``{optimizer, arm, group, metric, value, yardstick, theory, library}`` per condition of
        ``CONDITIONS``. ``yardstick`` is ten times the displacement from reordering MLP neurons (at least
        1e-10 in float64; 0 where only signs change). ``theory`` is ``exact``, ``broken`` (nothing can detect
        it) or ``refused`` (the state is moved with ``strict=False`` to measure it). ``library`` says whether
        ``transport_optimizer`` ``moves`` or ``refuses`` the state.

    Raises:
        ValueError: unknown optimizer, family or dtype.
    """
    if optimizer not in RECIPES:
        raise ValueError(f"optimizer={optimizer!r}; allowed: {', '.join(RECIPES)}")
    recipe, generator = RECIPES[optimizer], torch.Generator().manual_seed(seed)
    dtype = dtype or recipe.dtype
    if dtype not in ("float32", "float64"):
        raise ValueError(f"dtype={dtype!r}; allowed: float32, float64")
    raw = tiny_model(family, generator, width).to(getattr(torch, dtype))
    batches = [random_tokens(raw, generator) for _ in range(warmup + steps)]
    after_move = batches[warmup:]
    rows = []
    for condition in _conditions(raw):
        # 1) train up to the move
        start = starting_model(condition, raw)
        chart = chart_of(start)
        g, parts = random_element(condition, chart, generator), split_parameters(recipe, chart, start)
        hold_gains = condition == "rotation_trained"
        states = train_from(recipe, parts, start, {}, batches[:warmup], hold_gains)
        # 2) move weights and states
        of_state = g
        if condition == "signs_dropped" and isinstance(g, SignedPermutation):
            of_state = g.without_signs()
        reference, moved = copy.deepcopy(start), transport_model(start, g)
        library, moved_states = transport_states(states, of_state, start, parts)
        # 3) resume both, and bring the moved one back; trained gains are no longer folded
        train_from(recipe, parts, reference, states, after_move)
        train_from(recipe, parts, moved, moved_states, after_move)
        back = transport_model(moved, g.inverse(), inplace=True, strict=False)
        floor = 0.0
        if condition != "signs":
            floor = yardstick(recipe, parts, start, states, reference, after_move, generator)
        rows.append(
            {
                "optimizer": optimizer,
                "arm": condition,
                "group": of_state.group,
                "metric": "relative_displacement",
                "value": displacement(*map(parameters_by_name, (back, reference, start))),
                "yardstick": floor,
                "theory": expected_by_theory(recipe, condition),
                "library": library,
            }
        )
    return rows


def _conditions(raw: Any) -> list[str]:
    """Return the conditions that a model allows: no rotation where its gains cannot be folded."""
    foldable = chart_of(raw).foldable
    return [name for name in CONDITIONS if foldable or not name.startswith("rotation")]


def expected_by_theory(recipe: Recipe, condition: str) -> str:
    """Return ``exact``, ``broken`` or ``refused``, by the rules of ``OPTIMIZERS`` and not by measurement."""
    if condition in ("signs", "signed"):
        return "exact"
    if condition == "signs_dropped":
        return "broken" if recipe.momentum else "exact"
    if condition == "rotation_trained" or any(
        OPTIMIZERS[rule].group != "orthogonal" for rule in recipe.parts
    ):
        return "refused"
    return "broken" if recipe.clip == "value" else "exact"


def starting_model(condition: str, raw: Any) -> Any:
    """Return a copy of the model ``raw`` to start a condition from.

    For rotations its gains are folded, and they are frozen unless the condition trains them.
    """
    if not condition.startswith("rotation"):
        return copy.deepcopy(raw)
    model = fold_gains(raw)
    gains = chart_of(model).names("gain")
    for name, p in model.named_parameters():
        p.requires_grad_(condition == "rotation_trained" or name not in gains)
    return model


def random_element(
    condition: str, chart: Chart, generator: torch.Generator
) -> SignedPermutation | Orthogonal:
    """Draw the element that moves a condition's weights: a Haar rotation or a generic signed permutation.

    On a LayerNorm chart the rotation preserves the mean, and the signed permutation has one global sign.
    """
    if condition.startswith("rotation"):
        return (MeanPreservingOrthogonal if chart.norm == "layer" else Orthogonal).random(
            chart.width, generator
        )
    g = generic_element(
        GlobalSignPermutation if chart.norm == "layer" else SignedPermutation, chart.width, generator
    )
    assert isinstance(g, SignedPermutation)
    return type(g)(torch.arange(chart.width), g.sign) if condition == "signs" else g


def transport_states(states: States, g: Element, model: Any, parts: Parts) -> tuple[str, States]:
    """Move optimizer states by ``g``.

    Returns:
        ``moves``, or ``refuses`` where ``transport_optimizer`` raises; and the moved states (forced where it
        refuses).
    """

    def move(strict: bool) -> States:
        return {
            # some families have dropout by default, but these models run in evaluation mode
            rule: transport_optimizer(
                state, g, model, names=parts[rule], optimizer=rule, strict=strict, allow_dropout=True
            )
            for rule, state in states.items()
        }

    try:
        return "moves", move(strict=True)
    except ValueError:
        return "refuses", move(strict=False)  # skips only the check of the group
