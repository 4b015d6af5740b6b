"""One residual rotation for weights and activations together (table b10; paper B, section 9.5).

With heads and neurons as a baseline leaves them, the mismatch of the weights and that of the activations are both
``c - 2 tr(C Rᵀ)`` in the rotation R: what is quadratic in R does not depend on it. So is their sum with any weight λ,
and its optimum over O(d) is the Procrustes solution of ``C_w + λ C_a``, beside which the paper's Cayley + Adam is put.

Such a function has no local minimum but the global one of its component of O(d), rotations or reflections: at a
critical point ``S = C Rᵀ`` is symmetric; where it is a local minimum every two eigenvalues of S sum to at least 0, so at
most the smallest in magnitude is negative, and that is the optimum for R's determinant. Two basins of the joint loss can
therefore only be the two determinants, which no path connects and a Cayley transform cannot leave either.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from scipy.linalg import schur
from torch import Tensor, nn

from gaugeport.groups import Orthogonal
from gaugeport.pipeline.rotation.matching.refine import cayley
from gaugeport.pipeline.rotation.matching.search import (
    SymmetryFit,
    comparable_rows,
    pooled_mse,
    stream_cross,
    tensor_mse,
)
from gaugeport.pipeline.rotation.matching.symmetry import Rows, check_dyck
from gaugeport.transport.model import check_element

LAMBDAS = (0.0, 0.01, 0.1, 1.0, 10.0, 100.0, math.inf)
"""Weights of the activation mismatch; ``inf`` leaves the activations only."""

PATH = 101
"""Points on a geodesic at which its barrier is looked for, ends included."""

Record = dict[str, Any]


@dataclass(frozen=True)
class Mismatch:
    """The function ``constant - 2 tr(cross Rᵀ)`` of R in O(d); ``cross`` float64[d, d]."""

    cross: Tensor
    constant: float

    def __call__(self, r: Tensor) -> Tensor:
        """Its values at matrices [..., d, d]."""
        return self.constant - 2 * (self.cross * r).sum((-2, -1))

    def plus(self, weight: float, other: Mismatch) -> Mismatch:
        """This one and ``weight`` times the other; the other alone where ``weight`` is infinite."""
        if math.isinf(weight):
            return other
        return Mismatch(self.cross + weight * other.cross, self.constant + weight * other.constant)

    def best(self, determinant: int | None = None) -> Tensor:
        """Where it is least, float64[d, d]: over O(d), or among the matrices of one ``determinant`` (1 or -1)."""
        u, _, vh = torch.linalg.svd(self.cross)
        if determinant is not None and sign_of(u @ vh) != determinant:
            u = torch.cat([u[:, :-1], -u[:, -1:]], 1)  # the direction that the determinant costs least in
        return u @ vh


def joint_alignment(
    model: nn.Module,
    reference: nn.Module,
    baseline: SymmetryFit,
    activations_model: Mapping[str, Tensor],
    activations_reference: Mapping[str, Tensor],
    lambdas: Sequence[float] = LAMBDAS,
    steps: int = 400,
    rate: float = 0.02,
) -> list[Record]:
    """Minimise ``weight objective(R) + λ · activation MSE(R)`` over residual rotations R, for each λ, in two ways.

    Activations are streams float[..., d] by site, of both models on the same tokens; ``R`` moves the model's to the
    reference's. Rows are ``lam, method, start, metric, value``:

    * ``exact``: the best of all (``start="global"``), the best rotation (``"rotation"``: determinant 1) and the best
      ``"reflection"`` (-1);
    * ``cayley``: Adam on a Cayley transform (``steps`` steps, a ``rate`` that falls to 0), from the optimum of the
      weights (``"weights"``), of the activations (``"activations"``) and from the ``"identity"``, best iterate kept;
    * ``geodesic``: from the optimum of the weights to that of the activations with the same determinant. ``barrier``
      is how far the objective rises above the straight line between its ends (0: nowhere), ``same_component`` says
      whether the free optima share their determinant (1) or not (0), in which case no path joins those, and
      ``determinant_cost`` what share of the best of the other determinant that one is above the best of all.

    Metrics of the first two: ``weight_max_mse``, ``weight_global_mse``, ``weight_objective``, ``activation_mse``,
    ``activation_nmse`` (over the reference's variance about each site's mean), ``from_weights`` and
    ``from_activations`` (Frobenius distances to both free optima), ``determinant``, ``objective``, and ``excess``: the
    objective above the best of the same determinant.

    Raises ``ValueError`` for models that cannot be compared or with gains in place, for activations whose sites or
    shapes differ, and for λ that are negative or no numbers. Source: section 9.5; the exact solution is ours.
    """
    if any(not lam >= 0 for lam in lambdas):
        raise ValueError(f"lambdas must be at least 0 (inf: activations only), found {list(lambdas)}")
    rows, target = comparable_rows(model, reference)
    check_element(check_dyck(model), Orthogonal(baseline.symmetry.residual.dense()))
    inside = baseline.symmetry.inside(rows)
    weights = weight_mismatch(inside, target)
    activations, variance = activation_mismatch(activations_model, activations_reference, len(weights.cross))
    best_w, best_a = weights.best(), activations.best()
    starts = {
        "weights": best_w,
        "activations": best_a,
        "identity": torch.eye(len(best_w), dtype=torch.float64),
    }

    found: list[Record] = []
    for lam in lambdas:
        joint = weights.plus(lam, activations)
        optima = {"global": joint.best(), "rotation": joint.best(1), "reflection": joint.best(-1)}
        tried = [("exact", start, r) for start, r in optima.items()]
        tried += [("cayley", start, descend(joint, r, steps, rate)) for start, r in starts.items()]
        for method, start, r in tried:
            moved = {name: t @ r.T for name, t in inside.items()}
            mse = tensor_mse(moved, target)
            metrics = {
                "weight_max_mse": max(mse.values()),
                "weight_global_mse": pooled_mse(mse, target),
                "weight_objective": sum(mse.values()),
                "activation_mse": float(activations(r)),
                "activation_nmse": float(activations(r)) / variance,
                "from_weights": float((r - best_w).norm()),
                "from_activations": float((r - best_a).norm()),
                "determinant": sign_of(r),
                "objective": float(joint(r)),
                "excess": float(joint(r) - joint(joint.best(sign_of(r)))),
            }
            found += _records(lam, method, start, metrics)
        path = joint(geodesic(best_w, activations.best(sign_of(best_w)), PATH))
        line = torch.lerp(path[0], path[-1], torch.linspace(0, 1, PATH, dtype=torch.float64))
        together = float(sign_of(best_w) == sign_of(best_a))
        barrier = max(0.0, float((path - line).max()))  # the ends of the path are rounded
        least, most = sorted(float(joint(optima[d])) for d in ("rotation", "reflection"))
        cost = (most - least) / most if most > 0 else 0.0
        metrics = {"barrier": barrier, "same_component": together, "determinant_cost": cost}
        found += _records(lam, "geodesic", "weights", metrics)
    return found


def weight_mismatch(inside: Rows, target: Rows) -> Mismatch:
    """The sum over tensors of the mean squared difference per entry, of rows whose heads and neurons are moved."""
    squares = sum(float(t.square().mean()) for rows in (inside, target) for t in rows.values())
    return Mismatch(stream_cross(inside, target), squares)


def activation_mismatch(
    model: Mapping[str, Tensor], reference: Mapping[str, Tensor], width: int
) -> tuple[Mismatch, float]:
    """The mean squared difference per entry of streams [..., width] over all sites, and the reference's variance.

    The variance is about the mean of each coordinate at each site. Raises ``ValueError`` where sites or shapes differ.
    """
    shapes = [{site: tuple(x.shape) for site, x in side.items()} for side in (model, reference)]
    if shapes[0] != shapes[1] or not shapes[0] or any(shape[-1:] != (width,) for shape in shapes[0].values()):
        raise ValueError(
            f"activations of both models at the same sites are wanted, streams of width {width} on the same tokens; "
            f"found {shapes[0]} and {shapes[1]}"
        )
    cross, squares, about, entries = torch.zeros(width, width, dtype=torch.float64), 0.0, 0.0, 0
    for site in model:
        x, y = (side[site].detach().cpu().double().reshape(-1, width) for side in (model, reference))
        cross += y.T @ x
        squares += float(x.square().sum() + y.square().sum())
        about += float((y - y.mean(0)).square().sum())
        entries += x.numel()
    return Mismatch(cross / entries, squares / entries), about / entries


def descend(joint: Mismatch, start: Tensor, steps: int, rate: float) -> Tensor:
    """Adam on x in ``start @ cayley(x)``: the best iterate, float64[d, d], of the determinant of ``start``."""
    x = torch.zeros_like(start, requires_grad=True)
    adam = torch.optim.Adam([x], lr=rate)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(adam, steps)
    best, found = math.inf, start
    for step in range(steps + 1):
        r = start @ cayley(x)
        loss = joint(r)
        if float(loss.detach()) < best:
            best, found = float(loss.detach()), r.detach()
        if step < steps:
            adam.zero_grad()
            loss.backward()
            adam.step()
            decay.step()
    return found


def geodesic(start: Tensor, end: Tensor, points: int) -> Tensor:
    """Equally spaced points [points, d, d] of a shortest path in O(d). Raises ``ValueError`` across determinants.

    The path is ``start · exp(t L)`` with L the real logarithm of ``startᵀ end``, whose eigenvalues -1, an even number of
    them, are taken in pairs as half-turns.
    """
    if sign_of(start) != sign_of(end):
        raise ValueError("matrices of determinant 1 and -1 are joined by no path of orthogonal matrices")
    blocks, basis = (torch.from_numpy(m) for m in schur((start.T @ end).numpy(), output="real"))
    log, half_turns, i = torch.zeros_like(blocks), [], 0
    while i < len(blocks):
        if i + 1 < len(blocks) and abs(float(blocks[i + 1, i])) > 1e-9:
            angle = math.atan2(float(blocks[i + 1, i]), float(blocks[i, i]))
            log[i + 1, i], log[i, i + 1] = angle, -angle
            i += 1
        elif float(blocks[i, i]) < 0:
            half_turns.append(i)
        i += 1
    for i, j in zip(half_turns[::2], half_turns[1::2], strict=True):
        log[j, i], log[i, j] = math.pi, -math.pi
    t = torch.linspace(0, 1, points, dtype=torch.float64)[:, None, None]
    return start @ basis @ torch.linalg.matrix_exp(t * log) @ basis.T


def sign_of(r: Tensor) -> int:
    """The determinant of an orthogonal matrix, 1 or -1."""
    return 1 if float(torch.linalg.det(r)) > 0 else -1


def _records(lam: float, method: str, start: str, metrics: Mapping[str, float]) -> Iterator[Record]:
    for metric, value in metrics.items():
        yield {"lam": lam, "method": method, "start": start, "metric": metric, "value": float(value)}
