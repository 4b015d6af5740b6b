"""Find which axes of a block's parameters are stream axes, by trying a random gauge on each.

A block is a function F of the stream. Axes are right if moving the parameters by them gives
``F'(g·x) = g·F(x)`` for a random element g. Sizes leave few axes open: an axis that is not of length d is
none of the stream's, and a matrix with one axis of length d has it there. What is open is tried in every
combination.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from gaugeport.groups import SignedPermutation

Axes = tuple[str, ...]
Choice = dict[str, Axes]
"""Name of a tensor -> its axes."""

SAME = 1e-3
"""Outputs differ by less than this share of their standard deviation if the axes are right.

Rounding in float32 is about 1e-6 of it, and one wrong axis changes them by about as much as they vary."""

MOST_COMBINATIONS = 20_000
"""More open combinations than this are not tried."""


@dataclass(frozen=True)
class Decided:
    """The axes of a module's tensors.

    Attributes:
        axes: Name of a tensor within the module -> its axes.
        error: How far the outputs are from ``g·F(x)``, in their standard deviation.
        undecided: Names of tensors whose axes other combinations have otherwise, with as small an error.
    """

    axes: Choice
    error: float
    undecided: tuple[str, ...]


@torch.no_grad()
def block_axes(
    block: nn.Module, stream: Tensor, call: tuple[tuple[Any, ...], Mapping[str, Any]], g: SignedPermutation
) -> Decided:
    """Decide the axes of every parameter and buffer of a block.

    Args:
        block: The block. It is not changed.
        stream: float32[batch, time, d], what the block reads.
        call: The other arguments of its call, positional ones after the stream, and by name.
        g: A random element of the group that is tried.

    Raises:
        ValueError: Too many combinations are open.
    """
    work = _generic(block)
    own = dict(_tensors(work))
    options = _options(work, own, g)
    combinations = prod(map(len, options))
    if combinations > MOST_COMBINATIONS:
        raise ValueError(
            f"{combinations} combinations of axes are open in {type(block).__name__}; expected at "
            f"most {MOST_COMBINATIONS}. Draft from a small random model of the architecture whose head, "
            "neuron and residual sizes all differ"
        )
    expected = g.act(_output(work, stream, call))
    moved_stream, plain = g.act(stream), {name: t.clone() for name, t in own.items()}
    spread, results = float(expected.std()), []
    for choices in product(*options):
        chosen = {name: axes for choice in choices for name, axes in choice.items()}
        for name, axes in chosen.items():
            own[name].copy_(_acted(plain[name], axes, g))
        change = float((_output(work, moved_stream, call) - expected).abs().max()) / spread
        results.append((change, chosen))
    return _decision(results)


def module_axes(module: nn.Module, g: SignedPermutation) -> Choice | None:
    """Return the axes under which a norm-like module commutes with g, or None if it has no such axes.

    Args:
        module: A module whose parameters are vectors of length d.
        g: A random element.
    """
    width = g.size
    work = _generic(module)
    own = dict(work.named_parameters())
    if not own or any(p.shape != (width,) for p in own.values()):
        return None
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4, width, generator=generator) + torch.rand(width, generator=generator)
    plain = {name: p.detach().clone() for name, p in own.items()}
    with torch.no_grad():
        try:
            expected = g.act(work(x))
        except (TypeError, ValueError, RuntimeError):  # not a function of one stream
            return None
        for kinds in product(("gain", "vector"), repeat=len(own)):
            for (name, p), kind in zip(own.items(), kinds, strict=True):
                p.copy_(_acted(plain[name], (kind,), g))
            if float((work(g.act(x)) - expected).abs().max()) < SAME * float(expected.std()):
                return {name: (kind,) for name, kind in zip(own, kinds, strict=True)}
    return None


def _options(work: nn.Module, own: Mapping[str, Tensor], g: SignedPermutation) -> list[list[Choice]]:
    """Return what is open: for each group of tensors that are chosen together, the axes they may have."""
    options: list[list[Choice]] = []
    in_norms: set[str] = set()
    for name, module in work.named_modules():
        axes = None if module is work or list(module.children()) else module_axes(module, g)
        if axes is not None:
            of_norm = {f"{name}.{n}": a for n, a in axes.items()}
            in_norms |= set(of_norm)
            # a norm of the stream, or of something else that happens to be as wide
            options.append([of_norm, {n: ("none",) for n in of_norm}])
    for name, tensor in own.items():
        if name not in in_norms:
            options.append([{name: axes} for axes in _axes_of_shape(tuple(tensor.shape), g.size)])
    return options


def _axes_of_shape(shape: tuple[int, ...], width: int) -> list[Axes]:
    """Return the axes that a tensor of a shape may have."""
    fitting = [i for i, n in enumerate(shape) if n == width]
    nothing: Axes = ("none",) * len(shape)
    if not fitting:
        return [nothing]
    if len(shape) == 1:
        return [("vector",), ("none",), ("gain",)]
    one = [tuple("vector" if i == j else "none" for j in range(len(shape))) for i in fitting]
    if len(fitting) == 1:
        return one
    both = tuple("vector" if j in fitting else "none" for j in range(len(shape)))
    return [*one, nothing, both]


def _decision(results: Sequence[tuple[float, Choice]]) -> Decided:
    error, best = min(results, key=lambda r: r[0])
    # the first that is right: options are listed with the usual one first
    right = [chosen for change, chosen in results if change < SAME] or [best]
    chosen = right[0]
    undecided = tuple(name for name in chosen if any(other[name] != chosen[name] for other in right))
    return Decided(chosen, error, undecided)


def _output(block: nn.Module, stream: Tensor, call: tuple[tuple[Any, ...], Mapping[str, Any]]) -> Tensor:
    output = block(stream, *call[0], **call[1])
    return output if isinstance(output, Tensor) else output[0]


def _generic(module: nn.Module) -> nn.Module:
    """Return a copy in float32 whose tensors are generic: no bias is 0, and no two gains are equal."""
    work, generator = copy.deepcopy(module).float().eval(), torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in work.parameters():
            scale = float(p.std()) if p.numel() > 1 else 0.0
            p.add_(
                torch.randn(p.shape, generator=generator).to(p)
                * max(scale, 0.1)
                * (0.5 if p.dim() == 1 else 0.1)
            )
    return work


def _tensors(module: nn.Module) -> list[tuple[str, Tensor]]:
    return [*module.named_parameters(), *module.named_buffers()]


def _acted(tensor: Tensor, axes: Axes, g: SignedPermutation) -> Tensor:
    for axis, kind in enumerate(axes):
        if kind == "vector":
            tensor = g.act(tensor, axis)
        elif kind == "gain":
            tensor = g.act_gain(tensor, axis)
    return tensor
