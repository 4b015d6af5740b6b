"""Define the elements that mix coordinates: O(d) and its mean-preserving subgroup."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor

from gaugeport.groups.element import Element, check_axis

ORTHOGONALITY_TOLERANCE = 1e-4
"""Largest entry of |QQᵀ - I| that a matrix given as orthogonal may have."""


@dataclass(frozen=True, eq=False)
class Orthogonal(Element):
    """An element of O(d): ``g·x = x @ matrix.T``.

    Args:
        matrix: float[d, d] with orthonormal rows. Stored as float64.

    Raises:
        ValueError: If the matrix is not square or not orthogonal, for instance because it was rounded to 16
            bits.
    """

    matrix: Tensor
    group: ClassVar[str] = "orthogonal"

    def __post_init__(self) -> None:
        given = torch.as_tensor(self.matrix).detach().cpu()
        q = given.to(torch.float64, copy=True)
        if q.dim() != 2 or q.shape[0] != q.shape[1]:
            raise ValueError(f"an orthogonal matrix is square, got shape {tuple(q.shape)}")
        error = float((q @ q.T - torch.eye(len(q), dtype=q.dtype)).abs().max()) if len(q) else 0.0
        if not error <= ORTHOGONALITY_TOLERANCE:
            raise ValueError(
                f"matrix is not orthogonal: max|QQ'-I| = {error:.2g}, allowed {ORTHOGONALITY_TOLERANCE}"
                + _half_precision_note(given, error)
            )
        object.__setattr__(self, "matrix", q)

    def _tensors(self) -> dict[str, Tensor]:
        return {"matrix": self.matrix}

    @property
    def size(self) -> int:
        return len(self.matrix)

    @classmethod
    def identity(cls, d: int) -> Self:
        return cls(torch.eye(d, dtype=torch.float64))

    @classmethod
    def random(cls, d: int, generator: torch.Generator | None = None) -> Self:
        """Draw a Haar-distributed element from ``generator``."""
        return cls(haar_matrix(d, generator))

    def inverse(self) -> Self:
        return type(self)(self.matrix.T.contiguous())

    def act(self, x: Tensor, axis: int = -1) -> Tensor:
        """Act on a *vector* axis of ``x``, of length d. Multiply in float64; keep dtype and device."""
        check_axis(x, axis, self.size)
        wide = x.movedim(axis, -1).to(torch.float64)
        return (wide @ self.matrix.to(x.device).T).to(x.dtype).movedim(-1, axis)

    def act_gain(self, x: Tensor, axis: int = -1) -> Tensor:
        """Raise ``ValueError``: a rotation mixes coordinates, so it has no action on magnitudes."""
        raise ValueError(
            "a rotation does not act on gains and second moments: they are magnitudes of single coordinates. "
            "Allowed groups: permutation, global_sign_permutation, signed_permutation; or fold the gains"
        )

    def dense(self, dtype: torch.dtype = torch.float64) -> Tensor:
        return self.matrix.to(dtype)


@dataclass(frozen=True, eq=False)
class MeanPreservingOrthogonal(Orthogonal):
    """A rotation that fixes the all-ones direction up to sign.

    It is the exact gauge group of a model with LayerNorm whose gains are folded into the readers.
    """

    group: ClassVar[str] = "mean_preserving_orthogonal"

    def __post_init__(self) -> None:
        super().__post_init__()
        error = mean_error(self.matrix)
        if error > ORTHOGONALITY_TOLERANCE:
            raise ValueError(
                f"matrix does not fix the all-ones vector up to sign: max|Q1 - ±1| = {error:.2g}"
            )

    @classmethod
    def random(cls, d: int, generator: torch.Generator | None = None) -> Self:
        """Draw a Haar rotation of the complement of the all-ones direction, and a sign for that direction."""
        basis = mean_free_basis(d)
        sign = torch.randint(0, 2, (), generator=generator, dtype=torch.float64) * 2 - 1
        inner = haar_matrix(d - 1, generator)
        return cls(basis @ inner @ basis.T + sign / d)


def _half_precision_note(matrix: Tensor, error: float) -> str:
    """Return what to do about a matrix that is not orthogonal because it was rounded to 16 bits, else "".

    Rounding each entry by half of eps changes no entry of QQᵀ by more than eps; twice that is allowed here.
    """
    for dtype in (torch.bfloat16, torch.float16):
        rounded = matrix.dtype == dtype or torch.equal(matrix.to(dtype).to(matrix.dtype), matrix)
        if matrix.dtype == dtype or (rounded and error <= 2 * torch.finfo(dtype).eps):
            name = str(dtype).removeprefix("torch.")
            return (
                f". Its entries are rounded to {name}, which is too coarse: pass float32 or float64, made in "
                "float32 or wider (converting the rounded matrix does not help)"
            )
    return ""


def mean_error(matrix: Tensor) -> float:
    """Return max|Q1 - ±1|, for the sign that is nearer: how far a rotation is from fixing all-ones."""
    rows = matrix.sum(1)
    return min(float((rows - s).abs().max()) for s in (1.0, -1.0)) if len(rows) else 0.0


def haar_matrix(d: int, generator: torch.Generator | None = None) -> Tensor:
    """Draw a Haar-distributed orthogonal matrix, float64[d, d], from ``generator``.

    It is the Q of a Gaussian matrix with the diagonal of R made positive: without this sign correction Q is
    not Haar-distributed (Mezzadri 2007).
    """
    q, r = torch.linalg.qr(torch.randn(d, d, generator=generator, dtype=torch.float64))
    return q * torch.sign(r.diagonal())


def mean_free_basis(d: int) -> Tensor:
    """Return Helmert's orthonormal basis of the complement of the all-ones vector, float64[d, d-1]."""
    k = torch.arange(1, d, dtype=torch.float64)
    rows = torch.arange(d).unsqueeze(1)
    basis = torch.where(rows < k, 1.0, 0.0) - torch.where(rows == k, k, 0.0)
    return basis / torch.sqrt(k * (k + 1))
