"""The symmetry search of Bar P: the element of the full group that moves one Dyck-3 model nearest to another.

Coordinate descent on a sum over tensors of the mean squared difference per entry. Each block is solved exactly, so the
objective never rises:

* residual: Procrustes for rotations, an assignment for (signed) permutations;
* heads: the best rotations of every pair of heads, then the best assignment of the pairs;
* neurons: the best positive scaling of every pair of neurons (:func:`best_scaling`), then the best assignment.

Given the residual element, heads and neurons do not depend on each other and their steps are global optima. A start
therefore shows only in the first residual step, and without one all starts end at the same point. The local optimum met
in practice is a rotation of the wrong determinant: it differs from the planted one by the reflection of one direction
that the boundary hardly uses, to which the heads have turned.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from gaugeport.alignment import assignment
from gaugeport.alignment.matchers import procrustes
from gaugeport.groups import Orthogonal, Permutation, SignedPermutation
from gaugeport.pipeline.rotation.matching.symmetry import (
    Rows,
    Symmetry,
    act_on_stream,
    check_dyck,
    check_residual,
    check_sizes,
    part,
    stream_rows,
)
from gaugeport.transport.heads import HeadGauge
from gaugeport.transport.model import check_element
from gaugeport.transport.neurons import NeuronGauge

ROUNDING = 1e-12
"""How far rounding may lift the objective in one step, as a share of the mean squares of both models' tensors."""

NEWTON_STEPS = 60
"""At most; Newton's method takes about six, and more only where two roots all but coincide."""


@dataclass(frozen=True)
class Configuration:
    """Where one configuration of the search ended: which ``start``, whether the residual element was ``rotated`` too."""

    start: int
    rotated: bool
    symmetry: Symmetry
    per_tensor: dict[str, float]
    objective: float
    max_mse: float


