"""Recover a gauge element from evidence: one function per algorithm, and one ``Matcher`` record per name.

Evidence is a matrix ``C`` float[d, d]: ``C[i, j]`` says how similar coordinate i of B is to coordinate j of
A. The partner of i is therefore ``perm[i]`` of the gauge g with ``g·x_A ≈ x_B``. Assignments are solved
exactly (:mod:`gaugeport.alignment.assignment`).

To add a matcher, write its function and add its record to :data:`MATCHERS`; every other part of the library
and of the pipeline reads the records.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from gaugeport.alignment import assignment
from gaugeport.alignment.moments import Moments
from gaugeport.groups import (
    GROUPS,
    Element,
    GlobalSignPermutation,
    MeanPreservingOrthogonal,
    Orthogonal,
    Permutation,
    SignedPermutation,
    mean_free_basis,
)
from gaugeport.utils.linalg import svd

MIN_SHARE_ALONG_ONES = 1e-6
"""A component along the all-ones direction below this share of the total is float32 rounding."""


@dataclass(frozen=True)
class Match:
    """A recovered gauge, its objective and its margins."""

    gauge: Element
    """The element g with ``g·x_A ≈ x_B``."""
    objective: float
    """The value that the matcher maximised."""
    margin: Tensor
    """float64[d], one margin per coordinate of B: how clearly its partner was chosen."""


Recover = Callable[[Tensor], Match]


@dataclass(frozen=True)
class Matcher:
    """A named way to recover gauges, with everything that other code needs to know about it.

    Raises ``ValueError`` if ``default_for`` or ``depends_on_signs`` names a group without a function.
    """

    name: str
    """The name in configs and in ``align(matcher=...)``."""
    recover: Mapping[str, Recover]
    """Group name -> the function that recovers an element of that group from evidence float[d, d]."""
    default_for: tuple[str, ...] = ()
    """Groups whose default matcher this is."""
    reads_cross_moments: bool = False
    """True: the evidence is cross moments, which turn with a rotation. False: correlations or cosines."""
    depends_on_signs: tuple[str, ...] = ()
    """Groups in which the match does not follow sign flips of single coordinates, so that its accuracy
    depends on the signs that were planted. In the others, matching is equivariant and the accuracy does
    not."""
    margins_are_scores: bool = True
    """True: a margin is the partner's score minus the best other score, in units of the evidence, so that a
    small margin means doubt. False: it says something else, such as how much a rotation mixes a
    coordinate."""

    def __post_init__(self) -> None:
        for field in ("default_for", "depends_on_signs"):
            unknown = [group for group in getattr(self, field) if group not in self.recover]
            if unknown:
                raise ValueError(
                    f"matcher {self.name!r}: {field} names {', '.join(unknown)}; "
                    f"allowed: {', '.join(self.recover)}"
                )


def match(c: Tensor, group: str, matcher: str) -> Match:
    """Recover an element of a group from evidence.

    Args:
        c: evidence float[d, d], indexed [B, A]; cross moments if the matcher reads those.
        group: name of the gauge group.
        matcher: name of the matcher.

    Returns:
        The recovered element with its objective and margins.

    Raises:
        ValueError: if the matcher does not recover elements of that group; the message lists the valid pairs.
    """
    check_combination(group, matcher)
    return MATCHERS[matcher].recover[group](c)


def combinations() -> list[tuple[str, str]]:
    """Return every valid (group, matcher) pair, ordered by group."""
    return [(group, m.name) for group in GROUPS for m in MATCHERS.values() if group in m.recover]


def default_matchers() -> dict[str, str]:
    """Return the name of each group's default matcher, for every group that has a matcher."""
    defaults = {group: m.name for m in MATCHERS.values() for group in m.default_for}
    return {group: defaults[group] for group in GROUPS if group in defaults}


def check_combination(group: str, matcher: str) -> None:
    """Raise ``ValueError``, listing the valid pairs, unless the matcher recovers elements of the group."""
    if (group, matcher) not in combinations():
        allowed = "; ".join(f"{g} with {m}" for g, m in combinations())
        raise ValueError(f"matcher {matcher!r} does not recover an element of {group!r}; allowed: {allowed}")


def hungarian_raw(c: Tensor) -> Match:
    """Maximise ``sum_i C[i, π(i)]`` over the permutations S_d.

    On decorrelated coordinates, at most the share of positive signs in the true gauge is recovered (paper A).
    """
    columns, objective = _assign(c)
    return Match(Permutation(columns), objective, matched_margins(c, columns))


def hungarian_raw_with_signs(c: Tensor) -> Match:
    """Match as :func:`hungarian_raw`, then read the signs from the matched entries: an element of B_d."""
    columns, objective = _assign(c)
    return Match(
        SignedPermutation(columns, matched_signs(c, columns)), objective, matched_margins(c, columns)
    )


