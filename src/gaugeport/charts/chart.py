"""``chart_of``: match every parameter and buffer of a model to one rule of its family, or say which do not match."""

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
"""The architectures known here. A new one is a new file in ``charts/`` and a line in this tuple."""


@dataclass(frozen=True)
class Chart:
    """Where the residual stream lives in one model.

    ``width`` is d; ``norm`` is ``"rms"`` or ``"layer"``; ``tied`` says that embedding and unembedding are one tensor;
    ``rules`` maps every parameter and buffer name (a tied tensor under its first name only) to its rule.

    ``folded`` is read off the parameters: every gain is exactly 1 (for Gemma: every weight exactly 0). A model just
    initialised looks folded for that reason, and rightly so: with unit gains its exact group *is* the larger one,
    until the first training step moves a gain.
    """

    family: Family
    model_type: str
    width: int
    folded: bool
    tied: bool
    rules: Mapping[str, Rule] = field(hash=False)

    @property
    def norm(self) -> str:
        return self.family.norm

    @property
    def group(self) -> str:
        """Name of the exact gauge group for generic gains (DESIGN §1, second table).

        For post-norm families this is B_d even where every gain happens to be 1: those gains cannot be folded away,
        so nothing larger survives training. ``certify`` reports what unit gains allow at the moment.
        """
        if self.norm == "layer":
            return "mean_preserving_orthogonal" if self.folded else "global_sign_permutation"
        return "orthogonal" if self.folded and not self.family.post_norm else "signed_permutation"

    @property
    def foldable(self) -> bool:
        """Whether ``fold_gains`` applies: no gained norm stands between a writer and the stream."""
        return not self.family.post_norm

    def rule(self, name: str) -> Rule:
        """The rule of a parameter or buffer. Raises ``KeyError`` naming it if the model has none of that name."""
        if name not in self.rules:
            raise KeyError(f"{name!r} is no parameter or buffer of this {self.model_type} chart")
        return self.rules[name]

    def axes(self, name: str) -> tuple[str, ...]:
        """What each axis of a parameter or buffer is: ``"vector"``, ``"gain"`` or ``"none"``."""
        return self.rule(name).axes

    def names(self, role: str) -> list[str]:
        """The parameters of one role, in the model's order."""
        return [name for name, rule in self.rules.items() if rule.role == role]

    def matrices(self) -> Iterator[tuple[str, str, int]]:
        """``(name, role, stream_axis)`` of every matrix that reads from or writes to the stream, embeddings included.

        Roles are ``embed``, ``read``, ``write``, ``unembed``; a tied unembedding appears once, as ``embed``. Learned
        positions are left out.
        """
        for name, rule in self.rules.items():
            if rule.role in STREAM_MATRICES:
                axis = rule.stream_axis
                assert axis is not None
                yield name, rule.role, axis

    def embedding(self, model: nn.Module) -> nn.Module:
        """The token embedding. The stream before the first block is the *input* of ``blocks(model)[0]``."""
        return model.get_submodule(self.family.embedding)

    def blocks(self, model: nn.Module) -> list[nn.Module]:
        """The residual blocks in order. Their outputs are tensors (or tuples headed by one) of stream vectors."""
        found = model.get_submodule(self.family.blocks)
        assert isinstance(found, nn.ModuleList)
        return list(found)

    def final_norm(self, model: nn.Module) -> nn.Module:
        """The norm between the last block and the unembedding."""
        return model.get_submodule(self.family.final_norm)

    def unembedding(self, model: nn.Module) -> nn.Module:
        """The output matrix (weight [vocabulary, d])."""
        return model.get_submodule(self.family.unembedding)


def family_of(model_type: str) -> Family:
    """The family of a ``config.model_type``. Raises ``ValueError`` naming the known ones and how to add another."""
    for family in FAMILIES:
        if model_type in family.model_types:
            return family
    known = ", ".join(t for f in FAMILIES for t in f.model_types)
    raise ValueError(
        f"unknown architecture {model_type!r}; known model types: {known}. To add one, write a Family of rules in a "
        "new file in gaugeport/charts/ (llama.py is the pattern) and list it in FAMILIES of charts/chart.py"
    )


