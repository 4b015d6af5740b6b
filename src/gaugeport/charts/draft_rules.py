"""Write the axes that were found as the rules of a family."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from gaugeport.charts.draft_axes import Axes
from gaugeport.charts.draft_modules import Modules
from gaugeport.charts.rules import Axis, Role, Rule

NEURON_SIZES = ("intermediate_size", "n_inner", "ffn_dim", "ffn_hidden_size", "d_ff")
"""What configs call the number of MLP neurons; some leave it at None for four times the width."""


def draft_rules(
    model: nn.Module,
    modules: Modules,
    axes: Mapping[str, Axes],
    norm_of: Mapping[str, str],
    notes: list[str],
) -> tuple[Rule, ...]:
    """Return a rule for every parameter and buffer.

    Args:
        model: The model.
        modules: The modules that its chart names.
        axes: The axes of what lies in blocks and of the final norm, by pattern.
        norm_of: Module -> the norm that it reads, by pattern.
        notes: Takes a sentence for what could not be decided.
    """
    tensors = {**dict(model.named_parameters(remove_duplicate=False)), **dict(model.named_buffers())}
    rules: dict[str, Rule] = {}
    for name, tensor in tensors.items():
        pattern = re.sub(rf"^{re.escape(modules.blocks)}\.\d+\.", f"{modules.blocks}.*.", name)
        if pattern not in rules:
            rules[pattern] = _rule(pattern, tensor, model, modules, axes, norm_of, notes)
    return tuple(rules.values())


def draft_neurons(
    model: nn.Module, modules: Modules, rules: tuple[Rule, ...], notes: list[str]
) -> tuple[tuple[str, int], ...]:
    """Return the (pattern, axis) of every parameter with an MLP-neuron axis.

    An axis is one of neurons if it has as many entries as the config says; of readers, twice as many where
    none has that number, because one matrix then holds two.
    """
    config: Any = model.config
    said = [getattr(config, name) for name in NEURON_SIZES if hasattr(config, name)]
    n = next((size for size in said if size), 4 * int(config.hidden_size) if said else None)
    tensors = dict(model.named_parameters())
    in_blocks = [
        (r, tensors[name])
        for r in rules
        if (name := r.pattern.replace("*", "0")) in tensors and "*" in r.pattern
    ]

    def axes_of_length(roles: tuple[Role, ...], length: int | None) -> list[tuple[str, int]]:
        return [
            (rule.pattern, axis)
            for rule, tensor in in_blocks
            if rule.role in roles
            for axis, kind in enumerate(rule.axes)
            if kind == "none" and tensor.shape[axis] == length
        ]

    reading = axes_of_length(("read", "invariant"), n) or axes_of_length(("read", "invariant"), 2 * (n or 0))
    found = [*reading, *axes_of_length(("write",), n)]
    if not found:
        notes.append("no axis of MLP neurons was found; neurons= says where they are, to measure rounding by")
    return tuple(found)


def _rule(
    pattern: str,
    tensor: Tensor,
    model: nn.Module,
    modules: Modules,
    axes: Mapping[str, Axes],
    norm_of: Mapping[str, str],
    notes: list[str],
) -> Rule:
    module_pattern = pattern.rpartition(".")[0]
    module = model.get_submodule(module_pattern.replace("*", "0"))
    width = int(model.config.hidden_size)  # type: ignore[union-attr, arg-type]
    found = axes.get(pattern)
    if found is None:  # outside of the blocks and the final norm
        return _outside(pattern, tensor, module, modules, width, notes)
    kinds: tuple[Axis, ...] = found  # type: ignore[assignment]
    of_norm = axes.get(f"{module_pattern}.weight") == ("gain",)
    if of_norm:
        role: Role = "gain" if kinds == ("gain",) else "norm_bias"
        return Rule(pattern, kinds, role, norm=module_pattern)
    if "gain" in kinds:
        notes.append(f"{pattern}: a factor per coordinate that belongs to no norm; its role is a guess")
        return Rule(pattern, kinds, "gain")
    if "vector" not in kinds:
        return Rule(pattern, kinds, "invariant")
    if len(kinds) == 1:
        return Rule(pattern, kinds, "write_bias")
    if kinds.count("vector") > 1:
        notes.append(f"{pattern}: both axes are the stream's; no role describes that")
    reads = kinds.index("vector") == (0 if type(module).__name__ == "Conv1D" else 1)
    norm = norm_of.get(module_pattern) if reads else None
    return Rule(pattern, kinds, "read" if reads else "write", norm=norm)


def _outside(
    pattern: str, tensor: Tensor, module: nn.Module, modules: Modules, width: int, notes: list[str]
) -> Rule:
    kinds: tuple[Axis, ...] = tuple("vector" if n == width else "none" for n in tensor.shape)
    if pattern == f"{modules.embedding}.weight":
        return Rule(pattern, ("none", "vector"), "embed")
    if pattern == f"{modules.unembedding}.weight":
        return Rule(pattern, ("none", "vector"), "unembed", norm=modules.final_norm)
    if isinstance(module, nn.Embedding) and kinds[-1:] == ("vector",):
        return Rule(pattern, ("none", "vector"), "position")
    if "vector" in kinds:
        notes.append(
            f"{pattern}: it has an axis of {width}, and lies outside of the blocks; taken as invariant"
        )
    nothing: tuple[Axis, ...] = tuple("none" for _ in tensor.shape)
    return Rule(pattern, nothing, "invariant")
