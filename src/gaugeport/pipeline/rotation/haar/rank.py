"""How much of a fitted rotation the data decide: effective rank, R on the directions that carry the stream, and controls.

Where a stream has rank r, nothing decides R on the other d − r directions: two copies of one model with a little
independent noise give ``‖R−I‖_F ≈ √(2(d−r))`` although the basis is the same. On the support the identity shows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from gaugeport.alignment.matchers import match
from gaugeport.alignment.moments import CONSTANT
from gaugeport.pipeline.rotation.haar.statistics import check_orthogonal

SUPPORT_VARIANCE_SHARE = 0.99
"""Of a stream's variance, what its supported directions carry."""

COPY_NOISE = 1e-3
"""Noise of the low-rank control, a share of the stream's root mean square."""

FAR_BELOW_SHARE = 0.5
"""A supported distance below this share of the least that Haar gives is far below Haar's; a convention."""


@dataclass(frozen=True)
class Spectrum:
    """Principal components of rows: variances ``values`` float64[d], largest first, ``directions`` float64[d, d]."""

    values: Tensor
    directions: Tensor

    @property
    def participation(self) -> float:
        """The participation ratio (Σλ)²/Σλ²: d where all directions vary alike, 1 where one alone does."""
        return float(self.values.sum() ** 2 / self.values.square().sum())

    def rank(self, share: float = SUPPORT_VARIANCE_SHARE) -> int:
        """How many components carry ``share`` of the variance. Raises ``ValueError`` for a share outside (0, 1]."""
        if not 0 < share <= 1:
            raise ValueError(f"share={share}; allowed: above 0, up to 1")
        carried = self.values.cumsum(0) / self.values.sum()
        return int((carried < share * (1 - 1e-12)).sum()) + 1

    def support(self, share: float = SUPPORT_VARIANCE_SHARE) -> Tensor:
        """Those components, float64[d, r]."""
        return self.directions[:, : self.rank(share)]


def spectrum(x: Tensor) -> Spectrum:
    """The principal components of rows ``x`` [tokens, d]. Raises ``ValueError`` for other shapes, and constant rows."""
    if x.dim() != 2 or len(x) < 2:
        raise ValueError(f"rows of shape {tuple(x.shape)}; allowed: [tokens, d] with two tokens or more")
    wide = x.double() - x.double().mean(0)
    values, vectors = torch.linalg.eigh(wide.T @ wide / len(x))
    if not float(values[-1]) > CONSTANT * float(x.double().square().mean()):
        raise ValueError("all rows are the same; allowed: rows that vary")
    return Spectrum(values.clamp_min(0).flip(0), vectors.flip(1))


def supported_distance(r: Tensor, basis: Tensor) -> float:
    """``‖(R−I)V‖_F / √(2r)`` for V = ``basis`` [d, r] orthonormal: 0 for the identity there, about 1 for Haar.

    Raises ``ValueError`` for a matrix that is not orthogonal and a basis of another width.
    """
    check_orthogonal(r)
    if basis.dim() != 2 or len(basis) != len(r) or not basis.shape[1]:
        raise ValueError(f"a basis of shape {tuple(basis.shape)}; allowed: [{len(r)}, r] with r >= 1")
    moved = r.double() @ basis.double() - basis.double()
    return float(moved.norm()) / math.sqrt(2 * basis.shape[1])


def far_below_haar(supported: float, least: float) -> bool:
    """Whether a supported distance is below :data:`FAR_BELOW_SHARE` of the ``least`` that Haar gives.

    R then leaves the directions that carry the stream about where they are: what is random of it is rank, however far
    the whole of R is from the identity.
    """
    return supported < FAR_BELOW_SHARE * least


@dataclass(frozen=True)
class Fit:
    """The rotation R float64[d, d] with ``b − mean ≈ s·R (a − mean)``, and the cross moment it was fitted on.

    ``cross`` float64[d, d] is indexed [b, a]; ``correlation`` is ⟨R, cross⟩, 1 where b is a rotated and scaled copy of a.
    """

    rotation: Tensor
    cross: Tensor
    correlation: float


def fit_rotation(a: Tensor, b: Tensor, group: str = "orthogonal") -> Fit:
    """Centred Procrustes on paired rows ``a``, ``b`` [tokens, d] (section 8.2), in O(d) or ``mean_preserving_orthogonal``.

    The cross moment is summed in float64: in float32 the rounding of large entries, which is the same in C and Cᵀ for
    nearly equal streams, would decide R in the directions that carry little, and not the noise there.

    Raises ``ValueError`` for rows that do not pair or are not finite, and groups without Procrustes.
    """
    if a.shape != b.shape or a.dim() != 2:
        raise ValueError(
            f"paired rows of shapes {tuple(a.shape)} and {tuple(b.shape)}; allowed: [tokens, d] both"
        )
    if not (bool(a.isfinite().all()) and bool(b.isfinite().all())):
        raise ValueError("rows with entries that are not finite; allowed: finite rows")
    x, y = (rows.double() - rows.double().mean(0) for rows in (a, b))
    cross = y.T @ x / (x.norm() * y.norm())
    found = match(cross, group, "procrustes")
    return Fit(found.gauge.dense(), cross, found.objective)


def low_rank_copies(
    x: Tensor, basis: Tensor, gen: torch.Generator, noise: float = COPY_NOISE, group: str = "orthogonal"
) -> tuple[Tensor, Tensor]:
    """Control in which R is the identity: rows ``x`` [tokens, d] on ``basis`` [d, r] alone, twice, float32[tokens, d] each.

    Each copy has noise of its own, ``noise`` times the rows' root mean square, in every direction of the group's space.
    """
    wide = x.double() - x.double().mean(0)
    low, size = wide @ basis @ basis.T, noise * float(wide.square().mean().sqrt())

    def copy() -> Tensor:
        drawn = torch.randn(x.shape, generator=gen, dtype=torch.float64)
        if group == "mean_preserving_orthogonal":
            drawn -= drawn.mean(1, keepdim=True)
        return (low + size * drawn).float()

    return copy(), copy()


def independent_rows(a: Tensor, b: Tensor, gen: torch.Generator) -> tuple[Tensor, Tensor]:
    """Control in which nothing is shared: Gaussian rows with the covariances of ``a`` and of ``b``, float32, as many."""

    def sample(x: Tensor) -> Tensor:
        found = spectrum(x)
        drawn = torch.randn(x.shape, generator=gen, dtype=torch.float64)
        return (drawn * found.values.sqrt() @ found.directions.T).float()

    return sample(a), sample(b)
