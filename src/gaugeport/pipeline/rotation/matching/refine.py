"""The Cayley refinement of a symmetry alignment (paper B, sections 7 and 9.5): continuous, and aimed at the bar itself.

The bar is a maximum over tensors, the coordinate descent of :mod:`gaugeport.pipeline.rotation.matching.search` lowers a sum. Here the
permutations and scalings of a baseline stay as they are, and its rotations (of the stream, and of every head) are
moved together, by Adam on the skew-symmetric matrices of Cayley transforms, to lower a smooth maximum.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from gaugeport.groups import Orthogonal
from gaugeport.pipeline.rotation.matching.search import SymmetryFit, comparable_rows, pooled_mse, tensor_mse
from gaugeport.pipeline.rotation.matching.symmetry import Rows, Symmetry, check_dyck, part
from gaugeport.transport.model import check_element

POWERS = (4.0, 64.0)
"""Exponent of the p-norm that stands for the maximum, at the first and the last step (geometric in between)."""


def cayley(x: Tensor) -> Tensor:
    """The rotations ``(I - S)⁻¹ (I + S)`` of ``S = (x - xᵀ)/2``, for matrices [..., n, n]; ``x = 0`` gives I.

    Their determinant is +1 and -1 is no eigenvalue of theirs: half-turns are only reached in the limit, and from a
    start ``R0`` all of ``R0 · cayley(x)`` lies in the component of O(n) that holds ``R0``.
    """
    skew = (x - x.mT) / 2
    eye = torch.eye(x.shape[-1], dtype=x.dtype)
    return torch.linalg.solve(eye - skew, eye + skew)


def refine(
    model: nn.Module,
    reference: nn.Module,
    baseline: SymmetryFit,
    steps: int = 400,
    rate: float = 0.01,
    strict: bool = True,
) -> SymmetryFit:
    """``baseline`` with its rotations refined for the worst tensor: never a larger ``max_mse``.

    Two runs, from the baseline and from the configuration of its search with the lowest objective, since the start that
    is best by the bar need not have the best heads and neurons; the better end counts. ``rate`` is Adam's first learning
    rate, which falls to 0 as a cosine. The ``trace`` of the result is the bar (not the objective) of that run at its
    start and after every step; its best iterate is what is returned. ``strict`` as in
    :func:`~gaugeport.pipeline.rotation.matching.search.fit_symmetry`.

    Raises ``ValueError`` for models that cannot be compared, (``strict``) for gains in place, and for no steps.
    """
    if steps < 1:
        raise ValueError(f"steps must be at least 1, found {steps}")
    rows, target = comparable_rows(model, reference)
    check_element(check_dyck(model), Orthogonal.identity(baseline.symmetry.residual.size), strict)
    lowest = min(baseline.configurations, key=lambda c: c.objective, default=baseline)
    starts = [baseline.symmetry] + [lowest.symmetry] * (lowest.symmetry is not baseline.symmetry)
    runs = [_descend(rows, target, start, steps, rate) for start in starts]
    found, trace = min(runs, key=lambda run: min(run[1]))
    per_tensor = tensor_mse(found.move(rows), target)
    if max(per_tensor.values()) > baseline.max_mse:
        found, per_tensor = baseline.symmetry, baseline.per_tensor
    pooled = pooled_mse(per_tensor, target)
    return replace(
        baseline,
        symmetry=found,
        per_tensor=per_tensor,
        max_mse=max(per_tensor.values()),
        global_mse=pooled,
        trace=trace,
    )


def _descend(
    rows: Rows, target: Rows, start: Symmetry, steps: int, rate: float
) -> tuple[Symmetry, tuple[float, ...]]:
    """Adam from ``start``: the best iterate by the bar, and the bar at every iterate."""
    gains = {name: t for name, t in rows.items() if t.dim() == 1}  # no rotation touches them
    inside, fixed = start.inside(rows), start.residual.dense()
    start = start.with_residual(Orthogonal(fixed))
    heads = torch.stack([*start.qk, *start.vo])
    turns = [torch.zeros_like(fixed, requires_grad=True), torch.zeros_like(heads, requires_grad=True)]
    adam = torch.optim.Adam(turns, lr=rate)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(adam, steps)
    found, trace = start, list[float]()
    for step in range(steps + 1):
        residual, inner = fixed @ cayley(turns[0]), cayley(turns[1])
        moved = {**_turned(inside, inner, residual), **gains}
        mse = torch.stack([(moved[name] - target[name]).square().mean() for name in target])
        top = mse.detach().max()
        if step and float(top) < min(trace):
            found = _symmetry(start, residual, inner @ heads)
        trace.append(float(top))
        if step == steps or not float(top):
            break
        power = POWERS[0] * (POWERS[1] / POWERS[0]) ** (step / steps)
        adam.zero_grad()
        (mse / top).pow(power).sum().pow(1 / power).backward()
        adam.step()
        decay.step()
    return found, tuple(trace)


def _turned(inside: Rows, turns: Tensor, residual: Tensor) -> Rows:
    """Rows turned inside heads by ``turns`` [2 · layers, heads, h, h], Q-K first, and then along the stream."""
    moved = dict(inside)
    for at, turn in enumerate(turns):
        layer, kinds = at % (len(turns) // 2), "qk" if at < len(turns) // 2 else "vo"
        for kind in kinds:
            name = part(layer, kind)
            moved[name] = turn @ inside[name]
    return {name: t @ residual.T for name, t in moved.items() if t.dim() > 1}


def _symmetry(start: Symmetry, residual: Tensor, turns: Tensor) -> Symmetry:
    qk, vo = turns.detach().chunk(2)
    return replace(start, residual=Orthogonal(residual.detach()), qk=tuple(qk), vo=tuple(vo))
