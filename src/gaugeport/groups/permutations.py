"""Define the elements that move whole coordinates: the groups S_d, S_d × {±1} and B_d.

They act by ``index_select`` and a multiplication, never by a matrix product.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor

from gaugeport.groups.element import Element, check_axis, describe


@dataclass(frozen=True, eq=False)
class SignedPermutation(Element):
    """An element of B_d: coordinate ``i`` becomes ``sign[i]`` times coordinate ``perm[i]``.

    Args:
        perm: A permutation of ``0..d-1``. Stored as int64[d].
        sign: +1 or -1 per coordinate. Stored as int8[d].

    Raises:
        ValueError: If ``perm`` is not a permutation, or ``sign`` holds anything but ±1.
    """

    perm: Tensor
    sign: Tensor
    group: ClassVar[str] = "signed_permutation"

    def __post_init__(self) -> None:
        perm = torch.as_tensor(self.perm).detach().cpu()
        sign = torch.as_tensor(self.sign).detach().cpu()
        integers = not perm.is_floating_point() and perm.dtype != torch.bool
        if (
            perm.dim() != 1
            or not integers
            or not torch.equal(perm.sort().values.long(), torch.arange(len(perm)))
        ):
            raise ValueError(
                f"perm must be a permutation of 0..d-1 as a vector of integers, got {describe(perm)}"
            )
        if sign.shape != perm.shape or sign.dtype == torch.bool or not bool((sign.abs() == 1).all()):
            raise ValueError(f"sign must be a vector of {len(perm)} entries +1 or -1, got {describe(sign)}")
        # copies: a frozen value must not change with the tensor it was made from
        object.__setattr__(self, "perm", perm.to(torch.int64, copy=True))
        object.__setattr__(self, "sign", sign.to(torch.int8, copy=True).contiguous())

    def _tensors(self) -> dict[str, Tensor]:
        return {"perm": self.perm, "sign": self.sign}

    @property
    def size(self) -> int:
        return len(self.perm)

    @classmethod
    def identity(cls, d: int) -> Self:
        return cls._from_signed(torch.arange(d), torch.ones(d, dtype=torch.int8))

    @classmethod
    def random(cls, d: int, generator: torch.Generator | None = None) -> Self:
        """Draw a uniform element of the group of width ``d`` from ``generator``."""
        perm = torch.randperm(d, generator=generator)
        return cls._from_signed(perm, cls._random_signs(d, generator))

    @classmethod
    def _random_signs(cls, d: int, generator: torch.Generator | None) -> Tensor:
        return (torch.randint(0, 2, (d,), generator=generator) * 2 - 1).to(torch.int8)

    @classmethod
    def _from_signed(cls, perm: Tensor, sign: Tensor) -> Self:
        return cls(perm, sign)

    def inverse(self) -> Self:
        q = torch.argsort(self.perm)
        return self._from_signed(q, self.sign[q])

    def act(self, x: Tensor, axis: int = -1) -> Tensor:
        """Act on a *vector* axis of ``x``, of length d: permute and sign. Keep dtype and device."""
        moved = self.act_gain(x, axis)
        shape = [1] * x.dim()
        shape[axis] = self.size
        return moved * self.sign.to(x.device, x.dtype).view(shape)

    def act_gain(self, x: Tensor, axis: int = -1) -> Tensor:
        """Act on a *gain* axis (norm weights, second moments, magnitudes): permute only."""
        check_axis(x, axis, self.size)
        return x.index_select(axis, self.perm.to(x.device))

    def dense(self, dtype: torch.dtype = torch.float64) -> Tensor:
        q = torch.zeros(self.size, self.size, dtype=dtype)
        q[torch.arange(self.size), self.perm] = self.sign.to(dtype)
        return q

    def without_signs(self) -> Permutation:
        """Return the permutation without its signs, the papers' symmetry-incomplete control."""
        return Permutation(self.perm)


@dataclass(frozen=True, eq=False)
class GlobalSignPermutation(SignedPermutation):
    """An element of S_d × {±1}: a permutation and one sign for all coordinates.

    ``sign`` may be given as a single ±1. This is the exact gauge group of a LayerNorm model with gains in
    place.
    """

    group: ClassVar[str] = "global_sign_permutation"

    def __post_init__(self) -> None:
        sign = torch.as_tensor(self.sign)
        if sign.dim() == 0:
            object.__setattr__(self, "sign", sign.expand(torch.as_tensor(self.perm).numel()))
        super().__post_init__()
        if self.size and not bool((self.sign == self.sign[0]).all()):
            raise ValueError("a GlobalSignPermutation has one sign for all coordinates, got both +1 and -1")

    @classmethod
    def _random_signs(cls, d: int, generator: torch.Generator | None) -> Tensor:
        return super()._random_signs(1, generator).expand(d)


@dataclass(frozen=True, eq=False)
class Permutation(GlobalSignPermutation):
    """An element of S_d, ``Permutation(perm)``: all signs are +1."""

    sign: Tensor = None  # type: ignore[assignment]
    group: ClassVar[str] = "permutation"

    def __post_init__(self) -> None:
        if self.sign is None:
            object.__setattr__(self, "sign", torch.tensor(1))
        super().__post_init__()
        if not bool((self.sign == 1).all()):
            raise ValueError("every sign of a Permutation must be +1, got a -1")

    @classmethod
    def _random_signs(cls, d: int, generator: torch.Generator | None) -> Tensor:
        return torch.ones(d, dtype=torch.int8)
