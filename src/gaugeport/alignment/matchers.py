"""Matchers: d×d evidence -> a gauge element, its objective and a margin per coordinate.

``C[i, j]`` is the correlation of coordinate i of B with coordinate j of A, so a matching is read straight into
``perm`` of the g with ``g·x_A ≈ x_B``. Assignment is exact (:mod:`gaugeport.alignment.assignment`).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gaugeport.alignment import assignment
from gaugeport.alignment.moments import Moments
from gaugeport.groups import (
    Element,
    GlobalSignPermutation,
    MeanPreservingOrthogonal,
    Orthogonal,
    Permutation,
    SignedPermutation,
    mean_free_basis,
)

ROUNDING = 1e-6
"""A component along the all-ones direction below this share of the whole is float32 rounding, not evidence."""


@dataclass(frozen=True)
class Match:
    """A recovered ``gauge``, the ``objective`` it maximises, and ``margin`` float64[d]: for each coordinate of B the
    score of its partner minus the best other score in its row (negative where the assignment gave way)."""

    gauge: Element
    objective: float
    margin: Tensor


def hungarian_raw(c: Tensor) -> Match:
    """Maximise ``sum_i C[i, π(i)]`` over S_d. Capped at the positive-sign fraction of the true gauge (paper A)."""
    columns, objective = _assign(c)
    return Match(Permutation(columns), objective, _margin(c, columns))


def hungarian_global_sign(c: Tensor) -> Match:
    """Maximise ``s · sum_i C[i, π(i)]`` over S_d × {±1}: solve C and −C, keep the larger. For LayerNorm charts."""
    plus, minus = _assign(c), _assign(-c)
    sign = 1 if plus[1] >= minus[1] else -1
    columns, objective = plus if sign == 1 else minus
    return Match(GlobalSignPermutation(columns, torch.tensor(sign)), objective, _margin(sign * c, columns))


def hungarian_abs(c: Tensor) -> Match:
    """Sign-marginalized matching over B_d: maximise ``sum_i |C[i, π(i)]|``, then ``s_i = sign(C[i, π(i)])`` (paper A)."""
    columns, objective = _assign(c.abs())
    matched = c[torch.arange(len(c)), columns]
    return Match(SignedPermutation(columns, _signs(matched)), objective, _margin(c.abs(), columns))


def procrustes(cross: Tensor) -> Match:
    """Orthogonal Procrustes: the Q maximising ``tr(Q · X_Aᵀ X_B)``, from the SVD of the cross moment (Schönemann 1966).

    ``cross`` float[d, d] is indexed [B, A] like all evidence. The margin of a coordinate is the gap between the two
    largest |Q_ij| of its row: near 1 when the rotation is a signed permutation there, near 0 when it mixes.
    """
    u, s, vh = torch.linalg.svd(cross.to(torch.float64))
    q = u @ vh
    return Match(Orthogonal(q), float(s.sum()), _row_gap(q))


def procrustes_mean_preserving(cross: Tensor) -> Match:
    """Procrustes over the rotations that fix the all-ones direction: solved in a basis of its complement.

    The sign along 1 is that of the evidence there, +1 where it has none (mean-free activations; weights have some).
    """
    basis, wide = mean_free_basis(len(cross)), cross.to(torch.float64)
    u, s, vh = torch.linalg.svd(basis.T @ wide @ basis)
    along, total = float(wide.sum()) / len(cross), float(s.sum())
    sign = -1 if along < -ROUNDING * total else 1
    q = basis @ (u @ vh) @ basis.T + sign / len(cross)
    return Match(MeanPreservingOrthogonal(q), total + sign * along, _row_gap(q))


def match(c: Tensor, group: str, matcher: str) -> Match:
    """The match of evidence ``c`` [d, d] in ``group`` by ``matcher``, as configs name them.

    ``permutation`` + ``hungarian_abs`` is S_d with the signs dropped. Raises ``ValueError`` on a pair that makes no
    sense, naming the allowed ones.
    """
    check_combination(group, matcher)
    found = COMBINATIONS[group, matcher](c)
    if group == "permutation" and isinstance(found.gauge, SignedPermutation):
        return Match(found.gauge.without_signs(), found.objective, found.margin)
    return found


def check_combination(group: str, matcher: str) -> None:
    """Raise ``ValueError`` for a matcher that does not recover an element of a group, naming those that do."""
    if (group, matcher) not in COMBINATIONS:
        allowed = "; ".join(f"{g} with {m}" for g, m in COMBINATIONS)
        raise ValueError(f"matcher {matcher!r} does not recover an element of {group!r}; allowed: {allowed}")


def cross_moment(moments: Moments) -> Tensor:
    """The cross-covariance over the root of both total variances: what Procrustes pools over sites, float64[d, d]."""
    return moments.cross / (moments.square_a.sum() * moments.square_b.sum()).sqrt()


def _raw_signed(c: Tensor) -> Match:
    found = hungarian_raw(c)
    assert isinstance(found.gauge, Permutation)
    matched = c[torch.arange(len(c)), found.gauge.perm]
    return Match(SignedPermutation(found.gauge.perm, _signs(matched)), found.objective, found.margin)


COMBINATIONS = {
    ("permutation", "hungarian_raw"): hungarian_raw,
    ("permutation", "hungarian_abs"): hungarian_abs,
    ("global_sign_permutation", "hungarian_raw"): hungarian_global_sign,
    ("signed_permutation", "hungarian_abs"): hungarian_abs,
    ("signed_permutation", "hungarian_raw"): _raw_signed,
    ("mean_preserving_orthogonal", "procrustes"): procrustes_mean_preserving,
    ("orthogonal", "procrustes"): procrustes,
}
"""(group, matcher) -> function of the evidence; Procrustes wants cross moments, the others correlations."""


def _assign(score: Tensor) -> tuple[Tensor, float]:
    found = assignment.solve(score)
    return torch.from_numpy(found.columns), found.objective


def _signs(values: Tensor) -> Tensor:
    return torch.where(values < 0, -1, 1).to(torch.int8)


def _margin(score: Tensor, columns: Tensor) -> Tensor:
    rows = torch.arange(len(score))
    others = score.clone()
    others[rows, columns] = -torch.inf
    runner_up = others.max(1).values if len(score) > 1 else torch.zeros(1, dtype=score.dtype)
    return score[rows, columns] - runner_up


def _row_gap(q: Tensor) -> Tensor:
    top = q.abs().topk(min(2, len(q)), dim=1).values
    return top[:, 0] - top[:, 1] if len(q) > 1 else top[:, 0]
