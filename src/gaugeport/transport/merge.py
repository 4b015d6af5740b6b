"""Merge models that were written in different coordinates: align, combine, and un-align the result."""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from gaugeport.alignment.comparable import check_both_tied
from gaugeport.charts.chart import chart_of, check_movable
from gaugeport.groups import Element, check_is_element
from gaugeport.transport.model import check_gauge_fits, transport_model
from gaugeport.utils.progress import Progress, counting

METHODS = ("average", "task_arithmetic")

WEIGHT_SUM_TOLERANCE = 1e-6
"""How far from 1 the weights of an average may sum, for their own rounding."""

MAX_DIFFERENCES_SHOWN = 6
"""How many differences between two models an error message shows."""

IRRELEVANT_CONFIG_ENTRIES = {
    "architectures", "chunk_size_feed_forward", "dtype", "id2label", "initializer_range", "label2id",
    "pretraining_tp", "problem_type", "return_dict", "task_specific_params", "transformers_version",
    "use_cache",
}  # fmt: skip
"""Config entries that do not change what a model computes from its parameters in evaluation mode."""
IRRELEVANT_CONFIG_PATTERN = re.compile(r"_.*|output_.*|summary_.*|.*_token_id|.*dropout|.*_pdrop")
"""Further such entries, by pattern."""

LENGTH_INDEPENDENT_ROPES = {"default", "linear", "llama3"}
"""Rotary embeddings that ignore ``max_position_embeddings`` (dynamic, yarn and longrope use it)."""


