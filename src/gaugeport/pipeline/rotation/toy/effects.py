"""What mean-ablating a component or an edge costs: measured, and predicted from gradients (paper B, section 3.3).

*Attribution patching* extrapolates from the clean run's gradient. *Integrated gradients* averages the gradient along the
straight line from the mean to the clean value of the one thing patched, everything else responding, so that its prediction
equals the measured effect up to the discretisation: completeness.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from gaugeport.models.dyck import DyckModel
from gaugeport.pipeline.rotation.toy.components import ALL, Edge, components, mean_loss, run, upstream

STEPS = 32
"""Points of the path (section 3.3)."""


def component_edges(model: DyckModel) -> list[Edge]:
    """The ten components as patches of all that they write."""
    return [(c, ALL) for c in components(model)]


def named(edge: Edge) -> str:
    """``L0H2`` for a component, ``L0H2->L1M`` for an edge."""
    source, destination = edge
    return source if destination == ALL else f"{source}->{destination}"


@torch.no_grad()
def measured(
    model: DyckModel, ids: Tensor, labels: Tensor, patched: Sequence[Edge], means: Mapping[str, Tensor]
) -> dict[Edge, float]:
    """Rise of the mean loss in nats when what each edge carries is clamped to its mean (:func:`components.means`)."""
    clean = run(model, ids)
    before = mean_loss(clean.logits, labels)
    found = {}
    for edge in patched:
        after = run(model, ids, {edge: means[edge[0]]}, upstream(model, clean.wrote, edge))
        found[edge] = float(mean_loss(after.logits, labels) - before)
    return found


@torch.no_grad()
def ablated_together(
    model: DyckModel, ids: Tensor, labels: Tensor, sources: Sequence[str], means: Mapping[str, Tensor]
) -> float:
    """Rise of the mean loss in nats when all of some components are clamped to their means at once."""
    before = mean_loss(run(model, ids).logits, labels)
    after = mean_loss(run(model, ids, {(s, ALL): means[s] for s in sources}).logits, labels)
    return float(after - before)


def attribution_patching(
    model: DyckModel, ids: Tensor, labels: Tensor, patched: Sequence[Edge], means: Mapping[str, Tensor]
) -> dict[Edge, float]:
    """The effects of :func:`measured` by the gradient of the clean run alone."""
    return {e: _along(model, ids, labels, e, means, [1.0]) for e in patched}


def integrated_gradients(
    model: DyckModel,
    ids: Tensor,
    labels: Tensor,
    patched: Sequence[Edge],
    means: Mapping[str, Tensor],
    steps: int = STEPS,
) -> dict[Edge, float]:
    """The effects of :func:`measured` by ``steps`` gradients at the midpoints of the path.

    Raises ``ValueError`` for fewer than one step.
    """
    points = midpoints(steps)
    return {e: _along(model, ids, labels, e, means, points) for e in patched}


def midpoints(steps: int) -> list[float]:
    """Of ``steps`` equal parts of the path from the mean (0) to the clean value (1). Raises ``ValueError`` below one."""
    if steps < 1:
        raise ValueError(f"steps={steps}; allowed: 1 or more points on the path")
    return [(k + 0.5) / steps for k in range(steps)]


def _along(
    model: DyckModel,
    ids: Tensor,
    labels: Tensor,
    edge: Edge,
    means: Mapping[str, Tensor],
    points: Sequence[float],
) -> float:
    """Mean over ``points`` (0 the mean, 1 the clean value) of the loss's slope towards the mean."""
    with torch.no_grad():
        clean = run(model, ids).wrote
    known = upstream(model, clean, edge)
    mean, total = means[edge[0]], 0.0
    for a in points:
        value = (mean + a * (clean[edge[0]] - mean)).detach().requires_grad_(True)
        with torch.enable_grad():
            loss = mean_loss(run(model, ids, {edge: value}, known).logits, labels)
            (gradient,) = torch.autograd.grad(loss, value)
        total += float((gradient.double() * (mean - clean[edge[0]]).double()).sum())
    return total / len(points)
