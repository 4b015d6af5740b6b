"""Match and reorder MLP neurons: which neuron of one model is which of another, in shared coordinates.

A residual gauge leaves neurons where they are; neurons have a gauge of their own, one element per block. A
gated MLP, ``down(act(gate x) * up x)``, stays the same function when its neurons are reordered, and when a
neuron's rows of ``up`` and column of ``down`` change sign together. ``gate`` never changes sign, because the
activation is not an odd function. A plain MLP allows reordering only. ``heads.py`` does the same for
attention heads.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from torch import nn

from gaugeport.alignment import assignment
from gaugeport.alignment.evidence import check_comparable
from gaugeport.charts.chart import Chart, chart_of
from gaugeport.groups import Permutation, SignedPermutation, compose
from gaugeport.transport.model import Model
from gaugeport.transport.units import UnitAxis, act_on_units, declared, paired_rows
from gaugeport.utils.progress import Progress


@dataclass(frozen=True)
class NeuronGauge:
    """A gauge of MLP neurons: which neuron comes where, block by block.

    Neuron ``i`` of the result is neuron ``perm[i]``, times ``sign[i]`` in up and down. To move a list of
    one block's neurons call ``transport_indices(neurons, gauge.blocks[block])``.

    Attributes:
        blocks: One signed permutation of the neurons per block; :class:`~gaugeport.groups.Permutation` if the
            MLP has no gate.
    """

    blocks: tuple[SignedPermutation, ...]

    @classmethod
    def random(cls, model: nn.Module, generator: torch.Generator | None = None, signs: bool = True) -> Self:
        """Draw a uniform element for a model.

        Args:
            model: The model whose neurons are to be moved.
            generator: Source of randomness; torch's default if None.
            signs: Draw signs too, if the model's MLPs allow them.

        Returns:
            The gauge.
        """
        element_class = _element_class(chart_of(model)) if signs else Permutation
        return cls(tuple(element_class.random(n, generator) for n in _widths(model)))

    @classmethod
    def identity(cls, model: nn.Module) -> Self:
        """Return the element for ``model`` that moves nothing."""
        element_class = _element_class(chart_of(model))
        return cls(tuple(element_class.identity(n) for n in _widths(model)))

    def inverse(self) -> Self:
        """Return the gauge that undoes this one."""
        return type(self)(tuple(b.inverse() for b in self.blocks))

    def after(self, first: NeuronGauge) -> Self:
        """Return the gauge that applies ``first`` and then this one."""
        return type(self)(tuple(compose(g, h) for g, h in zip(self.blocks, first.blocks, strict=True)))

    def apply(self, model: Model, inplace: bool = False) -> Model:
        """Return the same function with its neurons reordered.

        Tied weights, dtypes and ``requires_grad`` are kept; gradients are dropped.

        Args:
            model: The model.
            inplace: Change ``model`` itself and return it.

        Returns:
            The moved model: a copy, or ``model`` itself if ``inplace``.

        Raises:
            ValueError: If the model has another number of blocks or neurons, or if the gauge has signs and
                the MLPs have no gate.
        """
        chart, widths = chart_of(model), _widths(model)
        own_widths = [b.size for b in self.blocks]
        if own_widths != widths:
            raise ValueError(f"neurons by block: the gauge has {own_widths}, the model {widths}")
        if _element_class(chart) is Permutation and any(bool((b.sign < 0).any()) for b in self.blocks):
            raise ValueError(
                f"the MLPs of {chart.model_type} have no gate, so their neurons cannot change sign; "
                "allowed: permutations"
            )
        return act_on_units(model, neuron_axes(chart), self._element, inplace)

    def _element(self, block: int, kind: str, length: int) -> SignedPermutation:
        """Return what acts on one axis of neurons."""
        g = self.blocks[block]
        segments = [g if segment == "signed" else g.without_signs() for segment in kind.split()]
        perm = torch.cat([segment.perm + k * g.size for k, segment in enumerate(segments)])
        return SignedPermutation(perm, torch.cat([segment.sign for segment in segments]))


def match_neurons(model_a: nn.Module, model_b: nn.Module, progress: Progress | None = None) -> NeuronGauge:
    """Find the gauge that brings the MLPs of A nearest to those of B.

    Nearest is meant in least squares over all parameters of the MLPs. Two neurons score the inner product
    of their gates, plus the *absolute* inner product of their up rows and down columns together, whose sign
    becomes theirs. The assignment is exact, block by block. Products are in float32 or wider.

    Args:
        model_a: Model A, in the residual coordinates of B: move it by the residual gauge first.
        model_b: Model B, of the same architecture.
        progress: Told after each block.

    Returns:
        The gauge ``g`` for which ``g.apply(model_a)`` is nearest to ``model_b``.

    Raises:
        ValueError: If the models are not comparable, or hold values that are not finite.

    Source: weight matching of Ainsworth et al. 2023 (Git Re-Basin), exact here because the residual gauge is
    known. The joint sign is not in that paper.
    """
    chart, _ = check_comparable(model_a, model_b)
    axes, gated = neuron_axes(chart), _element_class(chart) is SignedPermutation
    blocks: list[SignedPermutation] = []
    widths = _widths(model_a)
    for block, n in enumerate(widths):
        # 1) score all pairs of neurons
        score = {"plain": torch.zeros(n, n), "signed": torch.zeros(n, n)}
        for kind, of_b, of_a in paired_rows(model_a, model_b, axes, block):
            for segment, b, a in zip(kind.split(), of_b.split(n), of_a.split(n), strict=True):
                score[segment] = score[segment] + b @ a.T
        # 2) assign them, and read the signs off the matched pairs
        columns = torch.from_numpy(assignment.solve(score["plain"] + score["signed"].abs()).columns)
        sign = torch.where(score["signed"][torch.arange(n), columns] < 0, -1, 1)
        blocks.append(SignedPermutation(columns, sign) if gated else Permutation(columns))
        if progress is not None:
            progress(len(blocks), len(widths), "matching neurons")
    return NeuronGauge(tuple(blocks))


def neuron_axes(chart: Chart) -> tuple[UnitAxis, ...]:
    """Return the neuron axes of a chart's family. In a gated MLP all but the gate carry the sign."""
    gated = _element_class(chart) is SignedPermutation
    axes = []
    for pattern, axis in chart.family.neurons:
        if "gate_up_proj" in pattern:
            axes.append(UnitAxis(pattern, axis, "plain signed"))
        elif "{gate,up}_proj" in pattern:
            axes.append(UnitAxis(pattern.replace("{gate,up}", "gate"), axis, "plain"))
            axes.append(UnitAxis(pattern.replace("{gate,up}", "up"), axis, "signed"))
        else:
            axes.append(UnitAxis(pattern, axis, "signed" if gated else "plain"))
    return tuple(axes)


def _element_class(chart: Chart) -> type[SignedPermutation]:
    return SignedPermutation if any("gate" in pattern for pattern, _ in chart.family.neurons) else Permutation


def _widths(model: nn.Module) -> list[int]:
    """Return the number of neurons of each block, read off the parameters."""
    widths: dict[int, int] = {}
    for p, unit_axis, block in declared(model, neuron_axes(chart_of(model))):
        widths[block] = p.shape[unit_axis.axis] // len(unit_axis.kind.split())
    return [widths[block] for block in sorted(widths)]
