"""Search for the symmetry that moves one Dyck-3 model nearest to another (Bar P; paper B, section 7).

The search is coordinate descent on the objective, a sum over tensors of the mean squared difference per
entry. Each block is solved exactly, so the objective never rises:

* residual: Procrustes for rotations, an assignment for (signed) permutations;
* heads: the best rotations of every pair of heads, then the best assignment of the pairs;
* neurons: the best positive scaling of every pair of neurons
  (:func:`~gaugeport.pipeline.rotation.matching.steps.best_scaling`), then the best assignment.

Given the residual element, heads and neurons do not depend on each other and their steps are global optima. A
start therefore matters only in the first residual step, and without that step all starts end at the same
point. The local optimum met in practice is a rotation of the wrong determinant: it differs from the planted
one by the reflection of one direction that the boundary hardly uses, and the heads have turned to match it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import nn

from gaugeport.groups import Orthogonal
from gaugeport.pipeline.rotation.matching.steps import heads_step, neurons_step, residual_step
from gaugeport.pipeline.rotation.matching.symmetry import (
    Rows,
    Symmetry,
    act_on_stream,
    check_dyck,
    check_residual,
    check_sizes,
    stream_rows,
)
from gaugeport.transport.heads import HeadGauge
from gaugeport.transport.model import check_gauge_fits
from gaugeport.transport.neurons import NeuronGauge

ROUNDING_SHARE = 1e-12
"""How far rounding may raise the objective in one step, as a share of both models' mean squares."""


@dataclass(frozen=True)
class Configuration:
    """One configuration of the search and where it ended.

    Attributes:
        start: Index of the random head permutation that it started from.
        rotated: Whether the residual element was fitted too.
        symmetry: The element at the end.
        per_tensor: Mean squared difference per entry, by tensor.
        objective: Sum of ``per_tensor``.
        max_mse: Largest value of ``per_tensor``.
    """

    start: int
    rotated: bool
    symmetry: Symmetry
    per_tensor: dict[str, float]
    objective: float
    max_mse: float


@dataclass(frozen=True)
class SymmetryFit:
    """A symmetry that brings a model near its reference, and how near.

    Values are mean squared differences per entry.

    Attributes:
        symmetry: ``symmetry.apply(model)`` is the model brought to the reference.
        per_tensor: Values by tensor: every parameter (gains where they are in place) and ``model.position``.
        max_mse: Largest value of ``per_tensor``: Bar P.
        global_mse: The mean over all entries of all tensors.
        trace: The objective, the sum of ``per_tensor``, at the start and after every step.
        configurations: Every configuration that the search tried.
    """

    symmetry: Symmetry
    per_tensor: dict[str, float]
    max_mse: float
    global_mse: float
    trace: tuple[float, ...]
    configurations: tuple[Configuration, ...] = ()


def fit_symmetry(
    model: nn.Module,
    reference: nn.Module,
    residual: str = "orthogonal",
    starts: int = 16,
    iterations: int = 6,
    polish: int = 100,
    *,
    generator: torch.Generator,
    strict: bool = True,
) -> SymmetryFit:
    """Find the symmetry ``s`` whose ``s.apply(model)`` is nearest to ``reference`` by its worst tensor.

    Source: the multi-start search of paper B, section 7 (16 head permutations, with and without the residual
        step).
    The position buffers are compared like any tensor: models are equal only if these agree after the rotation
    too.

    Args:
        model: The Dyck-3 model to move.
        reference: A model of the same size; both have their gains folded, or neither has.
        residual: Group of the residual element: ``orthogonal`` for models whose gains are folded,
            ``signed_permutation``, ``permutation`` or ``identity`` for folded and raw ones.
        starts: Number of random head permutations, each tried with and without the residual step.
        iterations: Sweeps of each configuration; it stops earlier once a sweep changes nothing.
        polish: Most further sweeps of the best configuration (the paper's result). They are kept unless its
            worst tensor got worse.
        generator: Source of the head permutations.
        strict: Refuse a residual group that is no symmetry of the models. With False a rotation is also
            fitted to raw models, for comparison, and their gains stay as they are.

    Raises:
        ValueError: The models differ in size or architecture, only one of them is folded, a tensor is not
            finite, ``residual`` is unknown or (``strict``) no symmetry, or ``starts`` or ``iterations`` is
            below 1.
        ArithmeticError: The objective rose by more than rounding.
    """
    check_residual(residual)
    if starts < 1 or iterations < 1:
        raise ValueError(f"starts={starts}, iterations={iterations}; allowed: both 1 or more")
    rows, target = comparable_rows(model, reference)
    plain = Symmetry.identity(model)
    if residual == "orthogonal":
        check_gauge_fits(check_dyck(model), Orthogonal.identity(plain.residual.size), strict)

    # 1) run all configurations; without the residual step every start ends at the same point
    runs: list[tuple[Configuration, tuple[float, ...]]] = []
    without_residual = _coordinate_descent(rows, target, plain, "identity", iterations)
    for start in range(starts):
        begin = replace(plain, heads=HeadGauge.random(model, generator))
        for rotated in (False, True) if residual != "identity" else (False, False):
            symmetry, trace = (
                _coordinate_descent(rows, target, begin, residual, iterations)
                if rotated
                else without_residual
            )
            mse = tensor_mse(symmetry.move(rows), target)
            runs.append((Configuration(start, rotated, symmetry, mse, trace[-1], max(mse.values())), trace))

    # 2) take the best by the bar, and let it go on
    best, trace = min(runs, key=lambda run: run[0].max_mse)
    symmetry, mse = best.symmetry, best.per_tensor
    if best.rotated and polish:
        further, continued = _coordinate_descent(rows, target, symmetry, residual, polish)
        polished = tensor_mse(further.move(rows), target)
        if max(polished.values()) <= best.max_mse:
            symmetry, mse, trace = further, polished, trace + continued[1:]
    configurations = tuple(configuration for configuration, _ in runs)
    return SymmetryFit(symmetry, mse, max(mse.values()), pooled_mse(mse, target), trace, configurations)


