"""Maps between two residual streams, fitted in S_d, B_d, O(d) or as an affine ridge regression, on the same tokens (c1).

Every map carries the means and the scale of the streams, ``x_B ≈ mean_B + s·M (x_A − mean_A)`` with s the ratio of
their root mean squares (runs drift in scale, which no gauge can follow), so that gauges differ only in what M may be. The
affine map is no gauge: it fits its own scale, and its way back is a regression of its own, not an inverse. Both ways
shrink what they cannot predict, so there and back loses part of the stream (:func:`round_trip_explained_variance`), with no SAE in between;
:func:`shrink` lets a gauge shrink as well.
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
"""Group -> the matcher that fits it here."""

RIDGE_PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""Ridge penalties tried, in units of the mean variance of the input's coordinates."""


@dataclass(frozen=True)
class Map:
    """``forward(x_A) ≈ x_B`` and ``backward(x_B) ≈ x_A``; ``gauge`` is M as a group element, None for the affine map.

    ``to_b``, ``to_a`` float64[d, d] act on column vectors; ``mean_a``, ``mean_b`` float64[d]; ``scale`` is s.
    """

    to_b: Tensor
    to_a: Tensor
    mean_a: Tensor
    mean_b: Tensor
    gauge: Element | None
    scale: float = 1.0

    def forward(self, x: Tensor) -> Tensor:
        """Stream vectors of A [..., d] in B's coordinates, in ``x``'s dtype."""
        return ((x.double() - self.mean_a) @ self.to_b.T * self.scale + self.mean_b).to(x.dtype)

    def backward(self, x: Tensor) -> Tensor:
        """Stream vectors of B [..., d] in A's coordinates, in ``x``'s dtype."""
        return ((x.double() - self.mean_b) @ self.to_a.T / self.scale + self.mean_a).to(x.dtype)

    def direction(self, v: Tensor) -> Tensor:
        """A direction of A [..., d] in B: no means, no ``scale``. The affine map shrinks what it cannot predict."""
        return (v.double() @ self.to_b.T).to(v.dtype)


def identity_map(a: Tensor, b: Tensor) -> Map:
    """The map of streams ``a``, ``b`` [tokens, d] that leaves coordinates alone; it carries means and scale as the others."""
    a, b, same = a.double(), b.double(), torch.eye(a.shape[1], dtype=torch.float64)
    return Map(same, same, a.mean(0), b.mean(0), SignedPermutation.identity(a.shape[1]), _ratio(a, b))


def shrink(m: Map, a: Tensor, b: Tensor) -> Map:
    """A gauge with the scale of least squares, forward, on rows ``a``, ``b`` [tokens, d]; the affine map, which has it, as it is.

    A gauge that keeps lengths pays twice for what it cannot predict: on rows that it was not fitted on, at correlation ρ,
    it explains 2ρ − 1 of the variance, and with this scale ρ².
    """
    if m.gauge is None:
        return m
    moved, wanted = m.forward(a.double()) - m.mean_b, b.double() - m.mean_b
    return replace(m, scale=m.scale * float((moved * wanted).sum() / moved.square().sum()))


def fit_map(group: str, a: Tensor, b: Tensor, plant: SignedPermutation | None = None) -> Map:
    """Fit ``group`` on paired rows ``a``, ``b`` [tokens, d] of the same tokens.

    With a ``plant`` the fit sees ``plant·b``, and the map is given in b's own coordinates all the same: where A and B
    share coordinates, ties would otherwise resolve to the right answer for free. Raises ``ValueError`` for an unknown
    group and for rows that do not pair.
    """
    if group not in MATCHER_OF_GROUP:
        raise ValueError(f"group {group!r} has no fit here; allowed: {', '.join(MATCHER_OF_GROUP)}")
    if a.shape != b.shape or a.dim() != 2:
        raise ValueError(f"paired rows [tokens, d] are wanted, found {tuple(a.shape)} and {tuple(b.shape)}")
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
    """Explained variance of B's stream ``x`` [tokens, d] that is carried to A and back: 1 for a gauge, up to rounding.

    It is what a perfect SAE of A would explain through the map, and so the most that one can be asked for.
    """
    return 1 - nmse(x, m.forward(m.backward(x)))


def fit_ridge(x: Tensor, y: Tensor) -> Tensor:
    """The ridge map M[d, d] with ``y − mean ≈ (x − mean) M.T``, its penalty chosen on the last fifth of the rows.

    The rest is fitted, the penalty with the smallest squared error there is kept, and all rows are fitted with it.
    """
    cut = max(1, len(x) * 4 // 5)
    held_x, held_y = x[cut:] - x[:cut].mean(0), y[cut:] - y[:cut].mean(0)
    errors = [float(((held_x @ _solve(x[:cut], y[:cut], p).T - held_y) ** 2).sum()) for p in RIDGE_PENALTIES]
    return _solve(x, y, RIDGE_PENALTIES[errors.index(min(errors))])


def _ratio(a: Tensor, b: Tensor) -> float:
    """Root mean square of ``b`` about its mean over that of ``a``."""
    spreads = [float((x - x.mean(0)).square().sum()) for x in (a, b)]
    return (spreads[1] / spreads[0]) ** 0.5


def _solve(x: Tensor, y: Tensor, penalty: float) -> Tensor:
    x, y = x - x.mean(0), y - y.mean(0)
    square = x.T @ x
    damped = square + penalty * square.diagonal().mean() * torch.eye(len(square), dtype=x.dtype)
    return torch.linalg.solve(damped, x.T @ y).T