def hungarian_global_sign(c: Tensor) -> Match:
    """Maximise ``s · sum_i C[i, π(i)]`` over S_d × {±1}, the group of LayerNorm models.

    Solves the assignment for C and for −C and keeps the larger objective.
    """
    plus, minus = _assign(c), _assign(-c)
    sign = 1 if plus[1] >= minus[1] else -1
    columns, objective = plus if sign == 1 else minus
    return Match(
        GlobalSignPermutation(columns, torch.tensor(sign)), objective, matched_margins(sign * c, columns)
    )


def hungarian_abs(c: Tensor) -> Match:
    """Maximise ``sum_i |C[i, π(i)]|``, then set ``s_i = sign(C[i, π(i)])``: an element of B_d.

    This is paper A's sign-marginalized matching.
    """
    columns, objective = _assign(c.abs())
    return Match(
        SignedPermutation(columns, matched_signs(c, columns)), objective, matched_margins(c.abs(), columns)
    )


def hungarian_abs_without_signs(c: Tensor) -> Match:
    """Match as :func:`hungarian_abs`, then drop the signs: an element of S_d."""
    columns, objective = _assign(c.abs())
    return Match(Permutation(columns), objective, matched_margins(c.abs(), columns))


def procrustes(cross: Tensor) -> Match:
    """Maximise ``tr(Q · X_Aᵀ X_B)`` over O(d): orthogonal Procrustes, from an SVD (Schönemann 1966).

    Args:
        cross: cross moment float[d, d], indexed [B, A].

    Returns:
        The rotation. The margin of a coordinate is the gap between the two largest |Q_ij| in its row: near 1
        where the rotation is a signed permutation, near 0 where it mixes coordinates.
    """
    u, s, vh = svd(cross.to(torch.float64))
    q = u @ vh
    return Match(Orthogonal(q), float(s.sum()), _row_gap(q))


def procrustes_mean_preserving(cross: Tensor) -> Match:
    """Solve Procrustes over the rotations that fix the all-ones direction up to sign.

    The rotation is found in a basis of the complement of that direction. The sign along it is that of the
    evidence there, and +1 where there is none (activations are mean-free; weights have some).

    Args:
        cross: cross moment float[d, d], indexed [B, A].

    Returns:
        The rotation, with margins as in :func:`procrustes`.
    """
    basis, wide = mean_free_basis(len(cross)), cross.to(torch.float64)
    u, s, vh = svd(basis.T @ wide @ basis)
    along, total = float(wide.sum()) / len(cross), float(s.sum())
    sign = -1 if along < -MIN_SHARE_ALONG_ONES * total else 1
    q = basis @ (u @ vh) @ basis.T + sign / len(cross)
    return Match(MeanPreservingOrthogonal(q), total + sign * along, _row_gap(q))


def cross_moment(moments: Moments) -> Tensor:
    """Return the cross-covariance divided by the root of both total variances, float64[d, d].

    This is what Procrustes reads; moments of several sites may be averaged after the division.
    """
    return moments.cross / (moments.square_a.sum() * moments.square_b.sum()).sqrt()


def _assign(score: Tensor) -> tuple[Tensor, float]:
    solution = assignment.solve(score)
    return torch.from_numpy(solution.columns), solution.objective


def matched_signs(c: Tensor, columns: Tensor) -> Tensor:
    """Return the signs of the matched entries, int8[d] of ±1.

    Args:
        c: evidence float[d, d].
        columns: int64[d], the column of each row.
    """
    matched = c[torch.arange(len(c)), columns]
    return torch.where(matched < 0, -1, 1).to(torch.int8)


def matched_margins(score: Tensor, columns: Tensor) -> Tensor:
    """Return each row's matched score minus its best other score (negative if another score is larger).

    Args:
        score: float[d, d], what the matcher maximises over.
        columns: int64[d], the column of each row.
    """
    rows = torch.arange(len(score))
    others = score.clone()
    others[rows, columns] = -torch.inf
    runner_up = others.max(1).values if len(score) > 1 else torch.zeros(1, dtype=score.dtype)
    return score[rows, columns] - runner_up


def _row_gap(q: Tensor) -> Tensor:
    top = q.abs().topk(min(2, len(q)), dim=1).values
    return top[:, 0] - top[:, 1] if len(q) > 1 else top[:, 0]


MATCHERS = {
    matcher.name: matcher
    for matcher in (
        Matcher(
            name="hungarian_raw",
            recover={
                "permutation": hungarian_raw,
                "global_sign_permutation": hungarian_global_sign,
                "signed_permutation": hungarian_raw_with_signs,
            },
            default_for=("permutation", "global_sign_permutation"),
            depends_on_signs=("permutation", "global_sign_permutation", "signed_permutation"),
        ),
        Matcher(
            name="hungarian_abs",
            recover={"permutation": hungarian_abs_without_signs, "signed_permutation": hungarian_abs},
            default_for=("signed_permutation",),
            depends_on_signs=("permutation",),
        ),
        Matcher(
            name="procrustes",
            recover={
                "mean_preserving_orthogonal": procrustes_mean_preserving,
                "orthogonal": procrustes,
            },
            default_for=("mean_preserving_orthogonal", "orthogonal"),
            reads_cross_moments=True,
            margins_are_scores=False,
        ),
    )
}
"""Every matcher by name."""
