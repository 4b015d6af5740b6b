"""A linear element with a shift, where means are carried: named apart, and never a symmetry of a model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor

from gaugeport.groups.element import Element, describe
from gaugeport.groups.rotations import Orthogonal


@dataclass(frozen=True, eq=False)
class AffineGauge(Element):
    """A gauge element together with a shift: ``x -> g·x + shift`` (centred Procrustes between models).

    Never an exact symmetry of a model; it carries activations and shifts ``b_dec``-like points. ``shift`` float[d].
    """

    linear: Element
    shift: Tensor
    group: ClassVar[str] = "affine"

    def __post_init__(self) -> None:
        shift = torch.as_tensor(self.shift).detach().cpu().to(torch.float64, copy=True)
        if isinstance(self.linear, AffineGauge) or not isinstance(self.linear, Element):
            raise ValueError(
                f"the linear part must be a linear gauge element, found {type(self.linear).__name__}"
            )
        if shift.shape != (self.linear.size,):
            raise ValueError(f"shift must have {self.linear.size} entries, found shape {tuple(shift.shape)}")
        if not bool(torch.isfinite(shift).all()):
            raise ValueError(f"shift must be finite, found {describe(shift)}")
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
        """A Haar rotation and a standard Gaussian shift."""
        return cls(Orthogonal.random(d, generator), torch.randn(d, generator=generator, dtype=torch.float64))

    def inverse(self) -> Self:
        back = self.linear.inverse()  # type: ignore[attr-defined]
        return type(self)(back, -back.act(self.shift))

    def act(self, x: Tensor, axis: int = -1) -> Tensor:
        """Act on *points* (activations): linear part, then the shift. Directions want ``.linear.act``."""
        wide = x.to(torch.promote_types(x.dtype, torch.float32))  # 16 bits are rounded once, at the end
        moved = self.linear.act(wide, axis)  # type: ignore[attr-defined]
        shape = [1] * x.dim()
        shape[axis] = self.size
        return (moved + self.shift.to(wide.device, wide.dtype).view(shape)).to(x.dtype)
