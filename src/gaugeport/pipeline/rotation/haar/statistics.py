"""Measure what tells a rotation from a Haar-random one (paper B, section 8.3).

Statistics are the distance from the identity, the eigen-angles, and the spread of the entries. Distance and
eigen-angles are the same in every basis; the entries are read in the model's own coordinates. Streams of
LayerNorm models have no component along the all-ones vector: R fixes it (group
``mean_preserving_orthogonal``), Haar is over the rotations of its complement, and the spectrum of R is that
of the (d−1)×(d−1) matrix that R is there, its *free part*.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gaugeport.alignment import assignment
from gaugeport.groups.rotations import ORTHOGONALITY_TOLERANCE, haar_matrix, mean_free_basis

GROUPS = ("orthogonal", "mean_preserving_orthogonal")
"""Groups with a Haar measure. Of the second only the part that fixes the all-ones vector with sign +1."""

TAILS = {
    "distance_from_identity": "both",
    "ks_distance": "both",
    "largest_entry": "large",
    "distance_to_permutation": "small",
    "distance_to_signed_permutation": "small",
}
"""Statistic -> which of its values speak against Haar.

The eigen-angles of one long cycle are more regular than Haar's, those of many short cycles less.
"""


def check_group(group: str) -> None:
    """Raise ``ValueError`` for a group that is not in :data:`GROUPS`."""
    if group not in GROUPS:
        raise ValueError(f"group {group!r}; allowed: {', '.join(GROUPS)}")


def check_orthogonal(r: Tensor) -> None:
    """Raise ``ValueError`` unless ``r`` is a square orthogonal matrix."""
    if r.dim() != 2 or r.shape[0] != r.shape[1] or not len(r):
        raise ValueError(f"rotation of shape {tuple(r.shape)}; allowed: [d, d] with d >= 1")
    error = orthogonality_error(r)
    if not error <= ORTHOGONALITY_TOLERANCE:
        raise ValueError(
            f"rotation with max|RRᵀ − I| = {error:.2g}; allowed: orthogonal up to {ORTHOGONALITY_TOLERANCE}"
        )


def orthogonality_error(r: Tensor) -> float:
    """Return ``max|RRᵀ − I|`` of a matrix [d, d]."""
    r = r.double()
    return float((r @ r.T - torch.eye(len(r), dtype=r.dtype)).abs().max())


def free_part(r: Tensor, group: str = "orthogonal") -> Tensor:
    """Return the part of a rotation that its group leaves free.

    Args:
        r: A rotation, float[d, d].
        group: One of :data:`GROUPS`.

    Returns:
        All of R, float64[d, d], or float64[d−1, d−1] on the complement of the all-ones vector.

    Raises:
        ValueError: The group is unknown, the matrix is not orthogonal, or it does not fix the all-ones vector
            where the group does.
    """
    check_group(group)
    check_orthogonal(r)
    r = r.double()
    if group == "orthogonal":
        return r
    error = float((r.sum(1) - 1).abs().max())
    if not error <= ORTHOGONALITY_TOLERANCE:
        raise ValueError(
            f"max|R1 − 1| = {error:.2g} in group {group}; allowed: rotations that fix the all-ones vector"
        )
    basis = mean_free_basis(len(r))
    return basis.T @ r @ basis


def from_free_part(free: Tensor, group: str = "orthogonal") -> Tensor:
    """Return the rotation [d, d] with a given free part: the inverse of :func:`free_part`."""
    check_group(group)
    if group == "orthogonal":
        return free
    basis = mean_free_basis(len(free) + 1)
    return basis @ free @ basis.T + 1 / len(basis)


def free_width(d: int, group: str = "orthogonal") -> int:
    """Return the size of the free part of a d×d rotation; raise ``ValueError`` where it is empty."""
    check_group(group)
    m = d if group == "orthogonal" else d - 1
    if m < 1:
        raise ValueError(f"width {d} of group {group}; allowed: {d - m + 1} or more")
    return m


def random_rotation(d: int, group: str, generator: torch.Generator) -> Tensor:
    """Draw a Haar-random rotation of a group, float64[d, d]."""
    return from_free_part(haar_matrix(free_width(d, group), generator), group)


def eigenangles(r: Tensor) -> Tensor:
    """Return |θ| of the eigenvalues e^{iθ} of an orthogonal matrix.

    The symmetric part (R + Rᵀ)/2 has the eigenvalues cos θ, so the two of a conjugate pair come as equal
    neighbours; +1 and −1 stay single where determinant and size require it. Near 0 and π the arc cosine loses
    half of the digits (1e-8).

    Args:
        r: An orthogonal matrix, float[m, m].

    Returns:
        The angles in [0, π], ascending, float64[m].

    Raises:
        ValueError: The matrix is not orthogonal.
    """
    check_orthogonal(r)
    r = r.double()
    return torch.linalg.eigvalsh((r + r.T) / 2).clamp(-1, 1).arccos().flip(0)


def signed_angles(angles: Tensor) -> Tensor:
    """Return θ in [−π, π] from sorted |θ| [..., m]: neighbours, the conjugate pairs, get opposite signs."""
    return angles * (1 - 2 * (torch.arange(angles.shape[-1]) % 2))


def ks_distance(angles: Tensor) -> float:
    """Return the Kolmogorov-Smirnov distance of |θ| [m] from uniform on [0, π].

    Uniform is Haar's density up to terms in 1/m.
    """
    u, n = angles.sort().values / math.pi, len(angles)
    steps = torch.arange(n + 1, dtype=torch.float64) / n
    return float(torch.maximum(steps[1:] - u, u - steps[:-1]).max())


def rotation_statistics(r: Tensor, group: str = "orthogonal") -> dict[str, float]:
    """Return every statistic of :data:`TAILS`, the ``orthogonality_error`` and the ``determinant``.

    Distances are Frobenius norms over √(2m), with m the size of the free part: about 1 for Haar (the paper
    divides by √(2d)). The best permutation and signed permutation are found exactly by
    :func:`gaugeport.alignment.assignment.solve`; the signed one may have any signs.

    Args:
        r: A rotation, float[d, d].
        group: One of :data:`GROUPS`.

    Raises:
        ValueError: As :func:`free_part`.
    """
    free, r = free_part(r, group), r.double()
    d, unit = len(r), math.sqrt(2 * len(free))

    def distance(inner_product: float) -> float:
        """Return the distance from R to an orthogonal matrix with this inner product with R."""
        return math.sqrt(max(2 * d - 2 * inner_product, 0.0)) / unit

    return {
        "distance_from_identity": float((r - torch.eye(d, dtype=r.dtype)).norm()) / unit,
        "ks_distance": ks_distance(eigenangles(free)),
        "largest_entry": float(r.abs().max()),
        "distance_to_permutation": distance(assignment.solve(r).objective),
        "distance_to_signed_permutation": distance(assignment.solve(r.abs()).objective),
        "orthogonality_error": orthogonality_error(r),
        "determinant": float(torch.linalg.slogdet(free).sign),
    }
