"""Match and reorder attention heads: which head of one model is which of another, in coordinates they share.

Reordering heads leaves the function alone if the query heads that share a key/value head stay together. Under
grouped-query attention query head ``h`` reads key and value head ``h // groups``, so whole groups are
reordered, and the query heads inside each group.

Only whole heads move here. A head also has continuous freedom inside it (between value and output, and
rotations between query and key that commute with RoPE); runs from one base share those inner coordinates.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn

from gaugeport.alignment import assignment
from gaugeport.alignment.evidence import check_comparable
from gaugeport.charts.chart import Chart, chart_of
from gaugeport.groups import Permutation, compose
from gaugeport.transport.model import Model
from gaugeport.transport.units import UnitAxis, act_on_units, paired_rows
from gaugeport.utils.progress import Progress

_ATTENTION = "model.layers.*.self_attn"
_SEPARATE_PROJECTIONS = (
    UnitAxis(f"{_ATTENTION}.q_proj.{{weight,bias}}", 0, "q"),
    UnitAxis(f"{_ATTENTION}.{{k,v}}_proj.{{weight,bias}}", 0, "kv"),
    UnitAxis(f"{_ATTENTION}.o_proj.weight", 1, "q"),
)

HEADS: dict[str, tuple[UnitAxis, ...]] = {
    "llama": _SEPARATE_PROJECTIONS,
    "qwen": _SEPARATE_PROJECTIONS,  # Qwen3's q/k norms act inside a head and are shared by all
    "gemma": _SEPARATE_PROJECTIONS,  # Gemma3's likewise
    "olmo2": (
        *_SEPARATE_PROJECTIONS,
        UnitAxis(f"{_ATTENTION}.q_norm.weight", 0, "q"),  # spans all heads
        UnitAxis(f"{_ATTENTION}.k_norm.weight", 0, "kv"),
    ),
    "phi3": (
        UnitAxis(f"{_ATTENTION}.qkv_proj.weight", 0, "q kv kv"),
        UnitAxis(f"{_ATTENTION}.o_proj.weight", 1, "q"),
    ),
    "dyck": _SEPARATE_PROJECTIONS,
    "gpt_neox": (
        UnitAxis("gpt_neox.layers.*.attention.query_key_value.{weight,bias}", 0, "qkv"),
        UnitAxis("gpt_neox.layers.*.attention.dense.weight", 1, "q"),
    ),
    "gpt2": (
        UnitAxis("transformer.h.*.attn.c_attn.weight", 1, "q kv kv"),
        UnitAxis("transformer.h.*.attn.c_attn.bias", 0, "q kv kv"),
        UnitAxis("transformer.h.*.attn.c_proj.weight", 0, "q"),
    ),
}
"""Head axes by family. The kind names what lies along the axis, one after the other: ``q`` query heads (in
o_proj: their outputs), ``kv`` key heads or value heads, ``qkv`` query heads with query, key and value."""


@dataclass(frozen=True)
class HeadGauge:
    """A gauge of attention heads: query head ``i`` of the result is query head ``perm[i]``, block by block.

    Attributes:
        blocks: One permutation of the query heads per block.
        groups: The number of query heads that share a key/value head.

    Raises:
        ValueError: If a permutation separates query heads that share a key/value head.
    """

    blocks: tuple[Permutation, ...]
    groups: int = 1

    def __post_init__(self) -> None:
        for block, g in enumerate(self.blocks):
            if self.groups < 1 or g.size % self.groups:
                raise ValueError(f"{g.size} query heads cannot be divided into groups of {self.groups}")
            key_value_of = g.perm.view(-1, self.groups) // self.groups
            if not bool((key_value_of == key_value_of[:, :1]).all()):
                raise ValueError(
                    f"block {block}: query heads {g.perm.tolist()} separate groups of {self.groups} that "
                    "share a key/value head"
                )

    @classmethod
    def random(cls, model: nn.Module, generator: torch.Generator | None = None) -> Self:
        """Draw a uniform element for ``model``."""
        n_blocks, (heads, shared) = _blocks(model), _counts(model)
        groups = heads // shared
        blocks = []
        for _ in range(n_blocks):
            inner = [torch.randperm(groups, generator=generator) for _ in range(shared)]
            blocks.append(_joined(torch.randperm(shared, generator=generator), inner))
        return cls(tuple(blocks), groups)

    @classmethod
    def identity(cls, model: nn.Module) -> Self:
        """Return the element for ``model`` that moves nothing."""
        heads, shared = _counts(model)
        return cls(tuple(Permutation.identity(heads) for _ in range(_blocks(model))), heads // shared)

    def inverse(self) -> Self:
        """Return the gauge that undoes this one."""
        return type(self)(tuple(b.inverse() for b in self.blocks), self.groups)

    def after(self, first: HeadGauge) -> Self:
        """Return the gauge that applies ``first`` and then this one."""
        return type(self)(
            tuple(compose(g, h) for g, h in zip(self.blocks, first.blocks, strict=True)), self.groups
        )

    def key_values(self, block: int) -> Permutation:
        """Return the permutation of the key/value heads of a block."""
        return Permutation(self.blocks[block].perm.view(-1, self.groups)[:, 0] // self.groups)

    def apply(self, model: Model, inplace: bool = False) -> Model:
        """Return the same function with its heads reordered.

        Tied weights, dtypes and ``requires_grad`` are kept; gradients are dropped.

        Args:
            model: The model.
            inplace: Change ``model`` itself and return it.

        Returns:
            The moved model: a copy, or ``model`` itself if ``inplace``.

        Raises:
            ValueError: If the model has another number of blocks, heads or key/value heads, or a family whose
                head axes are not declared.
        """
        chart, (heads, shared) = chart_of(model), _counts(model)
        own_heads, model_heads = [b.size for b in self.blocks], [heads] * len(chart.blocks(model))
        if own_heads != model_heads or self.groups * shared != heads:
            raise ValueError(
                f"query heads by block: the gauge has {own_heads}, in groups of {self.groups}; the model has "
                f"{model_heads}, in groups of {heads // shared}"
            )
        return act_on_units(model, _head_axes(chart), self._element, inplace)

    def _element(self, block: int, kind: str, length: int) -> Permutation:
        """Return what acts on one axis of heads, entry by entry."""
        query, shared = self.blocks[block], self.key_values(block)
        segments = [shared if segment == "kv" else query for segment in kind.split()]
        n_heads = [segment.size for segment in segments]
        head_width = length // sum(n_heads)
        heads = torch.cat([segment.perm + sum(n_heads[:k]) for k, segment in enumerate(segments)])
        return Permutation((heads[:, None] * head_width + torch.arange(head_width)).flatten())


def match_heads(model_a: nn.Module, model_b: nn.Module, progress: Progress | None = None) -> HeadGauge:
    """Find the gauge that brings the attention of A nearest to that of B.

    Nearest is meant in least squares over all parameters of attention. The result is exact: first the
    best assignment of the query heads for each pair of key/value heads, then the best assignment of the
    pairs. Products are in float32 or wider.

    Args:
        model_a: Model A, in the residual coordinates of B (move it by the residual gauge first), and with the
            same coordinates inside its heads, as runs from one base have.
        model_b: Model B, of the same architecture.
        progress: Told after each block.

    Returns:
        The gauge ``g`` for which ``g.apply(model_a)`` is nearest to ``model_b``.

    Raises:
        ValueError: If the models are not comparable, or hold values that are not finite.
    """
    chart, _ = check_comparable(model_a, model_b)
    heads, shared = counts = _counts(model_a)
    if counts != _counts(model_b):
        raise ValueError(
            f"A and B must have the same query and key/value heads: A has {counts}, B has {_counts(model_b)}"
        )
    blocks, of_all = [], len(chart.blocks(model_a))
    for block in range(of_all):
        # 1) score all pairs of query heads, and all pairs of key/value heads
        score = {"q": torch.zeros(heads, heads), "kv": torch.zeros(shared, shared)}
        for kind, of_b, of_a in paired_rows(model_a, model_b, _head_axes(chart), block):
            segments = ["kv" if segment == "kv" else "q" for segment in kind.split()]
            head_width = len(of_b) // sum(len(score[s]) for s in segments)
            sizes = [head_width * len(score[s]) for s in segments]
            for s, b, a in zip(segments, of_b.split(sizes), of_a.split(sizes), strict=True):
                n = len(score[s])
                score[s] = score[s] + b.reshape(n, -1) @ a.reshape(n, -1).T
        # 2) assign them, groups and their members together
        blocks.append(_best(score["q"], score["kv"], heads // shared))
        if progress is not None:
            progress(len(blocks), of_all, "matching heads")
    return HeadGauge(tuple(blocks), heads // shared)


def _best(query: Tensor, key_value: Tensor, groups: int) -> Permutation:
    """Return the permutation in groups with the largest total score.

    ``query`` [heads, heads] and ``key_value`` [shared, shared] score the pairs of heads of B (rows) and A
    (columns).
    """
    shared = len(key_value)
    score, inner = key_value.double(), {}
    for i, rows in enumerate(query.split(groups)):
        for j, square in enumerate(rows.split(groups, dim=1)):
            inner[i, j] = assignment.solve(square)
            score[i, j] += inner[i, j].objective
    outer = torch.from_numpy(assignment.solve(score).columns)
    return _joined(outer, [torch.from_numpy(inner[i, int(outer[i])].columns) for i in range(shared)])


def _joined(outer: Tensor, inner: list[Tensor]) -> Permutation:
    """Return the permutation whose group ``i`` is group ``outer[i]``, in the order ``inner[i]``."""
    return Permutation(torch.cat([j * len(within) + within for j, within in zip(outer, inner, strict=True)]))


def _head_axes(chart: Chart) -> tuple[UnitAxis, ...]:
    if chart.family.name not in HEADS:
        raise ValueError(
            f"the head axes of family {chart.family.name!r} are not declared; known: {', '.join(HEADS)}"
        )
    return HEADS[chart.family.name]


def _blocks(model: nn.Module) -> int:
    return len(chart_of(model).blocks(model))


def _counts(model: nn.Module) -> tuple[int, int]:
    """Return the numbers of query heads and of key/value heads."""
    config: Any = model.config
    heads = int(config.num_attention_heads)
    return heads, int(getattr(config, "num_key_value_heads", None) or heads)