@dataclass(frozen=True)
class Merged:
    """A merge in the coordinates of the first model, with the gauges that led there.

    Attributes:
        model: The merged model.
        gauges: One per merged model: ``gauges[k]`` moves model k to the coordinates of the first; None means
            no move.
    """

    model: nn.Module
    gauges: tuple[Element | None, ...]

    def in_coordinates_of(self, k: int, strict: bool = True) -> Any:
        """Return a copy of the merge in the coordinates of model ``k``.

        Args:
            k: The number of a merged model, from 0.
            strict: Refuse a gauge from outside the chart's group.

        Returns:
            The merged model, moved by the inverse of ``gauges[k]``.

        Raises:
            IndexError: If there is no model ``k``.
            ValueError: If ``strict`` and the gauge is outside the chart's group.
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
    progress: Progress | None = None,
) -> Merged:
    """Move every model to the coordinates of the first by its gauge, and combine the parameters there.

    ``average`` gives ``Σ weights_k θ_k``; ``task_arithmetic`` gives ``base + scaling · Σ weights_k (θ_k -
    base)`` (Ilharco et al. 2023). Sums run in float32 or wider and are rounded once to the first model's
    dtype. Parameters on which all models agree stay exactly as they are. Tied weights stay tied, buffers are
    the first model's, and the given models are not changed. To align neurons and heads as well, apply their
    gauges to the models first.

    Args:
        models: The models to merge.
        gauges: One per model, to the coordinates of the first; None for a model that is there already, as the
            first is.
        weights: One per model. For an average they sum to 1 (default: equal; (1-α, α) traces a curve between
            two models). For task arithmetic they are any numbers (default: all 1).
        method: "average" or "task_arithmetic".
        base: The base model of task arithmetic.
        scaling: The factor of task arithmetic.
        base_gauge: The gauge that moves ``base`` to the coordinates of the first model.
        strict: Refuse gauges from outside the chart's group, and models of which only some are folded.
            Controls pass False.
        progress: Called as ``progress(done, total, what)`` after each parameter of each model
            (:mod:`gaugeport.utils.progress`).

    Returns:
        The merge and its gauges.

    Raises:
        TypeError: If a model is not a module, or a gauge is not a gauge element.
        ValueError: If the method is unknown; if the number of gauges or the weights do not fit; if a base is
            missing or not needed; if configs or parameter shapes differ, or a model is offloaded or
            quantized; if the first gauge moves; and, if ``strict``, for a gauge from outside the chart's
            group or a folded model beside one that is not.
    """
    # 1) check everything before anything is copied
    _check_arguments(models, gauges, method, base, base_gauge)
    factors = _factors(weights, len(models), method)
    pairs = list(zip(models, gauges, strict=True))
    named = [(f"models[{k}]", *pair) for k, pair in enumerate(pairs)]
    for name, model, gauge in [*named, *([] if base is None else [("base", base, base_gauge)])]:
        check_mergeable(models[0], model, strict, ("models[0]", name))
        if gauge is not None:
            check_gauge_fits(chart_of(model), gauge, strict)
    # 2) add up differences from one of them, not the parameters, so that nothing is rounded where all agree
    start = _aligned(models[0], None, strict) if base is None else _aligned(base, base_gauge, strict)
    total = {name: p.to(_wide(p), copy=True) for name, p in start.items()}
    # an average starts from the first model, task arithmetic from the base
    skipped = 1 if base is None else 0
    step = counting(progress, len(total) * (len(pairs) - skipped), "merging")
    for (model, gauge), factor in zip(pairs[skipped:], factors[skipped:], strict=True):
        for name, p in _aligned(model, gauge, strict).items():
            difference = p.to(total[name].device, total[name].dtype) - start[name]
            total[name].add_(difference, alpha=factor * (1.0 if base is None else scaling))
            step()
    # 3) round once
    merged = copy.deepcopy(models[0])
    for name, p in merged.named_parameters():
        p.copy_(total[name])
        p.grad = None
    return Merged(merged, tuple(gauges))


def _aligned(model: nn.Module, gauge: Element | None, strict: bool) -> dict[str, torch.Tensor]:
    """Return the parameters of a model, moved by its gauge."""
    moved = model if gauge is None else transport_model(model, gauge, strict=strict)
    return {name: p.detach() for name, p in moved.named_parameters()}


def _wide(p: torch.Tensor) -> torch.dtype:
    return torch.promote_types(p.dtype, torch.float32)


def _check_arguments(
    models: Sequence[nn.Module],
    gauges: Sequence[Element | None],
    method: str,
    base: nn.Module | None,
    base_gauge: Element | None,
) -> None:
    """Raise ``ValueError`` or ``TypeError`` for arguments that do not fit each other."""
    if method not in METHODS:
        raise ValueError(f"unknown merge method {method!r}; allowed: {', '.join(METHODS)}")
    if not models:
        raise ValueError("nothing to merge: no models were given")
    if len(gauges) != len(models):
        raise ValueError(f"expected {len(models)} gauges, one per model; got {len(gauges)}")
    for model in models:
        if not isinstance(model, nn.Module):
            raise TypeError(
                f"models: expected torch modules, got {type(model).__name__} (gauges come second)"
            )
    for gauge in gauges:
        if gauge is not None:
            check_is_element(gauge)
    first = gauges[0]
    if first is not None and first != type(first).identity(first.size):
        raise ValueError(
            "the first gauge moves, but the merge is in the first model's own coordinates; "
            "expected None or the identity"
        )
    if (method == "task_arithmetic") != (base is not None):
        raise ValueError(f"method {method!r} {'needs a' if base is None else 'does not use a'} base model")
    if base_gauge is not None and base is None:
        raise ValueError("a base_gauge was given without a base")


def _factors(weights: Sequence[float] | None, n: int, method: str) -> list[float]:
    """Return one finite factor per model, those of an average summing to 1."""
    average = method == "average"
    if weights is None:
        return [1.0 / n if average else 1.0] * n
    factors = [float(w) for w in weights]
    if len(factors) != n or not all(math.isfinite(w) for w in factors):
        raise ValueError(f"weights: expected {n} finite weights, one per model; got {factors}")
    if average and abs(sum(factors) - 1) > WEIGHT_SUM_TOLERANCE:
        raise ValueError(
            f"weights: expected those of an average to sum to 1, got {factors}, which sum to {sum(factors)}"
        )
    return factors


def check_mergeable(first: Any, other: Any, strict: bool = True, names: tuple[str, str] = ("A", "B")) -> None:
    """Check that two models compute the same function of parameters that have the same shapes.

    Args:
        first: A model.
        other: Another one.
        strict: Refuse two of which only one is folded.
        names: What messages call them.

    Raises:
        ValueError: If they do not.
    """
    configs = [_relevant_entries(m.config) for m in (first, other)]
    if list(_differing(*configs)) == ["tie_word_embeddings"]:
        check_both_tied(chart_of(first), chart_of(other), names, instead=None)
    if differences := _differences(*configs):
        raise ValueError(f"models of different configs cannot be merged: {differences}")
    shapes = [{name: tuple(p.shape) for name, p in m.named_parameters()} for m in (first, other)]
    if differences := _differences(*shapes):
        raise ValueError(f"models whose parameters differ cannot be merged: {differences}")
    charts = [chart_of(m) for m in (first, other)]
    for chart, model in zip(charts, (first, other), strict=True):
        check_movable(chart, model)
    if strict and charts[0].foldable and charts[0].folded != charts[1].folded:
        folded, unfolded = names if charts[0].folded else names[::-1]
        raise ValueError(
            f"{folded} is folded (every gain is 1) and {unfolded} is not: their weights are in different "
            "units; fold both or neither (strict=False for a checkpoint whose gains are not trained yet)"
        )


def _differences(first: dict[str, Any], other: dict[str, Any]) -> str:
    """Describe the first few entries in which two dicts differ; empty text if none."""
    differing = _differing(first, other)
    return "; ".join(f"{k}: {first.get(k)!r} and {other.get(k)!r}" for k in differing[:MAX_DIFFERENCES_SHOWN])


def _differing(first: dict[str, Any], other: dict[str, Any]) -> list[str]:
    return sorted(k for k in first.keys() | other.keys() if first.get(k) != other.get(k))


def _relevant_entries(config: Any) -> dict[str, Any]:
    """Return the config entries, known to its class, that decide what the parameters compute."""
    known = type(config)().to_dict()
    relevant = {
        k: v
        for k, v in config.to_dict().items()
        if k in known and k not in IRRELEVANT_CONFIG_ENTRIES and not IRRELEVANT_CONFIG_PATTERN.fullmatch(k)
    }
    if _rope_types(relevant.get("rope_parameters")) <= LENGTH_INDEPENDENT_ROPES:
        relevant.pop("max_position_embeddings", None)  # learned positions differ in shape as well
    return relevant


def _rope_types(rope: Any) -> set[str]:
    """Return the kinds of rotary embedding in a config: one, or one for each kind of layer."""
    if not isinstance(rope, dict):
        return set()
    own = {rope["rope_type"]} if "rope_type" in rope else set()
    return own.union(*map(_rope_types, rope.values()))
