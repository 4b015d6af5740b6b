"""Change the residual stream of a running model at one site: add a direction, or project one out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from gaugeport.charts import Chart
from gaugeport.streams.activations import check_site
from gaugeport.utils.precision import at_least_float32

Edit = Callable[[Tensor], Tensor]
"""A function from a stream [batch, time, d] to the stream that replaces it."""


@contextmanager
def edited(model: nn.Module, chart: Chart, site: str, edit: Edit) -> Iterator[None]:
    """While open, replace the stream at ``site`` by ``edit(stream)`` in every forward pass of ``model``.

    Raises ``ValueError`` for a site that :func:`gaugeport.streams.activations.check_site` does not know.
    """
    blocks = chart.blocks(model)
    place = check_site(site, len(blocks), chart)

    def leaving(module: nn.Module, args: Any, output: Any) -> Any:
        return edit(output) if isinstance(output, Tensor) else (edit(output[0]), *output[1:])

    def entering(module: nn.Module, args: tuple, kwargs: dict) -> Any:
        if args:
            return (edit(args[0]), *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": edit(kwargs["hidden_states"])}

    if place == "embed":
        handle: Any = blocks[0].register_forward_pre_hook(entering, with_kwargs=True)
    else:
        handle = blocks[int(place.removeprefix("block"))].register_forward_hook(leaving)
    try:
        yield
    finally:
        handle.remove()


def adding(vector: Tensor) -> Edit:
    """Return the edit that adds ``vector`` [d] at every position."""
    return lambda x: x + vector.to(x.device, x.dtype)


def ablating(direction: Tensor) -> Edit:
    """Return the edit that projects ``direction`` [d] out of every position.

    Raises ``ValueError`` for a direction of length 0 or one that is not finite.
    """
    wide = at_least_float32(direction)
    length = wide.norm()
    if not (bool(torch.isfinite(length)) and length > 0):
        raise ValueError(f"expected a direction of positive, finite length, got {float(length)}")
    unit = wide / length

    def edit(x: Tensor) -> Tensor:
        rows = at_least_float32(x)
        u = unit.to(rows.device, rows.dtype)
        return (rows - (rows @ u).unsqueeze(-1) * u).to(x.dtype)

    return edit
