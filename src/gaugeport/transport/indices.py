"""Move lists of coordinates: find which index of B is index j of A, and with which sign."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral

import torch
from torch import Tensor

from gaugeport.groups import Element
from gaugeport.transport.directions import check_kept, require_coordinatewise

MAX_SHOWN = 6
"""How many offending indices an error message shows."""


@dataclass(frozen=True, eq=False)
class MovedIndices:
    """A list of coordinates of A, written in the coordinates of B.

    Attributes:
        index: int64[k], the coordinates of B, in the order of the list.
        sign: int8[k], +1 where the coordinate has the same sign in B, -1 where it is reversed.
        dropped: int64, the indices *of A* that were left out because their coordinate of B is not trusted.
    """

    index: Tensor
    sign: Tensor
    dropped: Tensor


def transport_indices(
    indices: Tensor | Sequence[int], g: Element, *, kept: Tensor | None = None
) -> MovedIndices:
    """Move a list of coordinates: index ``j`` of A becomes index ``argsort(perm)[j]`` of B.

    The neurons of one block move the same way, by that block of a
    :class:`~gaugeport.transport.neurons.NeuronGauge`.

    Args:
        indices: Distinct integers from 0 to d-1, as a list or a vector.
        g: The gauge from A to B, a (signed) permutation; of an affine gauge, the linear part.
        kept: bool[d], the coordinates of B whose assignment is trusted. Indices that land on another
            coordinate are left out and listed in ``dropped``.

    Returns:
        The indices in B, their signs, and the indices of A that were dropped.

    Raises:
        TypeError: If ``indices`` is not a list of integers.
        ValueError: If ``g`` is a rotation, if indices are out of range or repeated, or if ``kept`` does not
            fit.
    """
    moving = require_coordinatewise(g, "an index list")
    listed = _checked(indices, moving.size)
    perm, sign = moving.perm.to(listed.device), moving.sign.to(listed.device)
    index_in_b = torch.empty_like(perm)
    index_in_b[perm] = torch.arange(len(perm), device=perm.device)  # argsort(perm), without sorting
    index, dropped = index_in_b[listed], listed[:0]
    if kept is not None:
        trusted = check_kept(kept, moving.size).to(index.device)[index]
        index, dropped = index[trusted], listed[~trusted]
    return MovedIndices(index, sign[index], dropped)


def _checked(indices: Tensor | Sequence[int], d: int) -> Tensor:
    """Return ``indices`` as int64[k] if they are distinct integers from 0 to d-1."""
    if isinstance(indices, list | tuple):
        wrong = [i for i in indices if not isinstance(i, Integral) or isinstance(i, bool)]
        if wrong:
            raise TypeError(f"indices: expected integers, got {wrong[:MAX_SHOWN]}")
        outside_list = [i for i in indices if not 0 <= i < d]  # may exceed int64
        if outside_list:
            raise ValueError(f"indices out of range: {outside_list[:MAX_SHOWN]}; allowed: 0 to {d - 1}")
        indices = torch.tensor(indices, dtype=torch.int64)
    if not isinstance(indices, Tensor):
        raise TypeError(
            f"indices: expected a torch tensor or a list of integers, got {type(indices).__name__}"
        )
    if indices.is_floating_point() or indices.is_complex() or indices.dtype == torch.bool:
        first = indices.flatten()[:MAX_SHOWN].tolist()
        raise TypeError(f"indices: expected integers, got {indices.dtype} starting {first}")
    if indices.dim() != 1:
        raise ValueError(f"indices: expected one list, got shape {tuple(indices.shape)}")
    listed = indices.to(torch.int64)
    if len(listed) and not 0 <= int(listed.min()) <= int(listed.max()) < d:
        outside = listed[(listed < 0) | (listed >= d)]
        raise ValueError(f"indices out of range: {outside[:MAX_SHOWN].tolist()}; allowed: 0 to {d - 1}")
    counts = listed.bincount(minlength=d)
    if int(counts.max()) > 1:
        repeated = counts.gt(1).nonzero().flatten()
        raise ValueError(f"indices appear more than once: {repeated[:MAX_SHOWN].tolist()}")
    return listed
