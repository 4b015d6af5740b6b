"""Find how much of a fitted rotation the data decide: effective rank, distance on the support, and controls.

Where a stream has rank r, nothing decides R on the other d − r directions: two copies of one model with a
little independent noise give ``‖R−I‖_F ≈ √(2(d−r))`` although their basis is the same. On the *support*, the
directions that carry the stream, the identity shows. Rank and controls are not in the papers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from gaugeport.alignment.matchers import match
from gaugeport.alignment.moments import CONSTANT_VARIANCE_SHARE
from gaugeport.pipeline.rotation.haar.statistics import check_orthogonal

SUPPORT_VARIANCE_SHARE = 0.99
"""Share of a stream's variance that its supported directions carry."""

COPY_NOISE_SHARE = 1e-3
"""Noise of the low-rank control, as a share of the stream's root mean square."""

FAR_BELOW_SHARE = 0.5
"""A supported distance below this share of the least that Haar gives is far below Haar's; a convention."""


@dataclass(frozen=True)
class Spectrum:
    """Principal components of rows.

    Attributes:
        values: Variances, largest first, float64[d].
        directions: Components as columns, float64[d, d].
    """

    values: Tensor
    directions: Tensor

    @property
    def participation(self) -> float:
        """The participation ratio (Σλ)²/Σλ²: d where all directions vary alike, 1 where one alone does."""
        return float(self.values.sum() ** 2 / self.values.square().sum())

    def rank(self, share: float = SUPPORT_VARIANCE_SHARE) -> int:
        """Return how many components carry ``share`` of the variance; raise ``ValueError`` outside (0, 1]."""
        if not 0 < share <= 1:
            raise ValueError(f"share={share}; allowed: above 0, up to 1")
        carried = self.values.cumsum(0) / self.values.sum()
        return int((carried < share * (1 - 1e-12)).sum()) + 1

    def support(self, share: float = SUPPORT_VARIANCE_SHARE) -> Tensor:
        """Return the components that carry ``share`` of the variance, float64[d, r]."""
        return self.directions[:, : self.rank(share)]


def spectrum(x: Tensor) -> Spectrum:
    """Return the principal components of rows ``x`` [tokens, d].

    Raises:
        ValueError: The shape is another one, or all rows are the same.
    """
    if x.dim() != 2 or len(x) < 2:
        raise ValueError(f"rows of shape {tuple(x.shape)}; allowed: [tokens, d] with two tokens or more")
    centred = x.double() - x.double().mean(0)
    values, vectors = torch.linalg.eigh(centred.T @ centred / len(x))
    if not float(values[-1]) > CONSTANT_VARIANCE_SHARE * float(x.double().square().mean()):
        raise ValueError("all rows are the same; allowed: rows that vary")
    return Spectrum(values.clamp_min(0).flip(0), vectors.flip(1))


def supported_distance(r: Tensor, basis: Tensor) -> float:
    """Return ``‖(R−I)V‖_F / √(2r)``: 0 where R is the identity on the support, about 1 for Haar.

    Args:
        r: A rotation, float[d, d].
        basis: Orthonormal directions V, float[d, r].

    Raises:
        ValueError: The matrix is not orthogonal, or the basis has another width or no directions.
    """
    check_orthogonal(r)
    if basis.dim() != 2 or len(basis) != len(r) or not basis.shape[1]:
        raise ValueError(f"a basis of shape {tuple(basis.shape)}; allowed: [{len(r)}, r] with r >= 1")
    moved = r.double() @ basis.double() - basis.double()
    return float(moved.norm()) / math.sqrt(2 * basis.shape[1])


def far_below_haar(supported: float, least: float) -> bool:
    """Return whether ``supported`` is below :data:`FAR_BELOW_SHARE` of the ``least`` distance under Haar.

    R then leaves the directions that carry the stream about where they are: its random part comes from
    missing rank, however far all of R is from the identity.
    """
    return supported < FAR_BELOW_SHARE * least


@dataclass(frozen=True)
class RotationFit:
    """The rotation with ``b − mean ≈ s·R (a − mean)``.

    Attributes:
        rotation: R, float64[d, d].
        cross: The cross moment that it was fitted on, float64[d, d], indexed [b, a].
        correlation: ⟨R, cross⟩, 1 where b is a rotated and scaled copy of a.
    """

    rotation: Tensor
    cross: Tensor
    correlation: float


def fit_rotation(a: Tensor, b: Tensor, group: str = "orthogonal") -> RotationFit:
    """Fit a rotation by centred Procrustes (section 8.2).

    The cross moment is summed in float64. In float32 the rounding of large entries, which is the same in C
    and Cᵀ for nearly equal streams, would decide R in the directions that carry little, and not the noise
    there.

    Args:
        a: Rows, float[tokens, d].
        b: Rows paired with ``a``, float[tokens, d].
        group: ``orthogonal`` or ``mean_preserving_orthogonal``.

    Raises:
        ValueError: The rows do not pair or are not finite, or the group has no Procrustes solution.
    """
    if a.shape != b.shape or a.dim() != 2:
        raise ValueError(
            f"paired rows of shapes {tuple(a.shape)} and {tuple(b.shape)}; allowed: [tokens, d] both"
        )
    if not (bool(a.isfinite().all()) and bool(b.isfinite().all())):
        raise ValueError("rows with entries that are not finite; allowed: finite rows")
    x, y = (rows.double() - rows.double().mean(0) for rows in (a, b))
    cross = y.T @ x / (x.norm() * y.norm())
    fit = match(cross, group, "procrustes")
    return RotationFit(fit.gauge.dense(), cross, fit.objective)


def low_rank_copies(
    x: Tensor, basis: Tensor, gen: torch.Generator, noise: float = COPY_NOISE_SHARE, group: str = "orthogonal"
) -> tuple[Tensor, Tensor]:
    """Return two noisy copies of the same rows: a control in which R is the identity.

    Args:
        x: Rows, float[tokens, d]. Only their part on ``basis`` is copied.
        basis: Orthonormal directions, float64[d, r].
        gen: Source of the noise.
        noise: Size of each copy's own noise, in every direction of the group's space, as a share of the rows'
            root mean square.
        group: ``orthogonal`` or ``mean_preserving_orthogonal``.

    Returns:
        The two copies, float32[tokens, d] each.
    """
    centred = x.double() - x.double().mean(0)
    low_rank, size = centred @ basis @ basis.T, noise * float(centred.square().mean().sqrt())

    def copy() -> Tensor:
        drawn = torch.randn(x.shape, generator=gen, dtype=torch.float64)
        if group == "mean_preserving_orthogonal":
            drawn -= drawn.mean(1, keepdim=True)
        return (low_rank + size * drawn).float()

    return copy(), copy()


def independent_rows(a: Tensor, b: Tensor, gen: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return Gaussian rows with the covariances of ``a`` and of ``b``: a control in which nothing is shared.

    Args:
        a: Rows, float[tokens, d].
        b: Other rows, float[tokens, d].
        gen: Source of the draws.

    Returns:
        As many rows for each, float32[tokens, d].
    """

    def sample(x: Tensor) -> Tensor:
        components = spectrum(x)
        drawn = torch.randn(x.shape, generator=gen, dtype=torch.float64)
        return (drawn * components.values.sqrt() @ components.directions.T).float()

    return sample(a), sample(b)
