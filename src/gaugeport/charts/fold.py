"""Fold every norm's gain into the matrices that read the norm, so that rotations become exact gauges."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from gaugeport.charts.chart import Chart, chart_of, check_movable, check_no_shared_memory
from gaugeport.charts.rules import Rule
from gaugeport.utils.precision import at_least_float32

Model = TypeVar("Model", bound=nn.Module)


def fold_gains(model: Model, inplace: bool = False) -> Model:
    """Return a model that computes the same function with every gain equal to 1.

    Each reader is multiplied, along its in-axis, by the gain γ of the norm that feeds it. A LayerNorm bias
    becomes β' = β/γ and stays on the norm. Tied embeddings are untied first, also in the config: the
    unembedding reads a norm, the embedding does not. Afterwards the exact gauge group is O(d) for RMSNorm,
    and the rotations that fix the all-ones direction up to sign for LayerNorm.

    Products are taken in float32 or wider and rounded once to each parameter's dtype. This rounding is the
    only change of the logits. If the gains are already 1, the weights stay as they are, tied or not.

    Args:
        model: A causal LM of a pre-norm family.
        inplace: Change ``model`` itself instead of a copy.

    Raises:
        ValueError: Before anything is changed, if the family has post-norms (the gain on a writer's output
            has no reader to move into), if a LayerNorm gain is 0 (β/0), if a product overflows float16, if
            the model is offloaded or quantized, or, with ``inplace``, if untied parameters share memory.
    """
    chart = chart_of(model)
    if not chart.foldable:
        raise ValueError(
            f"the gains of {chart.model_type} cannot be folded: a norm with a gain stands between each "
            "writer and the residual stream (post-norm), and a gain on a writer's output commutes with "
            "no rotation"
        )
    check_movable(chart, model)
    if inplace:
        check_no_shared_memory(model)
    _refuse_zero_gains(chart, model)
    _refuse_overflow(chart, model)
    folded = model if inplace else copy.deepcopy(model)
    if chart.folded:
        return folded
    with torch.no_grad():
        # 1) give the unembedding a tensor of its own
        if chart.tied:
            _untie(chart, folded)
            chart = chart_of(folded)
        # 2) multiply the readers, divide the norm biases
        parameters = dict(folded.named_parameters())
        for name, product in _products(chart, chart.rules, parameters):
            parameters[name].copy_(product)
        # 3) set the gains to 1, and drop gradients of the old weights
        for name in chart.names("gain"):
            parameters[name].fill_(1.0 - chart.family.gain_offset)
        for p in parameters.values():
            p.grad = None
    return folded


def _products(
    chart: Chart, rules: Mapping[str, Rule], parameters: dict[str, nn.Parameter]
) -> Iterator[tuple[str, Tensor]]:
    """Yield every parameter that takes up a gain, and its new value in float32 or wider."""
    for name, rule in rules.items():
        norm = rule.norm_of(name)
        if norm is None or rule.role == "gain":
            continue
        gain, p = _gain(chart, parameters, norm), parameters[name]
        if rule.role == "norm_bias":
            yield name, at_least_float32(p) / gain
        else:
            shape = [1] * p.dim()
            shape[rule.axes.index("vector")] = chart.width
            yield name, at_least_float32(p) * gain.view(shape)


def _gain(chart: Chart, parameters: dict[str, nn.Parameter], norm: str) -> Tensor:
    return at_least_float32(parameters[f"{norm}.weight"]) + chart.family.gain_offset


def _refuse_zero_gains(chart: Chart, model: nn.Module) -> None:
    """Raise ``ValueError`` for LayerNorm gains of 0: β/γ has no value. RMSNorm gains of 0 are fine."""
    if chart.norm != "layer":
        return
    parameters = dict(model.named_parameters())
    zeros = {name: int((parameters[name] == 0).sum()) for name in chart.names("gain")}
    counts = ", ".join(f"{name} ({n})" for name, n in zeros.items() if n)
    if counts:
        raise ValueError(
            f"LayerNorm gains of exactly 0 cannot be folded: the bias becomes β/γ. Coordinates at 0: {counts}"
        )


@torch.no_grad()
def _refuse_overflow(chart: Chart, model: nn.Module) -> None:
    """Raise ``ValueError`` for products beyond float16's 65504. bfloat16 has the range of float32."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    if chart.folded or all(p.dtype != torch.float16 for p in parameters.values()):
        return
    rules, head = dict(chart.rules), f"{chart.family.unembedding}.weight"
    if chart.tied:  # the chart lists a tied unembedding as the embedding
        rules[head] = next(rule for rule in chart.family.rules if rule.match(head) is not None)
    overflows: list[str] = []
    for name, product in _products(chart, rules, parameters):
        lost = torch.isfinite(product) & ~torch.isfinite(product.to(parameters[name].dtype))
        if lost.any():
            overflows.append(f"{name} ({int(lost.sum())})")
    if overflows:
        raise ValueError(
            f"folding overflows float16 in these parameters (entries): {', '.join(overflows)}; "
            "load the model in float32"
        )


def _untie(chart: Chart, model: Any) -> None:
    head = chart.unembedding(model)
    shared: Any = head.weight
    head.weight = nn.Parameter(shared.detach().clone(), requires_grad=shared.requires_grad)
    model.config.tie_word_embeddings = False
    target = f"{chart.family.unembedding}.weight"
    if isinstance(getattr(model, "all_tied_weights_keys", None), dict):
        # saving and loading follow this record of transformers; replace it, as models may share the dict
        model.all_tied_weights_keys = {k: v for k, v in model.all_tied_weights_keys.items() if k != target}
