"""Merging models that were written in different coordinates: align, combine, and un-align again."""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from gaugeport.charts.chart import chart_of, check_movable
from gaugeport.groups import Element, check_is_element
from gaugeport.transport.model import check_element, transport_model

METHODS = ("average", "task_arithmetic")

SAME = 1e-6
"""How far from 1 the weights of an average may sum: their own rounding."""

NOT_THE_FUNCTION = {
    "architectures", "chunk_size_feed_forward", "dtype", "id2label", "initializer_range", "label2id",
    "pretraining_tp", "problem_type", "return_dict", "task_specific_params", "transformers_version", "use_cache",
}  # fmt: skip
_ELSE = re.compile(r"_.*|output_.*|summary_.*|.*_token_id|.*dropout|.*_pdrop")
"""Entries of a config that do not change what a model computes from its parameters in evaluation mode."""
LENGTHLESS = {"default", "linear", "llama3"}
"""Rotary embeddings that do not look at ``max_position_embeddings`` (those of dynamic, yarn and longrope do)."""


@dataclass(frozen=True)
class Merged:
    """A merge in the coordinates of the first model, and the gauges that led there, one per model.

    ``gauges[k]`` carries model k to the first model's coordinates; None stands for no move.
    """

    model: nn.Module
    gauges: tuple[Element | None, ...]

    def in_coordinates_of(self, k: int, strict: bool = True) -> Any:
        """A copy of the merge, un-aligned: in the coordinates of model ``k``.

        Raises ``IndexError`` for a ``k`` that was not merged, and with ``strict`` ``ValueError`` for a gauge from
        outside the chart's group.
        """
        if not 0 <= k < len(self.gauges):
            raise IndexError(f"{len(self.gauges)} models were merged, numbered from 0; there is no model {k}")
        gauge = self.gauges[k]
        if gauge is None:
            return copy.deepcopy(self.model)
        return transport_model(self.model, gauge.inverse(), strict=strict)


@torch.no_grad()
def merge(
    models: Sequence[nn.Module],
    gauges: Sequence[Element | None],
    weights: Sequence[float] | None = None,
    method: str = "average",
    base: nn.Module | None = None,
    scaling: float = 1.0,
    base_gauge: Element | None = None,
    strict: bool = True,
) -> Merged:
    """Carry every model into the first one's coordinates by its gauge, and combine the parameters there.

    ``average`` is ``Σ weights_k θ_k``, of weights that sum to 1 (equal ones by default; (1-α, α) for a curve).
    ``task_arithmetic`` is ``base + scaling · Σ weights_k (θ_k - base)``, of any weights (all 1 by default; Ilharco et
    al. 2023). ``gauges[k]`` carries model k there, None where it is there already, which the first always is;
    ``base_gauge`` does the same for ``base``. For neurons and heads, apply their gauges to the models first.
    ``strict=False`` accepts gauges from outside the chart's group, for controls, and models of which only one is folded.

    Sums run in float32 or wider and are rounded once to the first model's dtype; parameters on which all agree come
    out as they are. Tied weights stay tied, buffers are the first model's, and no model given is changed.

    Raises ``ValueError`` for an unknown method, a number of gauges or weights that does not fit, a base that is
    missing or without use, models whose configs or parameter shapes differ or that are offloaded or quantized, a first gauge
    that moves, and with ``strict`` a gauge outside the chart's group, and folded models beside others; ``TypeError``
    for what is no model or no gauge. Source: issue 3, table a7.
    """
    _check(models, gauges, method, base, base_gauge)
    shares = _shares(weights, len(models), method)
    pairs = list(zip(models, gauges, strict=True))  # all are checked before anything is copied
    for model, gauge in [*pairs, *([] if base is None else [(base, base_gauge)])]:
        _check_same(models[0], model, strict)
        if gauge is not None:
            check_element(chart_of(model), gauge, strict)
    start = _aligned(models[0], None, strict) if base is None else _aligned(base, base_gauge, strict)
    # differences from one of them, not a plain weighted sum: where all agree (unit gains, say) nothing is rounded
    total = {name: p.to(_wide(p), copy=True) for name, p in start.items()}
    rest = 1 if base is None else 0  # an average starts from the first model, task arithmetic from the base
    for (model, gauge), share in zip(pairs[rest:], shares[rest:], strict=True):
        for name, p in _aligned(model, gauge, strict).items():
            difference = p.to(total[name].device, total[name].dtype) - start[name]
            total[name].add_(difference, alpha=share * (1.0 if base is None else scaling))
    merged = copy.deepcopy(models[0])
    for name, p in merged.named_parameters():
        p.copy_(total[name])
        p.grad = None
    return Merged(merged, tuple(gauges))


