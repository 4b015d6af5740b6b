"""``transport_model``: carry the parameters of a model to another residual basis, by its chart."""

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
    """The model with ``g`` acting on its residual stream: the same function if ``g`` is in the chart's group.

    Every parameter and residual-width buffer is moved once, in one pass and its own dtype, as its chart says: vectors
    permuted and signed (or rotated), gains permuted. Tied weights stay tied. Gradients held by the parameters are
    dropped: they belong to the old coordinates (an optimizer state needs a transport of its own).

    ``inplace=True`` changes ``model`` itself and returns it. ``strict=False`` applies an element from outside the
    group too, for negative controls; a rotation then leaves the gains as they are.

    Raises ``ValueError`` for an unknown or unfitting model (:func:`gaugeport.charts.chart_of`), one that is offloaded or
    quantized, or (``inplace``) whose parameters share memory without being tied, for a gauge of another width, for an affine gauge, and with ``strict`` for one outside the chart's group. Source: DESIGN §1.
    """
    chart = chart_of(model)
    check_element(chart, g, strict)
    assert isinstance(g, SignedPermutation | Orthogonal)
    check_movable(chart, model)
    if inplace:
        check_no_shared_memory(model)
    moved = model if inplace else copy.deepcopy(model)
    tensors = {**dict(moved.named_parameters()), **dict(moved.named_buffers())}
    with torch.no_grad(), InPlace(g) as act:
        for name, tensor in tensors.items():
            for axis, kind in enumerate(chart.axes(name)):
                if kind == "vector":
                    act.vector(tensor.data, axis)
                elif kind == "gain" and isinstance(g, SignedPermutation):
                    act.gain(tensor.data, axis)
            if isinstance(tensor, nn.Parameter):
                tensor.grad = None
    return moved


def check_element(chart: Chart, g: Element, strict: bool = True) -> None:
    """Raise ``ValueError`` unless ``g`` is linear, of the chart's width and (``strict``) in the chart's group, and
    ``TypeError`` for what is no gauge element."""
    check_is_element(g)
    if g.size != chart.width:
        raise ValueError(
            f"the gauge has width {g.size}; the residual stream of this {chart.model_type} {chart.width}"
        )
    if not isinstance(g, SignedPermutation | Orthogonal):
        raise ValueError(
            f"a model is moved by linear gauges only, found a {g.group!r} gauge; pass its .linear if that is meant"
        )
    if strict and not contains(chart.group, g):
        raise ValueError(
            f"a gauge of group {g.group!r} is not in the exact group of this {chart.model_type} chart, "
            f"{chart.group!r}: the result would be another function. {_advice(chart, g)}"
        )


def _advice(chart: Chart, g: Element) -> str:
    if isinstance(g, Orthogonal) and not chart.folded and chart.foldable:
        larger = "mean_preserving_orthogonal" if chart.norm == "layer" else "orthogonal"
        return f"Norm gains are in place; after fold_gains(model) the group is {larger!r}"
    if isinstance(g, Orthogonal) and chart.family.post_norm:
        return "A gain on a writer's output (post-norm) cannot be folded away, so rotations never become exact here"
    if chart.norm == "layer" and isinstance(g, SignedPermutation):
        return (
            "LayerNorm subtracts the mean over coordinates: its signed permutations are only S_d × {±1}, "
            "'permutation' or 'global_sign_permutation'"
        )
    return "LayerNorm subtracts the mean over coordinates: a rotation has to fix the all-ones direction up to sign"
