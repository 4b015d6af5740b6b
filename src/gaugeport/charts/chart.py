"""Match every parameter and buffer of a model to one rule of its architecture family."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from gaugeport.charts import dyck, gemma, gpt2, gpt_neox, llama, olmo2, phi3, qwen
from gaugeport.charts.rules import STREAM_MATRICES, Family, Rule

FAMILIES: tuple[Family, ...] = (
    llama.FAMILY,
    qwen.FAMILY,
    gemma.FAMILY,
    olmo2.FAMILY,
    phi3.FAMILY,
    gpt_neox.FAMILY,
    gpt2.FAMILY,
    dyck.FAMILY,
)
"""All known architectures. To add one, write a new file in ``charts/`` and add a line here."""


@dataclass(frozen=True)
class Chart:
    """Where the residual stream lives in one model.

    Attributes:
        family: The declaration of the architecture family.
        model_type: The model's ``config.model_type``.
        width: The width d of the stream.
        folded: Whether every gain is exactly 1 (in Gemma: every norm weight is 0). A new model looks
            folded, and its exact group is indeed the larger one, until the first training step moves a
            gain.
        tied: Whether embedding and unembedding are one tensor.
        rules: The rule of every parameter and buffer. A tied tensor appears under its first name only.
    """

    family: Family
    model_type: str
    width: int
    folded: bool
    tied: bool
    rules: Mapping[str, Rule] = field(hash=False)

    @property
    def norm(self) -> str:
        """The kind of norm: ``"rms"`` or ``"layer"``."""
        return self.family.norm

    @property
    def group(self) -> str:
        """The name of the exact gauge group for generic gains (the table in :mod:`gaugeport.charts`).

        For post-norm families it is B_d even if every gain is 1: these gains cannot be folded, so no larger
        group survives training. ``certify`` reports what unit gains allow at the moment.
        """
        if self.norm == "layer":
            return "mean_preserving_orthogonal" if self.folded else "global_sign_permutation"
        return "orthogonal" if self.folded and not self.family.post_norm else "signed_permutation"

    @property
    def foldable(self) -> bool:
        """Whether ``fold_gains`` applies: no norm with a gain stands between a writer and the stream."""
        return not self.family.post_norm

    def rule(self, name: str) -> Rule:
        """Return the rule of a parameter or buffer. Raises ``KeyError`` for an unknown name."""
        if name not in self.rules:
            raise KeyError(f"this {self.model_type} chart has no parameter or buffer {name!r}")
        return self.rules[name]

    def axes(self, name: str) -> tuple[str, ...]:
        """Return the action on each axis of a parameter or buffer: ``"vector"``, ``"gain"`` or ``"none"``."""
        return self.rule(name).axes

    def names(self, role: str) -> list[str]:
        """Return the names of the parameters of one role, in the model's order."""
        return [name for name, rule in self.rules.items() if rule.role == role]

    def matrices(self) -> Iterator[tuple[str, str, int]]:
        """Yield ``(name, role, stream_axis)`` of every matrix that reads from or writes to the stream.

        Roles are ``embed``, ``read``, ``write`` and ``unembed``. A tied unembedding appears once, as
        ``embed``. Position embeddings are left out.
        """
        for name, rule in self.rules.items():
            if rule.role in STREAM_MATRICES:
                axis = rule.stream_axis
                assert axis is not None
                yield name, rule.role, axis

    def embedding(self, model: nn.Module) -> nn.Module:
        """Return the token embedding. The stream before block 0 is the *input* of ``blocks(model)[0]``."""
        return model.get_submodule(self.family.embedding)

    def blocks(self, model: nn.Module) -> list[nn.Module]:
        """Return the residual blocks in order. Each outputs the stream, as a tensor or first in a tuple."""
        blocks = model.get_submodule(self.family.blocks)
        assert isinstance(blocks, nn.ModuleList)
        return list(blocks)

    def final_norm(self, model: nn.Module) -> nn.Module:
        """Return the norm between the last block and the unembedding."""
        return model.get_submodule(self.family.final_norm)

    def unembedding(self, model: nn.Module) -> nn.Module:
        """Return the unembedding, with ``weight`` [vocabulary, d]."""
        return model.get_submodule(self.family.unembedding)


def family_of(model_type: str) -> Family:
    """Return the family of a ``config.model_type``. Raises ``ValueError`` for an unknown one."""
    for family in FAMILIES:
        if model_type in family.model_types:
            return family
    known = ", ".join(t for f in FAMILIES for t in f.model_types)
    raise ValueError(
        f"unknown architecture {model_type!r}; known model types: {known}. To add one, write a Family of "
        "rules in a new file in gaugeport/charts/ (see llama.py) and list it in FAMILIES of charts/chart.py"
    )


