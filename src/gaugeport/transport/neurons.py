"""The gauge of MLP neurons: which neuron of one model is which of another, in coordinates that are shared already.

A residual gauge leaves neurons where they are; they have a gauge of their own, one element per block. A gated MLP,
``down(act(gate x) * up x)``, is the same function when its neurons are reordered and a neuron's rows of ``up`` and
column of ``down`` change sign together (never ``gate``: the activation is no odd function). A plain MLP allows
reordering only. Heads likewise: :mod:`gaugeport.transport.heads`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Self, TypeVar

import torch
from torch import Tensor, nn

from gaugeport.alignment import assignment
from gaugeport.alignment.evidence import check_comparable
from gaugeport.charts.chart import Chart, chart_of
from gaugeport.charts.rules import Rule
from gaugeport.groups import Permutation, SignedPermutation, compose
from gaugeport.transport.axis import InPlace

Model = TypeVar("Model", bound=nn.Module)


@dataclass(frozen=True)
class Part:
    """An axis made of neurons or heads, in all parameters of one name pattern (``*`` is the block).

    ``kind`` of neurons: ``plain`` (reordered), ``signed`` (with the sign) or ``plain signed`` (both, one after the
    other, as in a fused gate/up matrix); of heads see :data:`gaugeport.transport.heads.HEADS`.
    """

    pattern: str
    axis: int
    kind: str


@dataclass(frozen=True)
class NeuronGauge:
    """One element per block: neuron ``i`` of the result is neuron ``perm[i]``, times ``sign[i]`` in up and down.

    ``blocks`` are signed permutations of the neurons, :class:`~gaugeport.groups.Permutation` where the MLP is not
    gated. A list of a block's neurons is moved by ``transport_indices(neurons, gauge.blocks[block])``.
    """

    blocks: tuple[SignedPermutation, ...]

    @classmethod
    def random(cls, model: nn.Module, generator: torch.Generator | None = None, signs: bool = True) -> Self:
        """A uniform element for ``model``; without ``signs``, or where its MLPs have none, permutations only."""
        kind = _element_class(chart_of(model)) if signs else Permutation
        return cls(tuple(kind.random(n, generator) for n in _widths(model)))

    @classmethod
    def identity(cls, model: nn.Module) -> Self:
        kind = _element_class(chart_of(model))
        return cls(tuple(kind.identity(n) for n in _widths(model)))

    def inverse(self) -> Self:
        return type(self)(tuple(b.inverse() for b in self.blocks))

    def after(self, first: NeuronGauge) -> Self:
        """The gauge that applies ``first`` and then this one."""
        return type(self)(tuple(compose(g, h) for g, h in zip(self.blocks, first.blocks, strict=True)))

    def apply(self, model: Model, inplace: bool = False) -> Model:
        """The same function with its neurons reordered; tied weights, dtypes and flags are kept, gradients dropped.

        Raises ``ValueError`` where the number of blocks or neurons differs, and for signs on an MLP without gate.
        """
        chart, widths = chart_of(model), _widths(model)
        if [b.size for b in self.blocks] != widths:
            raise ValueError(
                f"the gauge has neurons {[b.size for b in self.blocks]}, the model {widths}, by block"
            )
        if _element_class(chart) is Permutation and any(bool((b.sign < 0).any()) for b in self.blocks):
            raise ValueError(
                f"the MLPs of {chart.model_type} have no gate: their neurons permit permutations, no signs"
            )
        return act_on_blocks(model, neuron_parts(chart), self._element, inplace)

    def _element(self, block: int, kind: str, length: int) -> SignedPermutation:
        """What to do to an axis of neurons."""
        g = self.blocks[block]
        whole = [g if half == "signed" else g.without_signs() for half in kind.split()]
        perm = torch.cat([h.perm + k * g.size for k, h in enumerate(whole)])
        return SignedPermutation(perm, torch.cat([h.sign for h in whole]))


def match_neurons(model_a: nn.Module, model_b: nn.Module) -> NeuronGauge:
    """The gauge ``g`` for which ``g.apply(A)`` is nearest to B: least squares over all parameters of the MLPs.

    The score of two neurons is the inner product of their gates, plus the *absolute* inner product of their up rows
    and down columns together (its sign is theirs); the assignment is exact, block by block. The residual coordinates
    must be shared: move A by the residual gauge first. Products are in float32 or wider.

    Raises ``ValueError`` for models that are not comparable or not finite. Source: weight matching of Ainsworth et
    al. 2023 (Git Re-Basin), which is exact here because the residual gauge is known; the joint sign is ours.
    """
    chart, _ = check_comparable(model_a, model_b)
    parts, gated = neuron_parts(chart), _element_class(chart) is SignedPermutation
    found: list[SignedPermutation] = []
    for block, n in enumerate(_widths(model_a)):
        score = {"plain": torch.zeros(n, n), "signed": torch.zeros(n, n)}
        for kind, of_b, of_a in paired_rows(model_a, model_b, parts, block):
            for half, b, a in zip(kind.split(), of_b.split(n), of_a.split(n), strict=True):
                score[half] = score[half] + b @ a.T
        columns = torch.from_numpy(assignment.solve(score["plain"] + score["signed"].abs()).columns)
        sign = torch.where(score["signed"][torch.arange(n), columns] < 0, -1, 1)
        found.append(SignedPermutation(columns, sign) if gated else Permutation(columns))
    return NeuronGauge(tuple(found))


def neuron_parts(chart: Chart) -> tuple[Part, ...]:
    """The neuron axes of a family, from the chart's declaration: in a gated MLP all but the gate carry the sign."""
    gated = _element_class(chart) is SignedPermutation
    parts = []
    for pattern, axis in chart.family.neurons:
        if "gate_up_proj" in pattern:
            parts.append(Part(pattern, axis, "plain signed"))
        elif "{gate,up}_proj" in pattern:
            parts.append(Part(pattern.replace("{gate,up}", "gate"), axis, "plain"))
            parts.append(Part(pattern.replace("{gate,up}", "up"), axis, "signed"))
        else:
            parts.append(Part(pattern, axis, "signed" if gated else "plain"))
    return tuple(parts)


