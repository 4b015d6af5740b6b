"""Measure how much a change of the weights changes the logits, and how much of that is rounding."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from gaugeport.charts.chart import Chart
from gaugeport.charts.rules import matches
from gaugeport.groups import LinearGauge, Orthogonal, SignedPermutation

YARDSTICK_FACTOR = 10.0
"""A logit change up to this many times that of reordering sums still counts as rounding."""


@torch.no_grad()
def logits_of(model: nn.Module, tokens: Tensor) -> Tensor:
    """Return the logits [batch, position, vocabulary] in evaluation mode and in the model's own precision.

    An enclosing autocast is ignored. The mode of every submodule is restored.
    """
    modes = [(m, m.training) for m in model.modules()]
    model.eval()
    try:
        with torch.autocast(tokens.device.type, enabled=False):
            return model(tokens, use_cache=False).logits
    finally:
        for module, mode in modes:
            module.training = mode


def relative_change(before: Tensor, after: Tensor) -> float:
    """Return the largest absolute difference between logits, over the standard deviation of ``before``."""
    before, after = before.double(), after.double()
    return float((after - before).abs().max() / before.std())


def random_tokens(model: Any, generator: torch.Generator, batch: int = 4, length: int = 16) -> Tensor:
    """Draw uniform token ids, int64[batch, length], on the model's device.

    A model with fewer than ``length`` positions gets rows of as many tokens as it has positions.
    """
    rows = model.get_input_embeddings().weight.shape[0]
    length = min(length, getattr(model.config, "max_position_embeddings", None) or length)
    tokens = torch.randint(0, rows, (batch, length), generator=generator)
    return tokens.to(model.get_input_embeddings().weight.device)


@torch.no_grad()
def permute_neurons(chart: Chart, model: nn.Module, generator: torch.Generator) -> None:
    """Reorder the MLP neurons of every block in place. The function stays the same, but sums are reordered.

    One permutation serves all blocks. A fused gate/up axis holds the neurons twice: both halves are permuted.
    """
    neuron_axes = [
        (p, axis)
        for name, p in model.named_parameters()
        for pattern, axis in chart.family.neurons
        if matches(pattern, name)
    ]
    n = min(p.shape[axis] for p, axis in neuron_axes)
    perm = torch.randperm(n, generator=generator)
    for p, axis in neuron_axes:
        order = torch.cat([perm + k * n for k in range(p.shape[axis] // n)])
        p.copy_(p.index_select(axis, order.to(p.device)))


@torch.no_grad()
def apply_to_weights(chart: Chart, model: nn.Module, g: LinearGauge) -> None:
    """Act with ``g`` on every parameter and buffer in place, whether or not ``g`` is in the chart's group.

    ``transport_model`` does the same faster. Certificates use this function, so that they test the group
    and not the kernels of ``transport_model``. A rotation leaves gains as they are.
    """
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        for axis, kind in enumerate(chart.axes(name)):
            if kind == "vector":
                tensor.copy_(g.act(tensor, axis))
            elif kind == "gain" and isinstance(g, SignedPermutation):
                tensor.copy_(g.act_gain(tensor, axis))


@torch.no_grad()
def restore(work: nn.Module, model: nn.Module) -> None:
    """Copy every parameter and buffer of ``model`` back into its copy ``work``."""
    for copied, original in zip(_tensors(work), _tensors(model), strict=True):
        copied.copy_(original)


def _tensors(model: nn.Module) -> list[Tensor]:
    return [*model.parameters(), *model.buffers()]


def change_under(chart: Chart, model: nn.Module, work: nn.Module, tokens: Tensor, g: LinearGauge) -> float:
    """Return the relative logit change of a model under a gauge element.

    Args:
        chart: The chart of ``model``.
        model: The model to compare with. It is not changed.
        work: A copy of ``model``, or a model that computes the same function. ``g`` acts on it in place;
            afterwards it holds the weights of ``model``.
        tokens: int64[batch, length].
        g: Any linear element of the model's width.

    Returns:
        The largest absolute logit difference, over the standard deviation of the logits.
    """
    apply_to_weights(chart, work, g)
    try:
        return relative_change(logits_of(model, tokens), logits_of(work, tokens))
    finally:
        restore(work, model)


def yardstick_for(
    chart: Chart,
    model: nn.Module,
    work: nn.Module,
    tokens: Tensor,
    generator: torch.Generator,
    rotation: Orthogonal | None = None,
) -> float:
    """Return how much the logits may change if the function stays the same, as a relative logit change.

    This is ten times the change that reordering MLP neurons makes. A rotation also rounds every weight: for
    a rotation it is at least ten times the change under the rotation followed by its inverse.

    Args:
        chart: The chart of ``model``.
        model: The model. It is not changed.
        work: A copy of ``model`` to work in, restored afterwards.
        tokens: int64[batch, length].
        generator: Draws the neuron permutations.
        rotation: The rotation that is compared with the yardstick, or None for a permutation.
    """
    yardstick = neuron_yardstick(chart, model, work, tokens, generator)
    if rotation is None:
        return yardstick
    apply_to_weights(chart, work, rotation)
    return max(yardstick, YARDSTICK_FACTOR * change_under(chart, model, work, tokens, rotation.inverse()))


def neuron_yardstick(
    chart: Chart, model: nn.Module, work: nn.Module, tokens: Tensor, generator: torch.Generator, n: int = 3
) -> float:
    """Return ten times the largest relative logit change under ``n`` random neuron permutations.

    ``work`` is a copy of ``model`` to work in, restored afterwards.
    """
    before, worst = logits_of(model, tokens), 0.0
    for _ in range(n):
        permute_neurons(chart, work, generator)
        worst = max(worst, relative_change(before, logits_of(work, tokens)))
    restore(work, model)
    return YARDSTICK_FACTOR * worst


@contextmanager
def norms_in_float64(model: nn.Module) -> Iterator[None]:
    """While open, let the RMSNorms of a float64 model compute in float64.

    Those of Hugging Face compute in float32 in every model, which limits float64 comparisons to about 4e-7.
    (So does the softmax of eager attention, but no gauge reorders its sums.)
    """
    patched = [m for m in model.modules() if type(m).__name__.endswith("RMSNorm")]
    for m in patched:
        m.forward = _float64_norm(m)
    try:
        yield
    finally:
        for m in patched:
            del m.forward


def _float64_norm(module: Any) -> Any:
    gemma = type(module).__name__.startswith("Gemma")
    eps = module.eps if gemma else module.variance_epsilon

    def forward(x: Tensor) -> Tensor:
        wide = x.to(torch.float64)
        gain = module.weight.to(torch.float64) + (1.0 if gemma else 0.0)
        return (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps) * gain).to(x.dtype)

    return forward
