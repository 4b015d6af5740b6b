"""What certificates and table a1 measure with: logits, their relative change, and the yardstick of summation order."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from gaugeport.charts.chart import Chart
from gaugeport.charts.rules import matches
from gaugeport.groups import Orthogonal, SignedPermutation

YARDSTICK_FACTOR = 10.0


@torch.no_grad()
def logits_of(model: nn.Module, tokens: Tensor) -> Tensor:
    """Logits [batch, position, vocabulary] in evaluation mode and in the model's own precision, whatever autocast is on;
    every submodule's mode is put back."""
    modes = [(m, m.training) for m in model.modules()]
    model.eval()
    try:
        with torch.autocast(tokens.device.type, enabled=False):
            return model(tokens, use_cache=False).logits
    finally:
        for module, mode in modes:
            module.training = mode


def relative_change(before: Tensor, after: Tensor) -> float:
    """Largest absolute difference of two logit tensors, in units of the standard deviation of the first."""
    before, after = before.double(), after.double()
    return float((after - before).abs().max() / before.std())


def random_tokens(model: Any, generator: torch.Generator, batch: int = 4, length: int = 16) -> Tensor:
    """Uniform token ids [batch, length] on the model's device."""
    rows = model.get_input_embeddings().weight.shape[0]
    tokens = torch.randint(0, rows, (batch, length), generator=generator)
    return tokens.to(model.get_input_embeddings().weight.device)


@torch.no_grad()
def permute_neurons(chart: Chart, model: nn.Module, generator: torch.Generator) -> None:
    """Reorder the MLP neurons of every block in place: the same function, summed in another order.

    One permutation serves all blocks. A fused gate/up axis holds the neurons twice and is permuted in both halves.
    """
    found = [
        (p, axis)
        for name, p in model.named_parameters()
        for pattern, axis in chart.family.neurons
        if matches(pattern, name)
    ]
    n = min(p.shape[axis] for p, axis in found)
    perm = torch.randperm(n, generator=generator)
    for p, axis in found:
        order = torch.cat([perm + k * n for k in range(p.shape[axis] // n)])
        p.copy_(p.index_select(axis, order.to(p.device)))


@torch.no_grad()
def apply_to_weights(chart: Chart, model: nn.Module, g: SignedPermutation | Orthogonal) -> None:
    """``g`` on every parameter and buffer, in place, by ``g.act`` alone, in or outside the chart's group.

    What ``transport_model`` does fast; certificates use this so that they do not rest on its kernels.
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
    for mine, theirs in zip(_tensors(work), _tensors(model), strict=True):
        mine.copy_(theirs)


def _tensors(model: nn.Module) -> list[Tensor]:
    return [*model.parameters(), *model.buffers()]


def change_under(
    chart: Chart, model: nn.Module, work: nn.Module, tokens: Tensor, g: SignedPermutation | Orthogonal
) -> float:
    """Relative logit change of ``model`` under ``g``; ``work`` is a copy of it to work in, put back afterwards."""
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
    """How much the logits may change where theory says that the function stays the same.

    Ten times the change that reordering MLP neurons makes; for a rotation, which rounds every weight anew, ten times
    the change under the rotation followed by its inverse (the same function again) where that is more.
    """
    yardstick = neuron_yardstick(chart, model, work, tokens, generator)
    if rotation is None:
        return yardstick
    apply_to_weights(chart, work, rotation)
    return max(yardstick, YARDSTICK_FACTOR * change_under(chart, model, work, tokens, rotation.inverse()))


def neuron_yardstick(
    chart: Chart, model: nn.Module, work: nn.Module, tokens: Tensor, generator: torch.Generator, n: int = 3
) -> float:
    """Ten times the largest relative logit change under ``n`` neuron permutations: what reordering sums may cost.

    Source: DESIGN §1, the exactness ladder.
    """
    before, worst = logits_of(model, tokens), 0.0
    for _ in range(n):
        permute_neurons(chart, work, generator)
        worst = max(worst, relative_change(before, logits_of(work, tokens)))
    restore(work, model)
    return YARDSTICK_FACTOR * worst


@contextmanager
def norms_in_float64(model: nn.Module) -> Iterator[None]:
    """Let a float64 model's RMSNorms really compute in float64.

    Hugging Face's go through float32 whatever the model's dtype, which floors float64 comparisons at about 4e-7.
    (The softmax of eager attention does too, but its sums run over positions, which no gauge reorders.)
    """
    patched = [m for m in model.modules() if type(m).__name__.endswith("RMSNorm")]
    for m in patched:
        m.forward = _float64_norm(m)  # type: ignore[method-assign]
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
