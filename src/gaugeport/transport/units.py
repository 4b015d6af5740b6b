"""Find, move and compare the axes that are made of units (neurons or heads), block by block.

The gauges of neurons (``neurons.py``) and of heads (``heads.py``) declare their axes as :class:`UnitAxis`
records and act through the functions here.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gaugeport.charts.rules import Rule
from gaugeport.groups import SignedPermutation
from gaugeport.transport.axis import InPlace
from gaugeport.transport.model import Model


@dataclass(frozen=True)
class UnitAxis:
    """An axis made of neurons or heads, in all parameters of one name pattern.

    Attributes:
        pattern: Names of parameters, as in :class:`gaugeport.charts.rules.Rule`; ``*`` is the block number.
        axis: The axis of these parameters.
        kind: What lies along the axis. For neurons: ``plain`` (they are reordered), ``signed`` (they also
            change sign) or ``plain signed`` (one after the other, as in a fused gate/up matrix). For heads
            see :data:`gaugeport.transport.heads.HEADS`.
    """

    pattern: str
    axis: int
    kind: str


def act_on_units(
    model: Model,
    axes: Iterable[UnitAxis],
    element: Callable[[int, str, int], SignedPermutation],
    inplace: bool,
) -> Model:
    """Move every declared axis of a model, and drop its gradients.

    Args:
        model: The model.
        axes: The declared axes.
        element: Called with (block, kind, length of the axis); returns what acts on that axis.
        inplace: Change ``model`` itself and return it.

    Returns:
        The moved model: a copy, or ``model`` itself if ``inplace``.
    """
    moved = model if inplace else copy.deepcopy(model)
    with torch.no_grad():
        for p, unit_axis, block in declared(moved, axes):
            g = element(block, unit_axis.kind, p.shape[unit_axis.axis])
            InPlace(g).vector(p.data, unit_axis.axis)
    for p in moved.parameters():
        p.grad = None
    return moved


def paired_rows(
    model_a: nn.Module, model_b: nn.Module, axes: tuple[UnitAxis, ...], block: int
) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Yield the declared axes of one block of two models as matrices.

    Args:
        model_a: Model A.
        model_b: Model B, of the same architecture.
        axes: The declared axes.
        block: The number of the block.

    Yields:
        ``(kind, of B, of A)``, the matrices float[axis, rest] in float32 or wider.

    Raises:
        ValueError: If a parameter has another shape in B than in A.
    """
    pairs = zip(declared(model_a, axes), declared(model_b, axes), strict=True)
    for (a, unit_axis, where), (b, _, _) in pairs:
        if a.shape != b.shape:
            raise ValueError(f"{unit_axis.pattern} has shape {tuple(a.shape)} in A and {tuple(b.shape)} in B")
        if where == block:
            yield unit_axis.kind, _rows(b, unit_axis.axis), _rows(a, unit_axis.axis)


def declared(model: nn.Module, axes: Iterable[UnitAxis]) -> Iterator[tuple[nn.Parameter, UnitAxis, int]]:
    """Yield ``(parameter, declared axis, block)`` for every parameter that a declared axis matches."""
    rules = [(unit_axis, Rule(unit_axis.pattern, (), "invariant")) for unit_axis in axes]
    for name, p in model.named_parameters():
        for unit_axis, rule in rules:
            block = rule.match(name)
            if block is not None:
                yield p, unit_axis, int(block)


def _rows(t: Tensor, axis: int) -> Tensor:
    t = t.detach().cpu()
    return t.to(torch.promote_types(t.dtype, torch.float32)).movedim(axis, 0).reshape(t.shape[axis], -1)
