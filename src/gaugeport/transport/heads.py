"""The gauge of attention heads: reordering them changes nothing, if query heads keep their company.

Under grouped-query attention query head ``h`` reads key and value head ``h // groups``, so the groups are reordered,
and the query heads inside each. Only whole heads move here: a head also has continuous freedom inside it (between
value and output, and rotations between query and key that commute with RoPE), which runs from one base share.
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
from gaugeport.transport.neurons import Model, Part, act_on_blocks, paired_rows

_ATTENTION = "model.layers.*.self_attn"
_SEPARATE = (
    Part(f"{_ATTENTION}.q_proj.{{weight,bias}}", 0, "q"),
    Part(f"{_ATTENTION}.{{k,v}}_proj.{{weight,bias}}", 0, "kv"),
    Part(f"{_ATTENTION}.o_proj.weight", 1, "q"),
)

HEADS: dict[str, tuple[Part, ...]] = {
    "llama": _SEPARATE,
    "qwen": _SEPARATE,  # Qwen3's q/k norms act inside a head and are shared by all
    "gemma": _SEPARATE,  # Gemma3's likewise
    "olmo2": (
        *_SEPARATE,
        Part(f"{_ATTENTION}.q_norm.weight", 0, "q"),  # spans all heads
        Part(f"{_ATTENTION}.k_norm.weight", 0, "kv"),
    ),
    "phi3": (
        Part(f"{_ATTENTION}.qkv_proj.weight", 0, "q kv kv"),
        Part(f"{_ATTENTION}.o_proj.weight", 1, "q"),
    ),
    "dyck": _SEPARATE,
    "gpt_neox": (
        Part("gpt_neox.layers.*.attention.query_key_value.{weight,bias}", 0, "qkv"),
        Part("gpt_neox.layers.*.attention.dense.weight", 1, "q"),
    ),
    "gpt2": (
        Part("transformer.h.*.attn.c_attn.weight", 1, "q kv kv"),
        Part("transformer.h.*.attn.c_attn.bias", 0, "q kv kv"),
        Part("transformer.h.*.attn.c_proj.weight", 0, "q"),
    ),
}
"""Head axes by family. Kinds, one after the other along the axis: ``q`` query heads (in o_proj: their outputs), ``kv``
key or value heads, ``qkv`` query heads of which each holds its query, key and value."""


@dataclass(frozen=True)
class HeadGauge:
    """One permutation of the query heads per block, and the number of query heads to a key/value head.

    Head ``i`` of the result is head ``perm[i]``. Raises ``ValueError`` for a permutation that parts a group.
    """

    blocks: tuple[Permutation, ...]
    groups: int = 1

    def __post_init__(self) -> None:
        for block, g in enumerate(self.blocks):
            if self.groups < 1 or g.size % self.groups:
                raise ValueError(f"{g.size} query heads do not make groups of {self.groups}")
            company = g.perm.view(-1, self.groups) // self.groups
            if not bool((company == company[:, :1]).all()):
                raise ValueError(
                    f"block {block}: query heads {g.perm.tolist()} part groups of {self.groups} that share a key/value head"
                )

    @classmethod
    def random(cls, model: nn.Module, generator: torch.Generator | None = None) -> Self:
        """A uniform element for ``model``."""
        blocks, (heads, shared) = _blocks(model), _counts(model)
        groups = heads // shared
        found = []
        for _ in range(blocks):
            inner = [torch.randperm(groups, generator=generator) for _ in range(shared)]
            found.append(_joined(torch.randperm(shared, generator=generator), inner))
        return cls(tuple(found), groups)

    @classmethod
    def identity(cls, model: nn.Module) -> Self:
        heads, shared = _counts(model)
        return cls(tuple(Permutation.identity(heads) for _ in range(_blocks(model))), heads // shared)

    def inverse(self) -> Self:
        return type(self)(tuple(b.inverse() for b in self.blocks), self.groups)

    def after(self, first: HeadGauge) -> Self:
        """The gauge that applies ``first`` and then this one."""
        return type(self)(
            tuple(compose(g, h) for g, h in zip(self.blocks, first.blocks, strict=True)), self.groups
        )

    def key_values(self, block: int) -> Permutation:
        """What the key/value heads of a block do."""
        return Permutation(self.blocks[block].perm.view(-1, self.groups)[:, 0] // self.groups)

    def apply(self, model: Model, inplace: bool = False) -> Model:
        """The same function with its heads reordered; tied weights, dtypes and flags are kept, gradients dropped.

        Raises ``ValueError`` where the number of blocks, heads or key/value heads differs.
        """
        chart, (heads, shared) = chart_of(model), _counts(model)
        mine, theirs = [b.size for b in self.blocks], [heads] * len(chart.blocks(model))
        if mine != theirs or self.groups * shared != heads:
            raise ValueError(
                f"the gauge has {mine} query heads by block, in groups of {self.groups}; the model has {theirs}, in groups "
                f"of {heads // shared}"
            )
        return act_on_blocks(model, _parts(chart), self._element, inplace)

    def _element(self, block: int, kind: str, length: int) -> Permutation:
        """Heads to entries: what to do to an axis of ``length``."""
        query, shared = self.blocks[block], self.key_values(block)
        segments = [shared if segment == "kv" else query for segment in kind.split()]
        unit = length // sum(s.size for s in segments)
        starts = torch.cat([s.perm + sum(t.size for t in segments[:k]) for k, s in enumerate(segments)])
        return Permutation((starts[:, None] * unit + torch.arange(unit)).flatten())


def match_heads(model_a: nn.Module, model_b: nn.Module) -> HeadGauge:
    """The gauge ``g`` for which ``g.apply(A)`` is nearest to B: least squares over all parameters of attention.

    Exact: for each pair of key/value heads the best assignment of their query heads, then the best assignment of the
    pairs. The residual coordinates must be shared (move A first), and the coordinates inside heads, as they are
    between runs from one base. Products are in float32 or wider.

    Raises ``ValueError`` for models that are not comparable or not finite.
    """
    chart, _ = check_comparable(model_a, model_b)
    heads, shared = counts = _counts(model_a)
    if counts != _counts(model_b):
        raise ValueError(
            f"A and B must have the same query and key/value heads: {counts} and {_counts(model_b)}"
        )
    found = []
    for block in range(len(chart.blocks(model_a))):
        score = {"q": torch.zeros(heads, heads), "kv": torch.zeros(shared, shared)}
        for kind, of_b, of_a in paired_rows(model_a, model_b, _parts(chart), block):
            segments = ["kv" if segment == "kv" else "q" for segment in kind.split()]
            unit = len(of_b) // sum(len(score[s]) for s in segments)
            sizes = [unit * len(score[s]) for s in segments]
            for s, b, a in zip(segments, of_b.split(sizes), of_a.split(sizes), strict=True):
                n = len(score[s])
                score[s] = score[s] + b.reshape(n, -1) @ a.reshape(n, -1).T
        found.append(_best(score["q"], score["kv"], heads // shared))
    return HeadGauge(tuple(found), heads // shared)


def _best(query: Tensor, key_value: Tensor, groups: int) -> Permutation:
    """The best permutation in groups: ``query`` [heads, heads] and ``key_value`` [shared, shared] are to be maximised."""
    shared = len(key_value)
    score, inner = key_value.double(), {}
    for i, rows in enumerate(query.split(groups)):
        for j, square in enumerate(rows.split(groups, dim=1)):
            inner[i, j] = assignment.solve(square)
            score[i, j] += inner[i, j].objective
    outer = torch.from_numpy(assignment.solve(score).columns)
    return _joined(outer, [torch.from_numpy(inner[i, int(outer[i])].columns) for i in range(shared)])


def _joined(outer: Tensor, inner: list[Tensor]) -> Permutation:
    """Group ``i`` of the result is group ``outer[i]``, in the order ``inner[i]``."""
    return Permutation(torch.cat([j * len(within) + within for j, within in zip(outer, inner, strict=True)]))


def _parts(chart: Chart) -> tuple[Part, ...]:
    if chart.family.name not in HEADS:
        raise ValueError(
            f"the head axes of family {chart.family.name!r} are not declared; known: {', '.join(HEADS)}"
        )
    return HEADS[chart.family.name]


def _blocks(model: nn.Module) -> int:
    return len(chart_of(model).blocks(model))


def _counts(model: nn.Module) -> tuple[int, int]:
    """Query heads and key/value heads."""
    config: Any = model.config
    heads = int(config.num_attention_heads)
    return heads, int(getattr(config, "num_key_value_heads", None) or heads)
