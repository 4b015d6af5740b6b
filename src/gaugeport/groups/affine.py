"""Define a linear gauge element with a shift, for maps between models whose means differ."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor

from gaugeport.groups.element import Element, describe
from gaugeport.groups.permutations import SignedPermutation
from gaugeport.groups.rotations import Orthogonal
from gaugeport.utils.precision import at_least_float32

LinearGauge = SignedPermutation | Orthogonal
"""The elements that a matrix describes: all but :class:`AffineGauge`."""


@dataclass(frozen=True, eq=False)
class AffineGauge(Element):
    """A linear gauge element and a shift: ``x -> g·x + shift`` (centred Procrustes between models).

    It is never an exact symmetry of a model. It moves activations, and points such as an SAE's ``b_dec``.

    Args:
        linear: The linear element g.
        shift: float[d], finite. Stored as float64.

    Raises:
        ValueError: If ``linear`` is not a linear element, or ``shift`` is not d finite numbers.
    """

    linear: LinearGauge
    shift: Tensor
    group: ClassVar[str] = "affine"

    def __post_init__(self) -> None:
        shift = torch.as_tensor(self.shift).detach().cpu().to(torch.float64, copy=True)
        if not isinstance(self.linear, LinearGauge):
            raise ValueError(f"expected a linear gauge element, got {type(self.linear).__name__}")
        if shift.shape != (self.linear.size,):
            raise ValueError(
                f"expected a shift of {self.linear.size} entries, got shape {tuple(shift.shape)}"
            )
        if not bool(torch.isfinite(shift).all()):
            raise ValueError(f"shift must be finite, got {describe(shift)}")
        object.__setattr__(self, "shift", shift)

    def _tensors(self) -> dict[str, Tensor]:
        return {**self.linear._tensors(), "shift": self.shift}

    def _metadata(self) -> dict[str, str]:
        return {"linear_group": self.linear.group}

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, AffineGauge):
            return NotImplemented
        return self.linear == other.linear and torch.equal(self.shift, other.shift)

    __hash__ = Element.__hash__

    @property
    def size(self) -> int:
        return self.linear.size

    @classmethod
    def identity(cls, d: int) -> Self:
        return cls(Orthogonal.identity(d), torch.zeros(d))

    @classmethod
    def random(cls, d: int, generator: torch.Generator | None = None) -> Self:
        """Draw a Haar rotation and a standard Gaussian shift."""
        return cls(Orthogonal.random(d, generator), torch.randn(d, generator=generator, dtype=torch.float64))

    def inverse(self) -> Self:
        linear = self.linear.inverse()
        return type(self)(linear, -linear.act(self.shift))

    def act(self, x: Tensor, axis: int = -1) -> Tensor:
        """Act on *points* (activations): apply the linear part, then the shift.

        Directions are moved by ``.linear.act``.
        """
        wide = at_least_float32(x)
        moved = self.linear.act(wide, axis)
        shape = [1] * x.dim()
        shape[axis] = self.size
        return (moved + self.shift.to(wide.device, wide.dtype).view(shape)).to(x.dtype)

    def act_gain(self, x: Tensor, axis: int = -1) -> Tensor:
        """Raise ``ValueError``: a shift has no action on magnitudes."""
        raise ValueError("an affine gauge does not act on gains or magnitudes; use its linear part, .linear")

    def dense(self, dtype: torch.dtype = torch.float64) -> Tensor:
        """Raise ``ValueError``: an affine map has no d x d matrix."""
        raise ValueError("an affine gauge has no matrix; use its linear part, .linear.dense()")
