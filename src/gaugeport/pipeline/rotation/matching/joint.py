"""Fit one residual rotation to weights and activations together (table b10; paper B, section 9.5).

With heads and neurons as a baseline leaves them, the mismatch of the weights and that of the activations both
have the form ``c - 2 tr(C Rᵀ)`` in the rotation R: what is quadratic in R does not depend on it. So does
their sum with any weight λ. Its optimum over O(d) is therefore the Procrustes solution of ``C_w + λ C_a``,
which is reported beside the paper's Cayley + Adam.

Such a function has no local minimum but the global one of its component of O(d), rotations or reflections: at
a critical point ``S = C Rᵀ`` is symmetric; where it is a local minimum every two eigenvalues of S sum to at
least 0, so at most the smallest in magnitude is negative, and that is the optimum for R's determinant. Two
basins of the joint loss can therefore only be the two determinants, which no path connects and no Cayley
transform leaves either.
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
    tensor_mse,
)
from gaugeport.pipeline.rotation.matching.steps import stream_cross
from gaugeport.pipeline.rotation.matching.symmetry import Rows, check_dyck
from gaugeport.transport.model import check_gauge_fits
from gaugeport.utils.linalg import svd

LAMBDAS = (0.0, 0.01, 0.1, 1.0, 10.0, 100.0, math.inf)
"""Weights of the activation mismatch; ``inf`` leaves the activations only."""

POINTS_ON_GEODESIC = 101
"""Points at which the barrier of a geodesic is measured, ends included."""

Record = dict[str, Any]


@dataclass(frozen=True)
class Mismatch:
    """The function ``constant - 2 tr(cross Rᵀ)`` of R in O(d); ``cross`` is float64[d, d]."""

    cross: Tensor
    constant: float

    def __call__(self, r: Tensor) -> Tensor:
        """Return its values at matrices [..., d, d]."""
        return self.constant - 2 * (self.cross * r).sum((-2, -1))

    def plus(self, weight: float, other: Mismatch) -> Mismatch:
        """Return this plus ``weight`` times the other; the other alone where ``weight`` is infinite."""
        if math.isinf(weight):
            return other
        return Mismatch(self.cross + weight * other.cross, self.constant + weight * other.constant)

    def best(self, determinant: int | None = None) -> Tensor:
        """Return where it is least, float64[d, d], over O(d) or over one ``determinant`` (1 or -1)."""
        u, _, vh = svd(self.cross)
        if determinant is not None and determinant_of(u @ vh) != determinant:
            # reverse the direction in which the other determinant costs least
            u = torch.cat([u[:, :-1], -u[:, -1:]], 1)
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
    """Minimise ``weight objective(R) + λ · activation MSE(R)`` over residual rotations R, for each λ.

    Source: section 9.5; the exact solution is not in the paper. Rows are ``lam, method, start, metric,
    value``. The methods and their starts are:

    * ``exact``: the best of all (``global``), the best ``rotation`` (determinant 1) and the best
      ``reflection`` (-1);
    * ``cayley``: Adam on a Cayley transform, from the optimum of the ``weights``, from that of the
      ``activations`` and from the ``identity``; the best iterate is kept;
    * ``geodesic``: the shortest path from the optimum of the ``weights`` to that of the activations with the
      same determinant.

    Metrics of ``exact`` and ``cayley``: ``weight_max_mse``, ``weight_global_mse``, ``weight_objective``,
    ``activation_mse``, ``activation_nmse`` (over the reference's variance about each site's mean),
    ``from_weights`` and ``from_activations`` (Frobenius distances to the two free optima), ``determinant``,
    ``objective``, and ``excess``: the objective above the best of the same determinant.

    Metrics of ``geodesic``: ``barrier``, how far the objective rises above the straight line between its ends
    (0: nowhere); ``same_component``, whether the free optima have the same determinant (1) or not (0), in
    which case no path joins them; ``determinant_cost``, the share of the worse determinant's least objective
    that the better determinant saves.

    Args:
        model: A folded Dyck-3 model.
        reference: Another one of the same size.
        baseline: A fit of ``model`` to ``reference``; its heads and neurons are kept.
        activations_model: Streams float[..., d] of the model by site. ``R`` moves them to the reference's.
        activations_reference: Streams of the reference at the same sites on the same tokens.
        lambdas: Weights λ of the activations.
        steps: Adam steps of a descent.
        rate: Adam's first learning rate, which falls to 0.

    Raises:
        ValueError: The models cannot be compared or have their gains in place, sites or shapes of activations
            differ, or a λ is negative or not a number.
    """
    if any(not lam >= 0 for lam in lambdas):
        raise ValueError(f"lambdas={list(lambdas)}; allowed: numbers of at least 0 (inf: activations only)")
    rows, target = comparable_rows(model, reference)
    check_gauge_fits(check_dyck(model), Orthogonal(baseline.symmetry.residual.dense()))
    prepared = baseline.symmetry.move_heads_and_neurons(rows)
    weights = weight_mismatch(prepared, target)
    activations, variance = activation_mismatch(activations_model, activations_reference, len(weights.cross))
    best_w, best_a = weights.best(), activations.best()
    starts = {
        "weights": best_w,
        "activations": best_a,
        "identity": torch.eye(len(best_w), dtype=torch.float64),
    }

    def metrics_of(r: Tensor, joint: Mismatch) -> dict[str, float]:
        mse = tensor_mse({name: t @ r.T for name, t in prepared.items()}, target)
        determinant = determinant_of(r)
        return {
            "weight_max_mse": max(mse.values()),
            "weight_global_mse": pooled_mse(mse, target),
            "weight_objective": sum(mse.values()),
            "activation_mse": float(activations(r)),
            "activation_nmse": float(activations(r)) / variance,
            "from_weights": float((r - best_w).norm()),
            "from_activations": float((r - best_a).norm()),
            "determinant": determinant,
            "objective": float(joint(r)),
            "excess": float(joint(r) - joint(joint.best(determinant))),
        }

    records: list[Record] = []
    for lam in lambdas:
        joint = weights.plus(lam, activations)
        # 1) the exact optima
        optima = {"global": joint.best(), "rotation": joint.best(1), "reflection": joint.best(-1)}
        for start, r in optima.items():
            records += _records(lam, "exact", start, metrics_of(r, joint))
        # 2) the paper's descents
        for start, r in starts.items():
            end = cayley_descent(joint, r, steps, rate)
            records += _records(lam, "cayley", start, metrics_of(end, joint))
        # 3) what lies between the two free optima
        on_path = joint(geodesic(best_w, activations.best(determinant_of(best_w)), POINTS_ON_GEODESIC))
        fractions = torch.linspace(0, 1, POINTS_ON_GEODESIC, dtype=torch.float64)
        on_line = torch.lerp(on_path[0], on_path[-1], fractions)
        least, most = sorted(float(joint(optima[side])) for side in ("rotation", "reflection"))
        metrics = {
            "barrier": max(0.0, float((on_path - on_line).max())),  # the ends of the path are rounded
            "same_component": float(determinant_of(best_w) == determinant_of(best_a)),
            "determinant_cost": (most - least) / most if most > 0 else 0.0,
        }
        records += _records(lam, "geodesic", "weights", metrics)
    return records


def weight_mismatch(prepared: Rows, target: Rows) -> Mismatch:
    """Return the objective of the weights as a function of the residual rotation.

    It is the sum over tensors of the mean squared difference per entry.
    ``prepared`` are the model's rows with heads and neurons moved, ``target`` the rows of the reference.
    """
    squares = sum(float(t.square().mean()) for rows in (prepared, target) for t in rows.values())
    return Mismatch(stream_cross(prepared, target), squares)


def activation_mismatch(
    model: Mapping[str, Tensor], reference: Mapping[str, Tensor], width: int
) -> tuple[Mismatch, float]:
    """Return the mean squared difference per entry over all sites, and the variance of the reference.

    Args:
        model: Streams [..., width] of the model by site.
        reference: Streams of the reference at the same sites on the same tokens. Its variance is about the
            mean of each coordinate at each site.
        width: Width d of the streams.

    Raises:
        ValueError: Sites or shapes differ, or there are no sites.
    """
    shapes = [{site: tuple(x.shape) for site, x in side.items()} for side in (model, reference)]
    if shapes[0] != shapes[1] or not shapes[0] or any(shape[-1:] != (width,) for shape in shapes[0].values()):
        raise ValueError(
            f"expected activations of both models at the same sites, of width {width}, on the same tokens; "
            f"got {shapes[0]} and {shapes[1]}"
        )
    cross, squares, spread, entries = torch.zeros(width, width, dtype=torch.float64), 0.0, 0.0, 0
    for site in model:
        x, y = (side[site].detach().cpu().double().reshape(-1, width) for side in (model, reference))
        cross += y.T @ x
        squares += float(x.square().sum() + y.square().sum())
        spread += float((y - y.mean(0)).square().sum())
        entries += x.numel()
    return Mismatch(cross / entries, squares / entries), spread / entries


def cayley_descent(joint: Mismatch, start: Tensor, steps: int, rate: float) -> Tensor:
    """Minimise ``joint`` by Adam on x in ``start @ cayley(x)``.

    Args:
        joint: The function to minimise.
        start: An orthogonal matrix, float64[d, d].
        steps: Adam steps.
        rate: Adam's first learning rate, which falls to 0 as a cosine.

    Returns:
        The best iterate, float64[d, d], with the determinant of ``start``.
    """
    x = torch.zeros_like(start, requires_grad=True)
    adam = torch.optim.Adam([x], lr=rate)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(adam, steps)
    least, best = math.inf, start
    for step in range(steps + 1):
        r = start @ cayley(x)
        loss = joint(r)
        if float(loss.detach()) < least:
            least, best = float(loss.detach()), r.detach()
        if step < steps:
            adam.zero_grad()
            loss.backward()
            adam.step()
            decay.step()
    return best


def geodesic(start: Tensor, end: Tensor, points: int) -> Tensor:
    """Return equally spaced points of a shortest path in O(d).

    The path is ``start · exp(t L)`` with L the real logarithm of ``startᵀ end``. Eigenvalues -1, of which
    there is an even number, are taken in pairs as half-turns.

    Args:
        start: An orthogonal matrix, float64[d, d].
        end: Another one of the same determinant.
        points: Number of points, ends included.

    Returns:
        The points, float64[points, d, d].

    Raises:
        ValueError: The determinants differ.
    """
    if determinant_of(start) != determinant_of(end):
        raise ValueError(
            f"no path of orthogonal matrices joins determinant {determinant_of(start)} and "
            f"{determinant_of(end)}; allowed: two matrices of one determinant"
        )
    # the real Schur form has 2×2 blocks of plane rotations, and ±1 alone on the diagonal
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


def determinant_of(r: Tensor) -> int:
    """Return the determinant of an orthogonal matrix, 1 or -1."""
    return 1 if float(torch.linalg.det(r)) > 0 else -1


def _records(lam: float, method: str, start: str, metrics: Mapping[str, float]) -> Iterator[Record]:
    for metric, value in metrics.items():
        yield {"lam": lam, "method": method, "start": start, "metric": metric, "value": float(value)}
