"""``fold_gains``: move every norm's gain into the matrices that read it, so that rotations become exact."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from gaugeport.charts.chart import Chart, chart_of, check_movable, check_no_shared_memory
from gaugeport.charts.rules import Rule

Model = TypeVar("Model", bound=nn.Module)


def fold_gains(model: Model, inplace: bool = False) -> Model:
    """The same function with every gain equal to 1, for pre-norm RMSNorm and LayerNorm families.

    A reader's in-axis is multiplied by the gain γ of the norm that feeds it; a LayerNorm bias becomes β' = β/γ and
    stays on the norm. Tied embeddings are untied first (the unembedding reads a norm, the embedding does not), and the
    config says so. Products are taken in float32 or wider and rounded once to each parameter's dtype; the change of
    the logits is that rounding. Afterwards the group is O(d) (RMSNorm) or the rotations that fix the all-ones
    direction (LayerNorm). A model whose gains are 1 already is returned as it is, tied or not.

    Raises ``ValueError`` for post-norm families (a gain on a writer's output has no reader to move into), for a LayerNorm
    gain of exactly 0 (β/0), for products beyond what float16 holds, and for a model that is offloaded or quantized or
    (``inplace``) whose parameters share memory without being tied, before anything is changed. Source: DESIGN §1.
    """
    chart = chart_of(model)
    if not chart.foldable:
        raise ValueError(
            f"the gains of {chart.model_type} cannot be folded: a gained norm stands between each writer and the "
            "residual stream (post-norm), and a gain on a writer's output commutes with no rotation"
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
        if chart.tied:
            _untie(chart, folded)
            chart = chart_of(folded)
        parameters = dict(folded.named_parameters())
        for name, product in _products(chart, chart.rules, parameters):
            parameters[name].copy_(product)
        for name in chart.names("gain"):
            parameters[name].fill_(1.0 - chart.family.gain_offset)
        for p in parameters.values():
            p.grad = None
    return folded


def _products(
    chart: Chart, rules: Mapping[str, Rule], parameters: dict[str, nn.Parameter]
) -> Iterator[tuple[str, Tensor]]:
    """Every parameter that takes up a gain, and what it becomes, in float32 or wider."""
    for name, rule in rules.items():
        norm = rule.norm_of(name)
        if norm is None or rule.role == "gain":
            continue
        gain, p = _gain(chart, parameters, norm), parameters[name]
        if rule.role == "norm_bias":
            yield name, _wide(p) / gain
        else:
            shape = [1] * p.dim()
            shape[rule.axes.index("vector")] = chart.width
            yield name, _wide(p) * gain.view(shape)


def _wide(p: Tensor) -> Tensor:
    return p.to(torch.promote_types(p.dtype, torch.float32))


def _gain(chart: Chart, parameters: dict[str, nn.Parameter], norm: str) -> Tensor:
    return _wide(parameters[f"{norm}.weight"]) + chart.family.gain_offset


def _refuse_zero_gains(chart: Chart, model: nn.Module) -> None:
    """β' = β/γ has no value at γ = 0; an RMSNorm gain of 0 folds without loss."""
    if chart.norm != "layer":
        return
    parameters = dict(model.named_parameters())
    zeros = {name: int((parameters[name] == 0).sum()) for name in chart.names("gain")}
    found = ", ".join(f"{name} ({n})" for name, n in zeros.items() if n)
    if found:
        raise ValueError(
            f"LayerNorm gains of exactly 0 cannot be folded, since the bias becomes β/γ; coordinates at 0: {found}"
        )


@torch.no_grad()
def _refuse_overflow(chart: Chart, model: nn.Module) -> None:
    """float16 ends at 65504; bfloat16 reaches as far as float32."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    if chart.folded or all(p.dtype != torch.float16 for p in parameters.values()):
        return
    rules, head = dict(chart.rules), f"{chart.family.unembedding}.weight"
    if chart.tied:  # until it is untied, the chart has it as the embedding
        rules[head] = next(rule for rule in chart.family.rules if rule.match(head) is not None)
    lost = {
        name: int((torch.isfinite(product) & ~torch.isfinite(product.to(parameters[name].dtype))).sum())
        for name, product in _products(chart, rules, parameters)
    }
    found = ", ".join(f"{name} ({n})" for name, n in lost.items() if n)
    if found:
        raise ValueError(
            f"folded, these are beyond what float16 holds (entries): {found}; load the model in float32"
        )


def _untie(chart: Chart, model: Any) -> None:
    head = chart.unembedding(model)
    shared: Any = head.weight
    head.weight = nn.Parameter(shared.detach().clone(), requires_grad=shared.requires_grad)
    model.config.tie_word_embeddings = False
    target = f"{chart.family.unembedding}.weight"
    if isinstance(getattr(model, "all_tied_weights_keys", None), dict):
        # transformers' own note of what is tied, which saving and loading go by; a copy, it may be shared
        model.all_tied_weights_keys = {k: v for k, v in model.all_tied_weights_keys.items() if k != target}
