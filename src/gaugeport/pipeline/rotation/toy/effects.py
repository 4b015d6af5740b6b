"""Measure what mean-ablating a component or an edge costs, and predict it from gradients.

Source: paper B, section 3.3.

*Attribution patching* extrapolates from the gradient of the clean run. *Integrated gradients* averages the
gradient along the straight line from the mean to the clean value of the one thing that is patched. Its
prediction equals the measured effect up to the discretisation of the line: completeness.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from gaugeport.models.dyck import DyckModel
from gaugeport.pipeline.rotation.toy.components import (
    ALL,
    Edge,
    components,
    mean_loss,
    run_graph,
    unaffected_sources,
)

PATH_POINTS = 32
"""Points on the path of integrated gradients (section 3.3)."""


def component_edges(model: DyckModel) -> list[Edge]:
    """List the components as patches of all that they write; ten in paper B's model."""
    return [(c, ALL) for c in components(model)]


@torch.no_grad()
def measure_effects(
    model: DyckModel, ids: Tensor, labels: Tensor, patched: Sequence[Edge], means: Mapping[str, Tensor]
) -> dict[Edge, float]:
    """Measure the rise of the mean loss when an edge carries its mean, for one edge at a time.

    Args:
        model: A Dyck-3 model.
        ids: Tokens, int64[b, t].
        labels: int64[b, t, 3].
        patched: The edges to patch.
        means: Source -> the mean of what it writes, float[d] (:func:`.components.mean_outputs`).

    Returns:
        Edge -> rise in nats.
    """
    clean = run_graph(model, ids)
    loss_before = mean_loss(clean.logits, labels)
    rises = {}
    for edge in patched:
        known = unaffected_sources(model, clean.written, edge)
        ablated = run_graph(model, ids, {edge: means[edge[0]]}, known)
        rises[edge] = float(mean_loss(ablated.logits, labels) - loss_before)
    return rises


@torch.no_grad()
def measure_joint_effect(
    model: DyckModel, ids: Tensor, labels: Tensor, sources: Sequence[str], means: Mapping[str, Tensor]
) -> float:
    """Measure the rise of the mean loss in nats when several components carry their means at once.

    Args are those of :func:`measure_effects`, with ``sources`` instead of edges.
    """
    before = mean_loss(run_graph(model, ids).logits, labels)
    after = mean_loss(run_graph(model, ids, {(s, ALL): means[s] for s in sources}).logits, labels)
    return float(after - before)


def attribution_patching(
    model: DyckModel, ids: Tensor, labels: Tensor, patched: Sequence[Edge], means: Mapping[str, Tensor]
) -> dict[Edge, float]:
    """Predict :func:`measure_effects`, of the same arguments, from the gradient of the clean run alone."""
    clean_only = [1.0]
    return {e: _predict(model, ids, labels, e, means, clean_only) for e in patched}


def integrated_gradients(
    model: DyckModel,
    ids: Tensor,
    labels: Tensor,
    patched: Sequence[Edge],
    means: Mapping[str, Tensor],
    points: int = PATH_POINTS,
) -> dict[Edge, float]:
    """Predict :func:`measure_effects` from the gradients at ``points`` midpoints of the path.

    Args:
        model: A Dyck-3 model.
        ids: Tokens, int64[b, t].
        labels: int64[b, t, 3].
        patched: The edges to patch.
        means: Source -> the mean of what it writes, float[d].
        points: Number of points on the path.

    Returns:
        Edge -> predicted rise in nats.

    Raises:
        ValueError: For fewer than one point.
    """
    positions = midpoints(points)
    return {e: _predict(model, ids, labels, e, means, positions) for e in patched}


def midpoints(points: int) -> list[float]:
    """Return the midpoints of ``points`` equal parts of the path from the mean (0) to the clean value (1).

    Raises:
        ValueError: For fewer than one point.
    """
    if points < 1:
        raise ValueError(f"points={points}; allowed: 1 or more points on the path")
    return [(k + 0.5) / points for k in range(points)]


def _predict(
    model: DyckModel,
    ids: Tensor,
    labels: Tensor,
    edge: Edge,
    means: Mapping[str, Tensor],
    positions: Sequence[float],
) -> float:
    """Average the slope of the loss towards the mean over ``positions`` (0: the mean, 1: the clean value)."""
    with torch.no_grad():
        written = run_graph(model, ids).written
    known = unaffected_sources(model, written, edge)
    clean, mean, total = written[edge[0]], means[edge[0]], 0.0
    for a in positions:
        value = (mean + a * (clean - mean)).detach().requires_grad_(True)
        with torch.enable_grad():
            loss = mean_loss(run_graph(model, ids, {edge: value}, known).logits, labels)
            (gradient,) = torch.autograd.grad(loss, value)
        total += float((gradient.double() * (mean - clean).double()).sum())
    return total / len(positions)
