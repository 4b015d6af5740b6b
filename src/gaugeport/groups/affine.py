"""Define a linear gauge element with a scale and a shift, for maps between models whose means differ."""

from __future__ import annotations

import math
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
    """A linear gauge element, one scale and a shift: ``x -> scale * g·x + shift``.

    This is what centred Procrustes fits between models. It is never an exact symmetry of a model. It moves
    activations, and points such as an SAE's ``b_dec``.

    Its file holds the tensors of g, ``shift`` and, unless it is 1, ``scale``; a file without it has scale 1.

    Args:
        linear: The linear element g.
        shift: float[d], finite. Stored as float64.
        scale: One positive, finite factor for all coordinates.

    Raises:
        ValueError: If ``linear`` is not a linear element, ``shift`` is not d finite numbers, or ``scale`` is
            not positive and finite.
    """

    linear: LinearGauge
    shift: Tensor
    scale: float = 1.0
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
        object.__setattr__(self, "scale", _positive(self.scale))

    def _tensors(self) -> dict[str, Tensor]:
        # without a scale, as before there were scales: such files read the same both ways
        scale = {} if self.scale == 1 else {"scale": torch.tensor(self.scale, dtype=torch.float64)}
        return {**self.linear._tensors(), "shift": self.shift, **scale}

    def _metadata(self) -> dict[str, str]:
        return {"linear_group": self.linear.group}

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, AffineGauge):
            return NotImplemented
        same = self.linear == other.linear and torch.equal(self.shift, other.shift)
        return same and self.scale == other.scale

    __hash__ = Element.__hash__

    @property
    def size(self) -> int:
        return self.linear.size

    @classmethod
    def identity(cls, d: int) -> Self:
        return cls(Orthogonal.identity(d), torch.zeros(d))

    @classmethod
    def random(cls, d: int, generator: torch.Generator | None = None) -> Self:
        """Draw a Haar rotation and a standard Gaussian shift, without a scale."""
        return cls(Orthogonal.random(d, generator), torch.randn(d, generator=generator, dtype=torch.float64))

    def inverse(self) -> Self:
        linear = self.linear.inverse()
        return type(self)(linear, -linear.act(self.shift) / self.scale, 1 / self.scale)

    def act(self, x: Tensor, axis: int = -1) -> Tensor:
        """Act on *points* (activations): apply the linear part, then the scale, then the shift.

        Directions are moved by ``.linear.act``.
        """
        wide = at_least_float32(x)
        moved = self.linear.act(wide, axis)
        if self.scale != 1:
            moved = moved * self.scale
        shape = [1] * x.dim()
        shape[axis] = self.size
        return (moved + self.shift.to(wide.device, wide.dtype).view(shape)).to(x.dtype)

    def act_gain(self, x: Tensor, axis: int = -1) -> Tensor:
        """Raise ``ValueError``: a shift has no action on magnitudes."""
        raise ValueError("an affine gauge does not act on gains or magnitudes; use its linear part, .linear")

    def dense(self, dtype: torch.dtype = torch.float64) -> Tensor:
        """Raise ``ValueError``: an affine map has no d x d matrix."""
        raise ValueError("an affine gauge has no matrix; use its linear part, .linear.dense()")


def _positive(scale: object) -> float:
    """Return a scale as a float. Raises ``ValueError`` unless it is one positive, finite number."""
    try:
        number = float(scale)  # type: ignore[arg-type]
    except (TypeError, ValueError, RuntimeError):  # complex, text, a tensor of several entries
        number = math.nan
    if isinstance(scale, str) or not (math.isfinite(number) and number > 0):
        raise ValueError(f"scale must be one positive, finite number, got {scale!r}")
    return number
