"""Fit maps between two residual streams on the same tokens: in S_d, B_d, O(d), or affine (table c1).

A map is ``x_B ≈ mean_B + s·M (x_A − mean_A)``, where s is the ratio of the streams' root mean squares (runs
drift in scale, and no gauge can follow). So gauges differ only in the allowed M.

The affine map, a ridge regression, is no gauge. It fits its own scale, and its way back is a second
regression, not an inverse. Both ways shrink what they cannot predict, so a round trip loses part of the
stream (:func:`round_trip_explained_variance`). :func:`shrink` lets a gauge shrink too.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from gaugeport.alignment.matchers import MATCHERS, cross_moment, default_matchers, match
from gaugeport.alignment.moments import MomentStream
from gaugeport.groups import Element, SignedPermutation
from gaugeport.pipeline.measures.sae_transfer import nmse

MATCHER_OF_GROUP = {
    **{group: default_matchers()[group] for group in ("permutation", "signed_permutation", "orthogonal")},
    "affine": "ridge",
}
"""Group -> the matcher that fits it in table c1."""

RIDGE_PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""Ridge penalties to try, in units of the mean variance of the input's coordinates."""


@dataclass(frozen=True)
class Map:
    """A map between two streams: ``forward(x_A) ≈ x_B`` and ``backward(x_B) ≈ x_A``."""

    to_b: Tensor
    """M, float64[d, d], acting on column vectors."""
    to_a: Tensor
    """The matrix of the way back, float64[d, d]."""
    mean_a: Tensor
    """float64[d]."""
    mean_b: Tensor
    """float64[d]."""
    gauge: Element | None
    """M as a group element; None for the affine map."""
    scale: float = 1.0
    """s, a number without unit."""

    def forward(self, x: Tensor) -> Tensor:
        """Map stream vectors of A [..., d] to B's coordinates, in the dtype of ``x``."""
        return ((x.double() - self.mean_a) @ self.to_b.T * self.scale + self.mean_b).to(x.dtype)

    def backward(self, x: Tensor) -> Tensor:
        """Map stream vectors of B [..., d] to A's coordinates, in the dtype of ``x``."""
        return ((x.double() - self.mean_b) @ self.to_a.T / self.scale + self.mean_a).to(x.dtype)

    def direction(self, v: Tensor) -> Tensor:
        """Map directions of A [..., d] to B, without means and scale; the affine map shrinks them."""
        return (v.double() @ self.to_b.T).to(v.dtype)


def identity_map(a: Tensor, b: Tensor) -> Map:
    """Return the map of streams ``a``, ``b`` [tokens, d] that changes means and scale but no coordinate."""
    a, b, same = a.double(), b.double(), torch.eye(a.shape[1], dtype=torch.float64)
    return Map(same, same, a.mean(0), b.mean(0), SignedPermutation.identity(a.shape[1]), _ratio(a, b))


def shrink(m: Map, a: Tensor, b: Tensor) -> Map:
    """Give a gauge the forward scale of least squares.

    A gauge that keeps lengths pays twice for what it cannot predict. At correlation ρ, on rows that it was
    not fitted on, it explains 2ρ − 1 of the variance; with this scale it explains ρ².

    Args:
        m: the map; the affine map is returned unchanged, because it has this scale.
        a: float[tokens, d], A's stream.
        b: float[tokens, d], B's stream on the same tokens.
    """
    if m.gauge is None:
        return m
    moved, target = m.forward(a.double()) - m.mean_b, b.double() - m.mean_b
    return replace(m, scale=m.scale * float((moved * target).sum() / moved.square().sum()))


def fit_map(group: str, a: Tensor, b: Tensor, plant: SignedPermutation | None = None) -> Map:
    """Fit a map from A to B on paired rows.

    Args:
        group: a group of :data:`MATCHER_OF_GROUP`.
        a: float[tokens, d], A's stream.
        b: float[tokens, d], B's stream on the same tokens.
        plant: a gauge to apply to ``b`` before the fit; the returned map is in the coordinates of ``b`` all
            the same. Without it, where A and B share coordinates, a matcher could break ties in favour of the
            right answer.

    Raises:
        ValueError: unknown group, or rows that do not pair.
    """
    if group not in MATCHER_OF_GROUP:
        raise ValueError(f"group={group!r} has no fit here; allowed: {', '.join(MATCHER_OF_GROUP)}")
    if a.shape != b.shape or a.dim() != 2:
        raise ValueError(f"expected paired rows [tokens, d], got {tuple(a.shape)} and {tuple(b.shape)}")
    a, b = a.double(), b.double()
    means = a.mean(0), b.mean(0)
    if group == "affine":
        return Map(fit_ridge(a, b), fit_ridge(b, a), *means, None)
    seen = b if plant is None else plant.act(b)
    stream = MomentStream("A", "B")
    stream.update(a.float(), seen.float())
    moments = stream.result()
    reads_cross_moments = MATCHERS[MATCHER_OF_GROUP[group]].reads_cross_moments
    c = cross_moment(moments) if reads_cross_moments else moments.correlation()
    gauge = match(c, group, MATCHER_OF_GROUP[group]).gauge
    matrix = gauge.dense()
    if plant is not None:
        matrix = plant.inverse().act(matrix, axis=0)
    return Map(matrix, matrix.T, *means, gauge, _ratio(a, b))


def round_trip_explained_variance(m: Map, x: Tensor) -> float:
    """Return the explained variance of B's stream ``x`` [tokens, d] carried to A and back.

    It is 1 for a gauge, up to rounding. A perfect SAE of A would explain this much through the map, and no
    SAE more.
    """
    return 1 - nmse(x, m.forward(m.backward(x)))


def fit_ridge(x: Tensor, y: Tensor) -> Tensor:
    """Fit the ridge map M with ``y − mean ≈ (x − mean) M.T``.

    The penalty is the one with the smallest squared error on the last fifth of the rows when the rest is
    fitted. All rows are then fitted with it.

    Args:
        x: float64[n, d], the input.
        y: float64[n, d], the output.

    Returns:
        M, float64[d, d].
    """
    cut = max(1, len(x) * 4 // 5)
    held_x, held_y = x[cut:] - x[:cut].mean(0), y[cut:] - y[:cut].mean(0)
    errors = [float(((held_x @ _solve(x[:cut], y[:cut], p).T - held_y) ** 2).sum()) for p in RIDGE_PENALTIES]
    return _solve(x, y, RIDGE_PENALTIES[errors.index(min(errors))])


def _ratio(a: Tensor, b: Tensor) -> float:
    """Return the root mean square of ``b`` about its mean, over that of ``a``."""
    spreads = [float((x - x.mean(0)).square().sum()) for x in (a, b)]
    return (spreads[1] / spreads[0]) ** 0.5


def _solve(x: Tensor, y: Tensor, penalty: float) -> Tensor:
    """Return the ridge map M[d, d] of one penalty."""
    x, y = x - x.mean(0), y - y.mean(0)
    square = x.T @ x
    damped = square + penalty * square.diagonal().mean() * torch.eye(len(square), dtype=x.dtype)
    return torch.linalg.solve(damped, x.T @ y).T