def chart_of(model: nn.Module) -> Chart:
    """Return the chart of a Hugging Face causal language model.

    Every parameter (a tied one once) and every buffer must match exactly one rule of the family, and must
    have that rule's number of axes, with length d on the residual ones.

    Raises:
        ValueError: If the model carries adapters, the architecture is unknown, or tensors match no rule,
            match several or have another shape. The message names all of them and what was expected.
    """
    if carries_adapters(model):
        raise ValueError(
            f"this {type(model).__name__} carries adapters of peft, which no chart describes: pass "
            "model.merge_and_unload(), or move the adapter's folder with transport_lora"
        )
    config: Any = getattr(model, "config", None)
    model_type = getattr(config, "model_type", None)
    if model_type is None:
        raise ValueError(
            f"{type(model).__name__} has no config.model_type; expected a transformers causal LM"
        )
    return chart_by(model, family_of(model_type))


def chart_by(model: nn.Module, family: Family) -> Chart:
    """Return the chart of a model by the rules of a family. Raises ``ValueError`` as :func:`chart_of`."""
    config: Any = model.config
    width = int(config.hidden_size)
    # 1) match every tensor once, and check its shape
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    aliases = [n for n, _ in model.named_parameters(remove_duplicate=False) if n not in tensors]
    problems: list[str] = []
    rules = {name: _only_rule(family, name, problems) for name in tensors}
    for name, rule in rules.items():
        if rule is not None:
            _check_shape(name, rule, tuple(tensors[name].shape), width, problems)
    # 2) a tensor with two names must have the same axes under both
    for alias in aliases:
        rule = _only_rule(family, alias, problems)
        first = next(n for n, p in model.named_parameters() if p is model.get_parameter(alias))
        shared = rules[first]
        if rule is not None and shared is not None and rule.axes != shared.axes:
            problems.append(
                f"{alias} shares its tensor with {first}, but their axes are {rule.axes} and {shared.axes}"
            )
    if problems:
        lines = "\n  ".join(problems)
        raise ValueError(
            f"{type(model).__name__} does not fit the rules of family {family.name!r} "
            f"(charts/{family.name}.py):\n  {lines}\nExpected a causal LM without extra heads"
        )
    matched = {name: rule for name, rule in rules.items() if rule is not None}
    return Chart(
        family=family,
        model_type=config.model_type,
        width=width,
        folded=_gains_are_one(family, matched, tensors),
        tied=f"{family.unembedding}.weight" in aliases,
        rules=matched,
    )


def carries_adapters(model: nn.Module) -> bool:
    """Return whether peft has wrapped a model, or put adapters into its modules."""
    return any(
        name.startswith("base_model.") or ".base_layer." in name or ".lora_" in name
        for name, _ in model.named_parameters()
    )


def check_movable(chart: Chart, model: nn.Module) -> None:
    """Raise ``ValueError`` unless every tensor with a stream axis is in memory, in floats of 16 bits or more.

    An offloaded parameter is a placeholder (``device_map="auto"`` leaves some), and a quantized one holds
    codes that belong to a scale. A gauge cannot act on either.
    """
    tensors = [*model.named_parameters(), *model.named_buffers()]
    on_stream = [(name, t) for name, t in tensors if set(chart.axes(name)) != {"none"}]
    offloaded = [name for name, t in on_stream if t.is_meta]
    if offloaded:
        raise ValueError(
            f"{len(offloaded)} parameters are offloaded, the first {offloaded[:3]}: load the model whole "
            "(without device_map='auto' or offloading)"
        )
    quantized = [
        f"{name} ({t.dtype})" for name, t in on_stream if not t.is_floating_point() or t.element_size() < 2
    ]
    if quantized:
        raise ValueError(
            f"{len(quantized)} parameters are quantized, the first {quantized[:3]}: a gauge acts on the "
            "weights themselves; dequantize, or load in float32, float16 or bfloat16"
        )


def check_no_shared_memory(model: nn.Module) -> None:
    """Raise ``ValueError`` if two untied parameters share memory: an in-place change would be made twice."""
    first_at: dict[int, str] = {}
    for name, p in model.named_parameters():
        first = first_at.setdefault(p.data_ptr(), name) if p.numel() else name
        if first != name:
            raise ValueError(
                f"{first} and {name} share memory but are two parameters: clone one, tie them, "
                "or leave out inplace=True"
            )


def _only_rule(family: Family, name: str, problems: list[str]) -> Rule | None:
    """Return the one rule that matches, or None after adding a line to ``problems``."""
    matching = [rule for rule in family.rules if rule.match(name) is not None]
    if len(matching) == 1:
        return matching[0]
    if matching:
        problems.append(f"{name} matches {len(matching)} rules: {', '.join(r.pattern for r in matching)}")
    else:
        problems.append(f"{name} matches no rule")
    return None


def _check_shape(name: str, rule: Rule, shape: tuple[int, ...], width: int, problems: list[str]) -> None:
    fits = len(shape) == len(rule.axes) and all(
        kind == "none" or n == width for kind, n in zip(rule.axes, shape, strict=True)
    )
    if not fits:
        problems.append(
            f"{name} has shape {shape}, expected axes {rule.axes} and length {width} on vector and gain axes"
        )


def _gains_are_one(family: Family, rules: dict[str, Rule], tensors: dict[str, torch.Tensor]) -> bool:
    one = 1.0 - family.gain_offset
    gains = [tensors[name] for name, rule in rules.items() if rule.role == "gain"]
    return all(not g.is_meta and bool((g.detach() == one).all()) for g in gains)
