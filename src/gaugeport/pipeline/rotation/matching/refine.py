"""Refine the rotations of a symmetry fit for Bar P itself by Cayley transforms (paper B, sections 7 and 9.5).

Bar P is a maximum over tensors, and the coordinate descent of
:mod:`gaugeport.pipeline.rotation.matching.search` lowers a sum. Here the permutations and scalings of a
baseline stay as they are, and its rotations (of the stream and of every head) move together: Adam on the
skew-symmetric matrices of Cayley transforms lowers a smooth maximum.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from gaugeport.groups import Orthogonal
from gaugeport.pipeline.rotation.matching.search import SymmetryFit, comparable_rows, pooled_mse, tensor_mse
from gaugeport.pipeline.rotation.matching.symmetry import Rows, Symmetry, check_dyck, parameter_name
from gaugeport.transport.model import check_gauge_fits

FIRST_POWER, LAST_POWER = 4.0, 64.0
"""Exponents of the p-norm that replaces the maximum at the first and the last step; geometric between."""


def cayley(x: Tensor) -> Tensor:
    """Return the rotations ``(I - S)⁻¹ (I + S)`` of ``S = (x - xᵀ)/2``, for matrices [..., n, n].

    ``x = 0`` gives I. The determinant is +1 and -1 is never an eigenvalue: half-turns are reached only in the
    limit, and from a start ``R0`` all of ``R0 · cayley(x)`` lies in the component of O(n) that holds ``R0``.
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
    """Refine the rotations of ``baseline`` for the worst tensor. The result never has a larger ``max_mse``.

    There are two runs: one from the baseline, and one from the configuration of its search with the lowest
    objective, since the start that is best by the bar need not have the best heads and neurons. The better
    end is returned.

    Args:
        model: The Dyck-3 model to move.
        reference: The model that it is brought to.
        baseline: A fit of ``model`` to ``reference``.
        steps: Adam steps of each run.
        rate: Adam's first learning rate, which falls to 0 as a cosine.
        strict: As in :func:`~gaugeport.pipeline.rotation.matching.search.fit_symmetry`.

    Returns:
        The best iterate of the better run. Its ``trace`` is the bar (not the objective) of that run, at the
        start and after every step.

    Raises:
        ValueError: The models cannot be compared, (``strict``) their gains are in place, or ``steps`` is
            below 1.
    """
    if steps < 1:
        raise ValueError(f"steps={steps}; allowed: 1 or more")
    rows, target = comparable_rows(model, reference)
    check_gauge_fits(check_dyck(model), Orthogonal.identity(baseline.symmetry.residual.size), strict)

    # 1) run from the baseline and from the lowest objective, unless these are the same
    lowest = min(baseline.configurations, key=lambda c: c.objective, default=baseline)
    starts = [baseline.symmetry]
    if lowest.symmetry is not baseline.symmetry:
        starts.append(lowest.symmetry)
    runs = [_lower_bar(rows, target, start, steps, rate) for start in starts]

    # 2) keep the better end, or the baseline where neither is better
    symmetry, trace = min(runs, key=lambda run: min(run[1]))
    per_tensor = tensor_mse(symmetry.move(rows), target)
    if max(per_tensor.values()) > baseline.max_mse:
        symmetry, per_tensor = baseline.symmetry, baseline.per_tensor
    return replace(
        baseline,
        symmetry=symmetry,
        per_tensor=per_tensor,
        max_mse=max(per_tensor.values()),
        global_mse=pooled_mse(per_tensor, target),
        trace=trace,
    )


def _lower_bar(
    rows: Rows, target: Rows, start: Symmetry, steps: int, rate: float
) -> tuple[Symmetry, tuple[float, ...]]:
    """Run Adam from ``start``; return the best iterate by the bar, and the bar at every iterate."""
    gains = {name: t for name, t in rows.items() if t.dim() == 1}  # no rotation changes them
    prepared, start_residual = start.move_heads_and_neurons(rows), start.residual.dense()
    start = start.with_residual(Orthogonal(start_residual))
    start_heads = torch.stack([*start.qk, *start.vo])
    skews = [
        torch.zeros_like(start_residual, requires_grad=True),
        torch.zeros_like(start_heads, requires_grad=True),
    ]
    adam = torch.optim.Adam(skews, lr=rate)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(adam, steps)
    best, trace = start, list[float]()
    for step in range(steps + 1):
        # 1) measure the bar at this iterate
        residual, head_turns = start_residual @ cayley(skews[0]), cayley(skews[1])
        moved = {**_rotate(prepared, head_turns, residual), **gains}
        mse = torch.stack([(moved[name] - target[name]).square().mean() for name in target])
        bar = mse.detach().max()
        if step and float(bar) < min(trace):
            best = _with_rotations(start, residual, head_turns @ start_heads)
        trace.append(float(bar))
        if step == steps or not float(bar):
            break
        # 2) step down the smooth maximum
        power = FIRST_POWER * (LAST_POWER / FIRST_POWER) ** (step / steps)
        adam.zero_grad()
        (mse / bar).pow(power).sum().pow(1 / power).backward()
        adam.step()
        decay.step()
    return best, tuple(trace)


def _rotate(prepared: Rows, head_turns: Tensor, residual: Tensor) -> Rows:
    """Rotate rows inside heads by ``head_turns`` [2 · layers, heads, h, h], Q-K first; then the stream."""
    moved = dict(prepared)
    layers = len(head_turns) // 2
    for at, turn in enumerate(head_turns):
        for kind in "qk" if at < layers else "vo":
            name = parameter_name(at % layers, kind)
            moved[name] = turn @ prepared[name]
    return {name: t @ residual.T for name, t in moved.items() if t.dim() > 1}


def _with_rotations(start: Symmetry, residual: Tensor, heads: Tensor) -> Symmetry:
    qk, vo = heads.detach().chunk(2)
    return replace(start, residual=Orthogonal(residual.detach()), qk=tuple(qk), vo=tuple(vo))
