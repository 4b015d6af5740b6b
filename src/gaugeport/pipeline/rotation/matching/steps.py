"""Solve each step of the symmetry search exactly: residual, heads and neurons (paper B, section 7)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from gaugeport.alignment import assignment
from gaugeport.alignment.matchers import procrustes
from gaugeport.groups import Orthogonal, Permutation, SignedPermutation
from gaugeport.pipeline.rotation.matching.symmetry import Rows, parameter_name
from gaugeport.utils.linalg import svd

MAX_NEWTON_STEPS = 60
"""Newton's method takes about six steps, and more only where two roots nearly coincide."""


def stream_cross(rows: Rows, target: Rows) -> Tensor:
    """Return the cross moment ``C``, float64[d, d], that decides a residual rotation R of ``rows``.

    All of the objective that depends on R is ``-2 tr(C Rᵀ)``.
    """
    width = next(iter(rows.values())).shape[-1]
    cross = torch.zeros(width, width, dtype=torch.float64)
    for name, t in rows.items():
        if t.dim() > 1:
            cross += target[name].flatten(0, -2).T @ t.flatten(0, -2) / t.numel()
    return cross


def residual_step(rows: Rows, target: Rows, residual: str) -> SignedPermutation | Orthogonal:
    """Return the best residual element of a group, exactly.

    Heads and neurons of ``rows`` are moved already. Where gains are in place, the score of a pair of
    coordinates adds the product of their gains, which no sign changes.
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
    """Return the best heads of one layer, for ``rows`` whose stream is moved already.

    Returns:
        The permutation of heads, and the rotations of Q-K and of V-O, float64[heads, h, h] each.
    """
    # the best rotation of every pair of heads, and what it scores
    scores, rotations = [], []
    for kinds in ("qk", "vo"):
        names = [parameter_name(layer, kind) for kind in kinds]
        crosses = [torch.einsum("ird,jsd->ijrs", target[n], rows[n]) / rows[n].numel() for n in names]
        u, s, vh = svd(torch.stack(crosses).sum(0))
        scores.append(s.sum(-1))
        rotations.append(u @ vh)
    columns = torch.from_numpy(assignment.solve(scores[0] + scores[1]).columns)
    heads = torch.arange(len(columns))
    return Permutation(columns), rotations[0][heads, columns], rotations[1][heads, columns]


def neurons_step(rows: Rows, target: Rows, layer: int) -> tuple[Permutation, Tensor]:
    """Return the best neurons of one layer, for ``rows`` whose stream is moved already.

    Returns:
        The permutation of neurons, and their positive scalings, float64[neurons].
    """
    up, down = parameter_name(layer, "up"), parameter_name(layer, "down")
    up_weight, down_weight = 1 / rows[up].numel(), 1 / rows[down].numel()
    scale, saved = best_scaling(
        up_weight * target[up] @ rows[up].T,
        up_weight * rows[up].square().sum(1),
        down_weight * target[down] @ rows[down].T,
        down_weight * rows[down].square().sum(1),
    )
    columns = torch.from_numpy(assignment.solve(saved).columns)
    return Permutation(columns), scale[torch.arange(len(columns)), columns]


class Scaling(NamedTuple):
    """The best factor of each pair of neurons, and by how much it lowers the objective (negative: raises)."""

    scale: Tensor
    saved: Tensor


def best_scaling(p: Tensor, y: Tensor, r: Tensor, v: Tensor) -> Scaling:
    """Find the global minimum over s > 0 of ``y s² - 2 p s + v / s² - 2 r / s`` for every pair of neurons.

    With ``s = (v/y)^¼ e^t`` the derivative is a quartic in s and, in ``x = sinh t``, the equation ``2x - A
    x/√(1+x²) = B``. Changing the sign of t changes that of B, and the objective is lower on the side of B's
    sign, so the global minimum is the root of ``2x - A x/√(1+x²) = |B|`` with the largest x ≥ 0. The left
    side is convex there for A ≥ 0 and concave for A < 0: Newton's method from the right or the left end
    converges without overshooting.

    Args:
        p: Inner products of the rows of up, float64[n, n], indexed [neuron of the reference, neuron of the
            model].
        y: Squared lengths of the model's rows of up, float64[n]. A length of 0 counts as negligible, not as
            0: the best factor would be 0 or infinite.
        r: As ``p``, of the columns of down.
        v: As ``y``, of the columns of down.

    Returns:
        The factors, and minus the minimum, float64[n, n] each.
    """
    tiny = 1e-30 * max(float(y.max()), float(v.max())) + 1e-300
    y, v = y.clamp(min=tiny), v.clamp(min=tiny)
    unit = (v / y) ** 0.25
    depth = (v * y).sqrt()
    alpha, beta = p * unit / depth, r / unit / depth
    a, b = (alpha + beta) / 2, (alpha - beta) / 2
    x = torch.where(a >= 0, (a + b.abs()) / 2, 0.0)
    for _ in range(MAX_NEWTON_STEPS):
        root = (1 + x * x).sqrt()
        step = (2 * x - a * x / root - b.abs()) / (2 - a / root**3)
        step = torch.where(torch.isfinite(step), step, 0.0)  # a double root at x = 0, which is reached
        x = (x - step).clamp(min=0)
        if bool((step.abs() <= 1e-15 * (1 + x)).all()):
            break
    grown = x + (1 + x * x).sqrt()
    s = unit * torch.where(b >= 0, grown, 1 / grown)
    return Scaling(s, 2 * p * s - y * s * s + 2 * r / s - v / (s * s))
