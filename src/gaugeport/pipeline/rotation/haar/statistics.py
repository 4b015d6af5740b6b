"""Statistics that tell a rotation from a Haar-random one (paper B, section 8.3): its distance from the identity, its
eigen-angles, the spread of its entries.

Distance and eigen-angles are the same in every basis; the entries are those in the model's own coordinates. On LayerNorm
models the streams have no component along the all-ones vector: R fixes it (group ``mean_preserving_orthogonal``), Haar
is over the rotations of its complement, and R's spectrum is that of the (d−1)×(d−1) matrix R is there.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gaugeport.alignment import assignment
from gaugeport.groups.rotations import ORTHOGONALITY_TOLERANCE, haar_matrix, mean_free_basis

GROUPS = ("orthogonal", "mean_preserving_orthogonal")
"""The groups that there is a Haar measure of here; of the second the part that fixes the all-ones vector with sign +1."""

TAILS = {
    "distance_from_identity": "both",
    "ks_distance": "both",
    "largest_entry": "large",
    "distance_to_permutation": "small",
    "distance_to_signed_permutation": "small",
}
"""Statistic -> which of its values speak against Haar. A cycle's eigen-angles are more regular than Haar's, those of many
short cycles less."""


def check_group(group: str) -> None:
    """Raises ``ValueError`` for a group without a Haar measure here, naming those with one."""
    if group not in GROUPS:
        raise ValueError(f"group {group!r}; allowed: {', '.join(GROUPS)}")


def check_orthogonal(r: Tensor) -> None:
    """Raises ``ValueError`` unless ``r`` is a square orthogonal matrix."""
    if r.dim() != 2 or r.shape[0] != r.shape[1] or not len(r):
        raise ValueError(f"a rotation has shape {tuple(r.shape)}; allowed: [d, d] with d >= 1")
    error = orthogonality_error(r)
    if not error <= ORTHOGONALITY_TOLERANCE:
        raise ValueError(
            f"a rotation has max|RRᵀ − I| = {error:.2g}; allowed: orthogonal up to {ORTHOGONALITY_TOLERANCE}"
        )


def orthogonality_error(r: Tensor) -> float:
    """``max|RRᵀ − I|`` of [d, d]."""
    r = r.double()
    return float((r @ r.T - torch.eye(len(r), dtype=r.dtype)).abs().max())


def free_part(r: Tensor, group: str = "orthogonal") -> Tensor:
    """What the group leaves free of R float64[d, d]: all of it, or [d−1, d−1] on the complement of the all-ones vector.

    Raises ``ValueError`` for an unknown group, a matrix that is not orthogonal, and one that does not fix the all-ones
    vector where the group does.
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


def whole(free: Tensor, group: str = "orthogonal") -> Tensor:
    """The rotation [d, d] of a free part: the inverse of :func:`free_part`."""
    check_group(group)
    if group == "orthogonal":
        return free
    basis = mean_free_basis(len(free) + 1)
    return basis @ free @ basis.T + 1 / len(basis)


def free_width(d: int, group: str = "orthogonal") -> int:
    """The size of the free part of a d×d rotation. Raises ``ValueError`` where nothing is left of it."""
    check_group(group)
    m = d if group == "orthogonal" else d - 1
    if m < 1:
        raise ValueError(f"width {d} of group {group}; allowed: {d - m + 1} or more")
    return m


def random_rotation(d: int, group: str, generator: torch.Generator) -> Tensor:
    """A Haar-random rotation of the group, float64[d, d]."""
    return whole(haar_matrix(free_width(d, group), generator), group)


def eigenangles(r: Tensor) -> Tensor:
    """|θ| of the eigenvalues e^{iθ} of an orthogonal R [m, m], float64[m] in [0, π], ascending.

    The symmetric part (R + Rᵀ)/2 has the eigenvalues cos θ, so the two of a conjugate pair come as equal neighbours; +1
    and −1 stay single where determinant and m want it. Near 0 and π the arc cosine loses half of the digits (1e-8).
    Raises ``ValueError`` unless R is orthogonal.
    """
    check_orthogonal(r)
    r = r.double()
    return torch.linalg.eigvalsh((r + r.T) / 2).clamp(-1, 1).arccos().flip(0)


def signed_angles(angles: Tensor) -> Tensor:
    """θ in [−π, π] of sorted |θ| [..., m]: neighbours have opposite signs, so that every pair is one."""
    return angles * (1 - 2 * (torch.arange(angles.shape[-1]) % 2))


def ks_distance(angles: Tensor) -> float:
    """Kolmogorov-Smirnov distance of |θ| [m] from uniform on [0, π], Haar's density up to terms in 1/m."""
    u, n = angles.sort().values / math.pi, len(angles)
    steps = torch.arange(n + 1, dtype=torch.float64) / n
    return float(torch.maximum(steps[1:] - u, u - steps[:-1]).max())


def rotation_statistics(r: Tensor, group: str = "orthogonal") -> dict[str, float]:
    """Everything that :data:`TAILS` names, with ``orthogonality_error`` and the ``determinant``, of R [d, d].

    Distances are Frobenius norms over √(2m), m the size of the free part: about 1 for Haar (the paper's √(2d)). The best
    (signed) permutation is found exactly (:func:`gaugeport.alignment.assignment.solve`); the signed one may have any signs.
    Raises ``ValueError`` as :func:`free_part` does.
    """
    free, r = free_part(r, group), r.double()
    d, unit = len(r), math.sqrt(2 * len(free))

    def away(best: float) -> float:
        return math.sqrt(max(2 * d - 2 * best, 0.0)) / unit

    return {
        "distance_from_identity": float((r - torch.eye(d, dtype=r.dtype)).norm()) / unit,
        "ks_distance": ks_distance(eigenangles(free)),
        "largest_entry": float(r.abs().max()),
        "distance_to_permutation": away(assignment.solve(r).objective),
        "distance_to_signed_permutation": away(assignment.solve(r.abs()).objective),
        "orthogonality_error": orthogonality_error(r),
        "determinant": float(torch.linalg.slogdet(free).sign),
    }