def act_on_blocks(
    model: Model, parts: Iterable[Part], element: Callable[[int, str, int], SignedPermutation], inplace: bool
) -> Model:
    """``element(block, kind, length of the axis)`` on every axis that ``parts`` declare."""
    moved = model if inplace else copy.deepcopy(model)
    with torch.no_grad():
        for p, part, block in _declared(moved, parts):
            InPlace(element(block, part.kind, p.shape[part.axis])).vector(p.data, part.axis)
    for p in moved.parameters():
        p.grad = None
    return moved


def paired_rows(
    model_a: nn.Module, model_b: nn.Module, parts: tuple[Part, ...], block: int
) -> Iterator[tuple[str, Tensor, Tensor]]:
    """``(kind, of B, of A)`` for every declared axis of a block: matrices [axis, rest], in float32 or wider.

    Raises ``ValueError`` where shapes differ.
    """
    pairs = zip(_declared(model_a, parts), _declared(model_b, parts), strict=True)
    for (a, part, where), (b, _, _) in pairs:
        if a.shape != b.shape:
            raise ValueError(f"{part.pattern} has shape {tuple(a.shape)} in A and {tuple(b.shape)} in B")
        if where == block:
            yield part.kind, _rows(b, part.axis), _rows(a, part.axis)


def _rows(t: Tensor, axis: int) -> Tensor:
    t = t.detach().cpu()
    return t.to(torch.promote_types(t.dtype, torch.float32)).movedim(axis, 0).reshape(t.shape[axis], -1)


def _declared(model: nn.Module, parts: Iterable[Part]) -> Iterator[tuple[nn.Parameter, Part, int]]:
    rules = [(part, Rule(part.pattern, (), "invariant")) for part in parts]
    for name, p in model.named_parameters():
        for part, rule in rules:
            block = rule.match(name)
            if block is not None:
                yield p, part, int(block)


def _element_class(chart: Chart) -> type[SignedPermutation]:
    return SignedPermutation if any("gate" in pattern for pattern, _ in chart.family.neurons) else Permutation


def _widths(model: nn.Module) -> list[int]:
    """The number of neurons of each block, read off the parameters."""
    widths: dict[int, int] = {}
    for p, part, block in _declared(model, neuron_parts(chart_of(model))):
        widths[block] = p.shape[part.axis] // len(part.kind.split())
    return [widths[block] for block in sorted(widths)]