def comparable_rows(model: nn.Module, reference: nn.Module) -> tuple[Rows, Rows]:
    """Return the stream vectors of both models, checked to have the same names and shapes.

    Raises:
        ValueError: The models differ in size, or one of them is folded and the other is not.
    """
    check_sizes({"the reference": reference, "the model": model})
    rows, target = stream_rows(model), stream_rows(reference)
    if rows.keys() != target.keys():
        raise ValueError(
            "one model has its gains folded and the other does not; allowed: both folded, or neither"
        )
    for name in rows:
        if rows[name].shape != target[name].shape:
            raise ValueError(
                f"{name} has shape {tuple(rows[name].shape)} in the model and {tuple(target[name].shape)} "
                "in the reference; allowed: equal shapes"
            )
    return rows, target


def tensor_mse(rows: Rows, target: Rows) -> dict[str, float]:
    """Return the mean squared difference per entry, by tensor."""
    return {name: float((rows[name] - target[name]).square().mean()) for name in target}


def mean_squares(model: nn.Module) -> dict[str, float]:
    """Return the mean square of a model's entries, by tensor: what :func:`tensor_mse` is a share of."""
    return {name: float(x.square().mean()) for name, x in stream_rows(model).items()}


def pooled_mse(per_tensor: dict[str, float], like: Rows) -> float:
    """Return the mean squared difference over all entries of all tensors, given those ``per_tensor``."""
    entries = {name: like[name].numel() for name in per_tensor}
    return sum(mse * entries[name] for name, mse in per_tensor.items()) / sum(entries.values())


def _coordinate_descent(
    rows: Rows, target: Rows, begin: Symmetry, residual: str, iterations: int
) -> tuple[Symmetry, tuple[float, ...]]:
    """Return the symmetry reached from ``begin``, and the objective at the start and after every step."""
    symmetry = begin
    trace = [sum(tensor_mse(symmetry.move(rows), target).values())]
    slack = ROUNDING_SHARE * sum(float(t.square().mean()) for t in (*rows.values(), *target.values()))
    for _ in range(iterations):
        before = trace[-1]
        if residual != "identity":
            moved = symmetry.move_heads_and_neurons(rows)
            symmetry = symmetry.with_residual(residual_step(moved, target, residual))
            _append_objective(trace, symmetry, rows, target, slack)
        symmetry = _heads_and_neurons_step(symmetry, act_on_stream(symmetry.residual, rows), target)
        _append_objective(trace, symmetry, rows, target, slack)
        if trace[-1] >= before:
            break
    return symmetry, tuple(trace)


def _heads_and_neurons_step(symmetry: Symmetry, stream_moved: Rows, target: Rows) -> Symmetry:
    layers = range(len(symmetry.scale))
    heads, qk, vo = zip(*(heads_step(stream_moved, target, layer) for layer in layers), strict=True)
    neurons, scale = zip(*(neurons_step(stream_moved, target, layer) for layer in layers), strict=True)
    return replace(
        symmetry, heads=HeadGauge(heads, 1), qk=qk, vo=vo, neurons=NeuronGauge(neurons), scale=scale
    )


def _append_objective(trace: list[float], symmetry: Symmetry, rows: Rows, target: Rows, slack: float) -> None:
    """Append the objective of ``symmetry`` to ``trace``; raise where it rose by more than ``slack``."""
    now = sum(tensor_mse(symmetry.move(rows), target).values())
    if not now <= trace[-1] + slack:
        raise ArithmeticError(f"an exact step raised the objective from {trace[-1]:.17g} to {now:.17g}")
    trace.append(now)