def _aligned(model: nn.Module, gauge: Element | None, strict: bool) -> dict[str, torch.Tensor]:
    moved = model if gauge is None else transport_model(model, gauge, strict=strict)
    return {name: p.detach() for name, p in moved.named_parameters()}


def _wide(p: torch.Tensor) -> torch.dtype:
    return torch.promote_types(p.dtype, torch.float32)


def _check(
    models: Sequence[nn.Module],
    gauges: Sequence[Element | None],
    method: str,
    base: nn.Module | None,
    base_gauge: Element | None,
) -> None:
    if method not in METHODS:
        raise ValueError(f"unknown merge method {method!r}; allowed: {', '.join(METHODS)}")
    if not models:
        raise ValueError("nothing to merge: no models were given")
    if len(gauges) != len(models):
        raise ValueError(f"{len(models)} models want {len(models)} gauges, found {len(gauges)}")
    for model in models:
        if not isinstance(model, nn.Module):
            raise TypeError(
                f"models are wanted first, then their gauges; found {type(model).__name__} among the models"
            )
    for gauge in gauges:
        if gauge is not None:
            check_is_element(gauge)
    first = gauges[0]
    if first is not None and first != type(first).identity(first.size):
        raise ValueError(
            "the first gauge moves: the merge is in the first model's own coordinates, give None or identity"
        )
    if (method == "task_arithmetic") != (base is not None):
        raise ValueError(
            f"method {method!r} {'wants a' if base is None else 'has no use for the'} base model"
        )
    if base_gauge is not None and base is None:
        raise ValueError("a base_gauge without a base")


def _shares(weights: Sequence[float] | None, n: int, method: str) -> list[float]:
    average = method == "average"
    if weights is None:
        return [1.0 / n if average else 1.0] * n
    shares = [float(w) for w in weights]
    if len(shares) != n or not all(math.isfinite(w) for w in shares):
        raise ValueError(f"{n} models want {n} finite weights, found {shares}")
    if average and abs(sum(shares) - 1) > SAME:
        raise ValueError(f"the weights of an average sum to 1, found {shares}, which sum to {sum(shares)}")
    return shares


def _check_same(first: Any, other: Any, strict: bool) -> None:
    """Raise ``ValueError`` unless the two compute the same function of their parameters, and these have one shape."""
    mine, theirs = (_function(m.config) for m in (first, other))
    differing = sorted(k for k in mine.keys() | theirs.keys() if mine.get(k) != theirs.get(k))
    if differing:
        shown = "; ".join(f"{k}: {mine.get(k)!r} and {theirs.get(k)!r}" for k in differing[:6])
        raise ValueError(f"models of different configs cannot be merged: {shown}")
    shapes, others = ({name: tuple(p.shape) for name, p in m.named_parameters()} for m in (first, other))
    wrong = sorted(name for name in shapes.keys() | others.keys() if shapes.get(name) != others.get(name))
    if wrong:
        shown = "; ".join(f"{n}: {shapes.get(n)} and {others.get(n)}" for n in wrong[:6])
        raise ValueError(f"models whose parameters differ cannot be merged: {shown}")
    charts = [chart_of(m) for m in (first, other)]
    for chart, model in zip(charts, (first, other), strict=True):
        check_movable(chart, model)
    if strict and charts[0].foldable and charts[0].folded != charts[1].folded:
        raise ValueError(
            "one of the models has all gains 1 (folded) and another has not: their weights are in different units; fold "
            "both or neither (strict=False for a checkpoint whose gains have not been trained yet)"
        )


def _function(config: Any) -> dict[str, Any]:
    """The entries of a config that decide what a model computes from its parameters: of those that its class knows."""
    known = type(config)().to_dict()
    kept = {
        k: v
        for k, v in config.to_dict().items()
        if k in known and not (k in NOT_THE_FUNCTION or _ELSE.fullmatch(k))
    }
    if _rope_types(kept.get("rope_parameters")) <= LENGTHLESS:
        kept.pop("max_position_embeddings", None)  # learned positions differ in shape as well
    return kept


def _rope_types(rope: Any) -> set[str]:
    """The kinds of rotary embedding in a config: one, or one for each kind of layer."""
    if not isinstance(rope, dict):
        return set()
    here = {rope["rope_type"]} if "rope_type" in rope else set()
    return here.union(*map(_rope_types, rope.values()))
