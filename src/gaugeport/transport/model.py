"""Move the parameters of a model to another residual basis, as its chart says."""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from torch import nn

from gaugeport.charts.chart import Chart, chart_of, check_movable, check_no_shared_memory
from gaugeport.groups import Element, Orthogonal, SignedPermutation, check_is_element, contains
from gaugeport.transport.axis import InPlace

Model = TypeVar("Model", bound=nn.Module)


def transport_model(model: Model, g: Element, inplace: bool = False, strict: bool = True) -> Model:
    """Return the model with ``g`` acting on its residual stream.

    It is the same function if the chart's group contains ``g``. Every parameter and every buffer of residual
    width moves once, in its own dtype, as the chart declares its axes: vectors are permuted and signed (or
    rotated), gains are permuted. Tied weights stay tied. Gradients are dropped, because they belong to the
    old coordinates; an optimizer state has a transport of its own.

    Args:
        model: A causal language model whose family has a chart.
        g: A linear gauge of the chart's width.
        inplace: Change ``model`` itself and return it.
        strict: Refuse a gauge from outside the chart's group. Negative controls pass False; a rotation then
            leaves the gains as they are.

    Returns:
        The moved model: a copy, or ``model`` itself if ``inplace``.

    Raises:
        TypeError: If ``g`` is not a gauge element.
        ValueError: If the model has no chart or does not fit it, is offloaded or quantized, or (``inplace``)
            has parameters that share memory without being tied; if ``g`` has another width, is affine, or
            (``strict``) is outside the chart's group.
    """
    chart = chart_of(model)
    check_gauge_fits(chart, g, strict)
    assert isinstance(g, SignedPermutation | Orthogonal)
    check_movable(chart, model)
    if inplace:
        check_no_shared_memory(model)
    moved = model if inplace else copy.deepcopy(model)
    tensors = {**dict(moved.named_parameters()), **dict(moved.named_buffers())}
    with torch.no_grad(), InPlace(g) as act:
        for name, tensor in tensors.items():
            act.by_kinds(tensor.data, chart.axes(name))
            if isinstance(tensor, nn.Parameter):
                tensor.grad = None
    return moved


def check_gauge_fits(chart: Chart, g: Element, strict: bool = True) -> None:
    """Check that a gauge can move the models of a chart.

    Args:
        chart: The chart of the model.
        g: The gauge.
        strict: Also require that the chart's group holds ``g``.

    Raises:
        TypeError: If ``g`` is not a gauge element.
        ValueError: If ``g`` has another width, is affine, or (``strict``) is outside the chart's group.
    """
    check_is_element(g)
    if g.size != chart.width:
        raise ValueError(
            f"the gauge has width {g.size}; expected {chart.width}, the width of this {chart.model_type}"
        )
    if not isinstance(g, SignedPermutation | Orthogonal):
        raise ValueError(
            f"expected a linear gauge, got one of group {g.group!r}; pass its .linear to move by that"
        )
    if strict and not contains(chart.group, g):
        raise ValueError(
            f"a gauge of group {g.group!r} is not in the exact group of this {chart.model_type} chart, "
            f"{chart.group!r}: the result would be another function. {_advice(chart, g)}"
        )


def _advice(chart: Chart, g: Element) -> str:
    """Say what would make the gauge exact, or why nothing can."""
    if isinstance(g, Orthogonal) and not chart.folded and chart.foldable:
        larger = "mean_preserving_orthogonal" if chart.norm == "layer" else "orthogonal"
        return f"Norm gains are in place; after fold_gains(model) the group is {larger!r}"
    if isinstance(g, Orthogonal) and chart.family.post_norm:
        return (
            "A gain on a writer's output (post-norm) cannot be folded away, so no rotation is ever exact here"
        )
    if chart.norm == "layer" and isinstance(g, SignedPermutation):
        return (
            "LayerNorm subtracts the mean over coordinates: its signed permutations are only S_d × {±1}, "
            "'permutation' or 'global_sign_permutation'"
        )
    return (
        "LayerNorm subtracts the mean over coordinates: a rotation must fix the all-ones direction up to sign"
    )
