"""Measure how much of B's stream a gauge predicts from A's, from moments alone."""

from __future__ import annotations

import torch

from gaugeport.alignment.moments import Moments
from gaugeport.groups import AffineGauge, Element, LinearGauge, SignedPermutation
from gaugeport.groups.algebra import check_is_element


def explained_variance(gauge: Element, moments: Moments, mean_free: bool) -> float:
    """Return R² of predicting B's stream at a site from A's: ``1 - Σ‖y - ŷ‖² / Σ‖y - mean y‖²``.

    Sums run over the tokens that the moments were measured on, and y is B's stream. A linear gauge predicts
    it up to the means, as centred Procrustes does: ``ŷ = mean y + g·(x - mean x)``. An affine gauge predicts
    the means too: ``ŷ = g·x``, shift and scale included.

    A gauge that keeps lengths pays twice for what it cannot predict: with streams of equal variance whose
    coordinates correlate by ρ, it explains 2ρ - 1 of the variance, and less than nothing below ρ = ½.

    Args:
        gauge: the gauge from A to B.
        moments: moments of A and B at the site, where B's stream varies.
        mean_free: the moments are of streams without the mean over coordinates (LayerNorm models), which no
            reader sees. The shift's is then left out too; what a linear gauge moves there counts as error.

    Raises:
        TypeError: if ``gauge`` is not a gauge element.
        ValueError: if its width is not that of the streams.
    """
    check_is_element(gauge)
    if gauge.size != len(moments.mean_a):
        raise ValueError(f"the gauge has width {gauge.size}; the streams have width {len(moments.mean_a)}")
    total = float(moments.square_b.sum())
    linear, scale, missed = gauge, 1.0, 0.0
    if isinstance(gauge, AffineGauge):
        linear, scale = gauge.linear, gauge.scale
        shift = gauge.shift - gauge.shift.mean() if mean_free else gauge.shift
        offset = moments.mean_b - scale * linear.act(moments.mean_a) - shift
        missed = moments.n * float(offset @ offset)
    assert isinstance(linear, LinearGauge)
    common = scale * inner_product(linear, moments.cross)
    unexplained = total + scale**2 * float(moments.square_a.sum()) - 2 * common + missed
    return 1 - unexplained / total


def inner_product(gauge: LinearGauge, cross: torch.Tensor) -> float:
    """Return ``Σ_ij Q_ij · cross_ij`` of a gauge's matrix Q and float64[d, d], indexed [B, A]."""
    if isinstance(gauge, SignedPermutation):
        return float((gauge.sign * cross[torch.arange(gauge.size), gauge.perm]).sum())
    return float((gauge.matrix * cross).sum())


def with_scale_and_shift(linear: LinearGauge, moments: Moments) -> AffineGauge:
    """Return the affine gauge that predicts B's stream best among those with a given linear part.

    With the rotation of centred Procrustes as linear part, this is Procrustes with one scale and a shift
    (Gower and Dijksterhuis 2004, section 4).

    Raises:
        ValueError: if the linear part predicts nothing, so that no positive scale is best.
    """
    scale = inner_product(linear, moments.cross) / float(moments.square_a.sum())
    if not scale > 0:
        raise ValueError(
            f"the best scale of an affine gauge is {scale:.3g}, not positive: A's stream predicts nothing of "
            "B's"
        )
    return AffineGauge(linear, moments.mean_b - scale * linear.act(moments.mean_a), scale)
