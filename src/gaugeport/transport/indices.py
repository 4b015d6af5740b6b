"""Lists of coordinates: which index of B is index j of A, and with which sign."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral

import torch
from torch import Tensor

from gaugeport.groups import Element
from gaugeport.transport.directions import check_kept, coordinatewise


@dataclass(frozen=True, eq=False)
class MovedIndices:
    """A list of coordinates of A, written in B.

    ``index`` int64[k]: the coordinates of B, in the order of the list. ``sign`` int8[k]: whether each points the same
    way there (+1) or is reversed (-1). ``dropped`` int64: the indices *of A* left out because the coordinate of B
    they would become is not trusted.
    """

    index: Tensor
    sign: Tensor
    dropped: Tensor


def transport_indices(
    indices: Tensor | Sequence[int], g: Element, *, kept: Tensor | None = None
) -> MovedIndices:
    """Index ``j`` of A is index ``argsort(perm)[j]`` of B; its sign is kept beside.

    ``indices`` are distinct integers in ``0 … d-1``, a vector or a list. ``kept`` bool[d] marks the coordinates of B
    whose assignment is trusted; what would land on another is left out and told in ``dropped``.

    The neurons of one block move the same way by that block of a :class:`~gaugeport.transport.neurons.NeuronGauge`.

    Raises ``ValueError`` for a rotation (it has no image of a single coordinate) and for indices that are out of
    range or appear twice, ``TypeError`` for what is no list of integers; the offenders are named. Source: DESIGN §1.
    """
    moving = coordinatewise(g, "an index list")
    found = _checked(indices, moving.size)
    perm, sign = moving.perm.to(found.device), moving.sign.to(found.device)
    back = torch.empty_like(perm)
    back[perm] = torch.arange(len(perm), device=perm.device)  # argsort(perm), without sorting
    index, dropped = back[found], found[:0]
    if kept is not None:
        trusted = check_kept(kept, moving.size).to(index.device)[index]
        index, dropped = index[trusted], found[~trusted]
    return MovedIndices(index, sign[index], dropped)


def _checked(indices: Tensor | Sequence[int], d: int) -> Tensor:
    if isinstance(indices, list | tuple):
        wrong = [i for i in indices if not isinstance(i, Integral) or isinstance(i, bool)]
        if wrong:
            raise TypeError(f"indices must be integers, found {wrong[:6]}")
        indices = torch.tensor(indices, dtype=torch.int64)
    if not isinstance(indices, Tensor):
        raise TypeError(
            f"indices must be a torch tensor or a list of integers, found {type(indices).__name__}"
        )
    if indices.is_floating_point() or indices.is_complex() or indices.dtype == torch.bool:
        raise TypeError(
            f"indices must be integers, found {indices.dtype} starting {indices.flatten()[:6].tolist()}"
        )
    if indices.dim() != 1:
        raise ValueError(f"indices must be one list, found shape {tuple(indices.shape)}")
    found = indices.to(torch.int64)
    if len(found) and not 0 <= int(found.min()) <= int(found.max()) < d:
        outside = found[(found < 0) | (found >= d)]
        raise ValueError(f"indices out of range: {outside[:6].tolist()}; allowed: 0 to {d - 1}")
    counts = found.bincount(minlength=d)
    if int(counts.max()) > 1:
        raise ValueError(f"indices appear more than once: {counts.gt(1).nonzero().flatten()[:6].tolist()}")
    return found