@dataclass(frozen=True)
class SymmetryFit:
    """``symmetry.apply(model)`` is the model brought to the reference; mean squared differences per entry.

    ``per_tensor`` names every parameter (gains where they are in place) and ``model.position``; ``max_mse`` is its
    largest value (the bar), ``global_mse`` pools all entries. ``trace`` holds the objective, the sum of ``per_tensor``,
    at the start and after every step; ``configurations`` is the whole search.
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
    """The symmetry ``s`` whose ``s.apply(model)`` is nearest to ``reference`` by its worst tensor (section 7, Bar P).

    ``starts`` random head permutations, each with and without the residual step, ``iterations`` sweeps each (fewer
    where a sweep changes nothing any more). The best of these configurations, the paper's result, then goes on for up
    to ``polish`` sweeps, which is kept if its worst tensor got no worse. ``residual`` is the group of the residual element: ``orthogonal`` for
    models whose gains are folded, ``signed_permutation``, ``permutation`` or ``identity`` for folded and raw ones;
    ``strict=False`` lets a rotation at raw models too, gains left as they are, for comparison: no symmetry then.

    The position buffers are compared like any tensor: two models are the same only if those agree after the rotation.

    Raises ``ValueError`` for models of different sizes or another architecture, one of them folded and the other raw,
    tensors that are not finite, an unknown or (``strict``) inexact ``residual``, and for no starts or iterations;
    ``ArithmeticError`` if the objective rises by more than rounding.
    """
    check_residual(residual)
    if starts < 1 or iterations < 1:
        raise ValueError(f"starts and iterations must be at least 1, found {starts} and {iterations}")
    rows, target = comparable_rows(model, reference)
    plain = Symmetry.identity(model)
    if residual == "orthogonal":
        check_element(check_dyck(model), Orthogonal.identity(plain.residual.size), strict)
    done: list[tuple[Configuration, tuple[float, ...]]] = []
    fixed = _descend(rows, target, plain, "identity", iterations)  # the same from every start
    for start in range(starts):
        begin = replace(plain, heads=HeadGauge.random(model, generator))
        for rotated in (False, True) if residual != "identity" else (False, False):
            found, trace = _descend(rows, target, begin, residual, iterations) if rotated else fixed
            mse = tensor_mse(found.move(rows), target)
            done.append((Configuration(start, rotated, found, mse, trace[-1], max(mse.values())), trace))
    best, trace = min(done, key=lambda d: d[0].max_mse)
    symmetry, mse = best.symmetry, best.per_tensor
    if best.rotated and polish:
        further, goes_on = _descend(rows, target, symmetry, residual, polish)
        polished = tensor_mse(further.move(rows), target)
        if max(polished.values()) <= best.max_mse:
            symmetry, mse, trace = further, polished, trace + goes_on[1:]
    everything = tuple(d[0] for d in done)
    return SymmetryFit(symmetry, mse, max(mse.values()), pooled_mse(mse, target), trace, everything)


def comparable_rows(model: nn.Module, reference: nn.Module) -> tuple[Rows, Rows]:
    """The stream vectors of both (:func:`~gaugeport.pipeline.rotation.matching.symmetry.stream_rows`).

    Raises ``ValueError`` for models of different sizes, and for one folded and one raw.
    """
    check_sizes({"the reference": reference, "the model": model})
    rows, target = stream_rows(model), stream_rows(reference)
    if rows.keys() != target.keys():
        raise ValueError(
            "one model has its gains folded and the other has not; allowed: both folded, or neither"
        )
    for name in rows:
        if rows[name].shape != target[name].shape:
            raise ValueError(
                f"{name} differs in shape: {tuple(rows[name].shape)} and {tuple(target[name].shape)}"
            )
    return rows, target


def tensor_mse(rows: Rows, target: Rows) -> dict[str, float]:
    """Mean squared difference per entry, by tensor."""
    return {name: float((rows[name] - target[name]).square().mean()) for name in target}


def pooled_mse(per_tensor: dict[str, float], like: Rows) -> float:
    """All squared differences over all entries."""
    entries = {name: like[name].numel() for name in per_tensor}
    return sum(mse * entries[name] for name, mse in per_tensor.items()) / sum(entries.values())


def stream_cross(rows: Rows, target: Rows) -> Tensor:
    """``C`` float64[d, d] for which ``-2 tr(C Rᵀ)`` is all of the objective that depends on a rotation R of ``rows``."""
    width = next(iter(rows.values())).shape[-1]
    cross = torch.zeros(width, width, dtype=torch.float64)
    for name, t in rows.items():
        if t.dim() > 1:
            cross += target[name].flatten(0, -2).T @ t.flatten(0, -2) / t.numel()
    return cross


def residual_step(rows: Rows, target: Rows, residual: str) -> SignedPermutation | Orthogonal:
    """The best residual element for ``rows`` whose heads and neurons are moved already. Exact in its group.

    Where (signed) permutations meet gains, the score of a pair of coordinates adds the product of their gains, which
    no sign touches.
    """
    cross = stream_cross(rows, target)
    if residual == "orthogonal":
        gauge = procrustes(cross).gauge
        assert isinstance(gauge, Orthogonal)
        return gauge
    gains = torch.zeros_like(cross)
    for name, t in rows.items():
        if t.dim() == 1:
            gains += torch.outer(target[name], t) / t.numel()
    signed = residual == "signed_permutation"
    columns = torch.from_numpy(assignment.solve((cross.abs() if signed else cross) + gains).columns)
    if not signed:
        return Permutation(columns)
    return SignedPermutation(columns, torch.where(cross[torch.arange(len(columns)), columns] < 0, -1, 1))


def heads_step(rows: Rows, target: Rows, layer: int) -> tuple[Permutation, Tensor, Tensor]:
    """The best heads of one layer, the stream moved already: permutation, Q-K rotations, V-O rotations [heads, h, h]."""
    scores, turns = [], []
    for kinds in ("qk", "vo"):
        names = [part(layer, kind) for kind in kinds]
        cross = sum(torch.einsum("ird,jsd->ijrs", target[n], rows[n]) / rows[n].numel() for n in names)
        u, s, vh = torch.linalg.svd(cross)
        scores.append(s.sum(-1))
        turns.append(u @ vh)
    columns = torch.from_numpy(assignment.solve(scores[0] + scores[1]).columns)
    own = torch.arange(len(columns))
    return Permutation(columns), turns[0][own, columns], turns[1][own, columns]


def neurons_step(rows: Rows, target: Rows, layer: int) -> tuple[Permutation, Tensor]:
    """The best neurons of one layer, the stream moved already: permutation and positive scalings [neurons]."""
    up, down = part(layer, "up"), part(layer, "down")
    a, b = 1 / rows[up].numel(), 1 / rows[down].numel()
    scale, saved = best_scaling(
        a * target[up] @ rows[up].T,
        a * rows[up].square().sum(1),
        b * target[down] @ rows[down].T,
        b * rows[down].square().sum(1),
    )
    columns = torch.from_numpy(assignment.solve(saved).columns)
    return Permutation(columns), scale[torch.arange(len(columns)), columns]


class Scaling(NamedTuple):
    """For every pair of neurons: the best factor, and by how much it lowers the objective (negative: raises it)."""

    scale: Tensor
    saved: Tensor


def best_scaling(p: Tensor, y: Tensor, r: Tensor, v: Tensor) -> Scaling:
    """Global minimum over s > 0 of ``y s² - 2 p s + v / s² - 2 r / s``, elementwise; ``saved`` is minus that minimum.

    ``p``, ``r`` float64[n, n] are inner products [of the reference, of the model], ``y``, ``v`` float64[n] the squared
    lengths of the model's vectors, in up and down, with their weights. A length of 0 counts as negligible, not as 0:
    the best factor would be 0 or infinite.

    With ``s = (v/y)^¼ e^t`` the derivative is a quartic in s and, in ``x = sinh t``, the equation
    ``2x - A x/√(1+x²) = B``. Changing t's sign changes B's, and the objective is lower on the side of B's sign, so
    the global minimum is the root of ``2x - A x/√(1+x²) = |B|`` with the largest x ≥ 0. The left side is convex there
    for A ≥ 0 and concave for A < 0: Newton's method from the right or the left end converges without overshooting.
    """
    tiny = 1e-30 * max(float(y.max()), float(v.max())) + 1e-300
    y, v = y.clamp(min=tiny), v.clamp(min=tiny)
    unit = (v / y) ** 0.25
    depth = (v * y).sqrt()
    alpha, beta = p * unit / depth, r / unit / depth
    a, b = (alpha + beta) / 2, (alpha - beta) / 2
    x = torch.where(a >= 0, (a + b.abs()) / 2, 0.0)
    for _ in range(NEWTON_STEPS):
        root = (1 + x * x).sqrt()
        step = (2 * x - a * x / root - b.abs()) / (2 - a / root**3)
        step = torch.where(torch.isfinite(step), step, 0.0)  # a double root at x = 0, reached
        x = (x - step).clamp(min=0)
        if bool((step.abs() <= 1e-15 * (1 + x)).all()):
            break
    grown = x + (1 + x * x).sqrt()
    s = unit * torch.where(b >= 0, grown, 1 / grown)
    return Scaling(s, 2 * p * s - y * s * s + 2 * r / s - v / (s * s))


def _descend(
    rows: Rows, target: Rows, begin: Symmetry, residual: str, iterations: int
) -> tuple[Symmetry, tuple[float, ...]]:
    """Coordinate descent from ``begin``: the symmetry, and the objective at the start and after every step."""
    found = begin
    trace = [sum(tensor_mse(found.move(rows), target).values())]
    slack = ROUNDING * sum(float(t.square().mean()) for t in (*rows.values(), *target.values()))
    for _ in range(iterations):
        before = trace[-1]
        if residual != "identity":
            found = found.with_residual(residual_step(found.inside(rows), target, residual))
            _follow(trace, found, rows, target, slack)
        found = _inside_step(found, act_on_stream(found.residual, rows), target)
        _follow(trace, found, rows, target, slack)
        if trace[-1] >= before:
            break
    return found, tuple(trace)


def _inside_step(found: Symmetry, turned: Rows, target: Rows) -> Symmetry:
    layers = range(len(found.scale))
    heads, qk, vo = zip(*(heads_step(turned, target, layer) for layer in layers), strict=True)
    neurons, scale = zip(*(neurons_step(turned, target, layer) for layer in layers), strict=True)
    return replace(found, heads=HeadGauge(heads, 1), qk=qk, vo=vo, neurons=NeuronGauge(neurons), scale=scale)


def _follow(trace: list[float], found: Symmetry, rows: Rows, target: Rows, slack: float) -> None:
    now = sum(tensor_mse(found.move(rows), target).values())
    if not now <= trace[-1] + slack:
        raise ArithmeticError(f"an exact step raised the objective from {trace[-1]:.17g} to {now:.17g}")
    trace.append(now)