def chart_of(model: nn.Module) -> Chart:
    """The chart of a Hugging Face causal language model.

    Every parameter (``named_parameters``: a tied one once) and every buffer has to match exactly one rule of the
    family, with that rule's number of axes and length d on the residual ones.

    Raises ``ValueError`` for an unknown architecture, and for a model some of whose tensors match no rule, match
    several, or have another shape: all of them are named, with what was expected.
    """
    config: Any = getattr(model, "config", None)
    model_type = getattr(config, "model_type", None)
    if model_type is None:
        raise ValueError(
            f"{type(model).__name__} has no config.model_type; a transformers causal LM is wanted"
        )
    family = family_of(model_type)
    width = int(config.hidden_size)
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    aliases = [n for n, _ in model.named_parameters(remove_duplicate=False) if n not in tensors]
    problems: list[str] = []
    rules = {name: _only_rule(family, name, problems) for name in tensors}
    for name, rule in rules.items():
        if rule is not None:
            _check_shape(name, rule, tuple(tensors[name].shape), width, problems)
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
            f"{type(model).__name__} does not fit the rules of family {family.name!r} (charts/{family.name}.py):\n  "
            f"{lines}\nA causal LM without adapters or extra heads is wanted"
        )
    matched = {name: rule for name, rule in rules.items() if rule is not None}
    return Chart(
        family=family,
        model_type=model_type,
        width=width,
        folded=_gains_are_one(family, matched, tensors),
        tied=f"{family.unembedding}.weight" in aliases,
        rules=matched,
    )


def check_movable(chart: Chart, model: nn.Module) -> None:
    """Raise ``ValueError`` unless every tensor with a stream axis is in memory and holds floats of 16 bits or more.

    An offloaded parameter is a placeholder (``device_map="auto"`` leaves such), a quantized one a code beside a scale: a
    gauge that acts on either acts on nothing, or on the wrong thing.
    """
    tensors = [*model.named_parameters(), *model.named_buffers()]
    moving = [(name, t) for name, t in tensors if set(chart.axes(name)) != {"none"}]
    offloaded = [name for name, t in moving if t.is_meta]
    if offloaded:
        raise ValueError(
            f"{len(offloaded)} parameters are offloaded, the first {offloaded[:3]}: load the model whole "
            "(without device_map='auto' or offloading)"
        )
    coded = [f"{name} ({t.dtype})" for name, t in moving if not t.is_floating_point() or t.element_size() < 2]
    if coded:
        raise ValueError(
            f"{len(coded)} parameters are quantized, the first {coded[:3]}: a gauge acts on the weights themselves; "
            "dequantize, or load in float32, float16 or bfloat16"
        )


def check_no_shared_memory(model: nn.Module) -> None:
    """Raise ``ValueError`` where two parameters share memory without being tied: what changes in place would change twice."""
    seen: dict[int, str] = {}
    for name, p in model.named_parameters():
        first = seen.setdefault(p.data_ptr(), name) if p.numel() else name
        if first != name:
            raise ValueError(
                f"{first} and {name} share memory, but are two parameters: clone one or tie them, or leave out inplace=True"
            )


def _only_rule(family: Family, name: str, problems: list[str]) -> Rule | None:
    found = [rule for rule in family.rules if rule.match(name) is not None]
    if len(found) == 1:
        return found[0]
    if found:
        problems.append(f"{name} matches {len(found)} rules: {', '.join(r.pattern for r in found)}")
    else:
        problems.append(f"{name} matches no rule")
    return None


def _check_shape(name: str, rule: Rule, shape: tuple[int, ...], width: int, problems: list[str]) -> None:
    fits = len(shape) == len(rule.axes) and all(
        kind == "none" or n == width for kind, n in zip(rule.axes, shape, strict=True)
    )
    if not fits:
        problems.append(
            f"{name} has shape {shape}, expected axes {rule.axes} with every vector and gain axis {width}"
        )


def _gains_are_one(family: Family, rules: dict[str, Rule], tensors: dict[str, torch.Tensor]) -> bool:
    one = 1.0 - family.gain_offset
    gains = [tensors[name] for name, rule in rules.items() if rule.role == "gain"]
    return all(not g.is_meta and bool((g.detach() == one).all()) for g in gains)
