"""Move directions and magnitudes from one model's residual coordinates to another's.

Directions are steering vectors, probes, gradients and means. A direction has no origin, so an affine gauge
moves it by its linear part alone. Magnitudes are products, absolute values and variances. A magnitude has no
sign, so a gauge only permutes it; a rotation mixes coordinates and cannot move it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gaugeport.groups import AffineGauge, Element, LinearGauge, SignedPermutation, check_is_element
from gaugeport.transport.axis import InPlace

COORDINATEWISE_GROUPS = "permutation, global_sign_permutation, signed_permutation"
"""The groups that move coordinates without mixing them, as error messages list them."""


def transport_direction(
    v: Tensor, g: Element, axis: int = -1, *, kept: Tensor | None = None, out: Tensor | None = None
) -> Tensor:
    """Return a direction, or a batch of directions, in the coordinates of B.

    Args:
        v: float[..., d, ...], directions in the coordinates of A.
        g: The gauge from A to B, of any group and width d. An :class:`AffineGauge` acts by its linear part.
        axis: The axis of ``v`` that holds the d coordinates.
        kept: bool[d], the coordinates of B whose assignment is trusted. The others become 0;
            :func:`lost_share` says how much that loses.
        out: A tensor like ``v`` (shape, dtype, device) to write the result to. It may be ``v`` itself.

    Returns:
        ``g·v`` along ``axis``, with the dtype and device of ``v`` and without gradient history.

    Raises:
        TypeError: If ``v`` is not a floating-point tensor or ``g`` is not a gauge element.
        ValueError: If the width of ``v``, ``kept`` or ``out`` does not fit.
    """
    moved = _moved(v, linear_part(g), axis, out, signed=True)
    if kept is not None:
        moved.mul_(_along(check_kept(kept, g.size), moved, axis))
    return moved


def transport_magnitude(m: Tensor, g: Element, axis: int = -1, *, out: Tensor | None = None) -> Tensor:
    """Return magnitudes in the coordinates of B: permuted, without signs.

    Magnitudes are even in each coordinate: gradient × activation and other products, integrated gradients,
    mean absolute values, variances, second moments.

    Args:
        m: float[..., d, ...], magnitudes in the coordinates of A.
        g: The gauge from A to B, a (signed) permutation.
        axis: The axis of ``m`` that holds the d coordinates.
        out: A tensor like ``m`` to write the result to. It may be ``m`` itself.

    Returns:
        The permuted magnitudes, with the dtype and device of ``m`` and without gradient history.

    Raises:
        TypeError: If ``m`` is not a floating-point tensor or ``g`` is not a gauge element.
        ValueError: If ``g`` is a rotation, or an affine gauge, whose shift changes all magnitudes but
            variances (move these by ``g.linear``); if the width of ``m`` or ``out`` does not fit.
    """
    if isinstance(g, AffineGauge):
        raise ValueError(
            f"a gauge of group {g.group!r} cannot move a magnitude: its shift changes absolute values "
            f"and products; allowed groups: {COORDINATEWISE_GROUPS} (for variances pass g.linear)"
        )
    permuting = require_coordinatewise(g, "a magnitude (product, absolute value, variance)")
    return _moved(m, permuting, axis, out, signed=False)


def lost_share(v: Tensor, g: Element, kept: Tensor, axis: int = -1) -> Tensor:
    """Return the share of ``‖v‖²`` that :func:`transport_direction` sets to 0 because of ``kept``.

    Args:
        v: float[..., d, ...], directions in the coordinates of A.
        g: The gauge from A to B, of any group and width d.
        kept: bool[d], the coordinates of B whose assignment is trusted.
        axis: The axis of ``v`` that holds the d coordinates.

    Returns:
        float[...], the shape of ``v`` without ``axis``, between 0 and 1, in float32 or wider; 0 for a zero
        vector.

    Raises:
        TypeError: If ``v`` is not a floating-point tensor or ``g`` is not a gauge element.
        ValueError: If the width of ``v`` or ``kept`` does not fit.
    """
    moved = transport_direction(v, g, axis)
    squares = moved.to(torch.promote_types(moved.dtype, torch.float32)).square_()
    whole = squares.sum(axis)
    lost = squares.mul_(_along(~check_kept(kept, g.size), moved, axis)).sum(axis)
    return lost / torch.where(whole == 0, 1, whole)


def linear_part(g: Element) -> LinearGauge:
    """Return ``g``, or the linear part of an affine gauge. Raises ``TypeError`` for other objects."""
    check_is_element(g)
    if isinstance(g, AffineGauge):
        return g.linear
    assert isinstance(g, LinearGauge)
    return g


def require_coordinatewise(g: Element, what: str) -> SignedPermutation:
    """Return the linear part of a gauge that does not mix coordinates.

    Args:
        g: A gauge element.
        what: What is to be moved, for the error message.

    Returns:
        The linear part of ``g``, a signed permutation.

    Raises:
        ValueError: If the linear part is a rotation.
    """
    linear = linear_part(g)
    if not isinstance(linear, SignedPermutation):
        raise ValueError(
            f"a gauge of group {linear.group!r} mixes coordinates and cannot move {what}; "
            f"allowed groups: {COORDINATEWISE_GROUPS}"
        )
    return linear


def check_kept(kept: Tensor, d: int) -> Tensor:
    """Return ``kept`` if it is bool[d]. Raises ``ValueError`` otherwise."""
    if not isinstance(kept, Tensor) or kept.dtype != torch.bool or kept.shape != (d,):
        given = f"{kept.dtype} {tuple(kept.shape)}" if isinstance(kept, Tensor) else type(kept).__name__
        raise ValueError(f"kept: expected a bool tensor of {d} entries, one per coordinate of B; got {given}")
    return kept


def _moved(v: Tensor, g: LinearGauge, axis: int, out: Tensor | None, signed: bool) -> Tensor:
    if not isinstance(v, Tensor):
        raise TypeError(
            f"expected a torch tensor, got {type(v).__name__} (numpy: torch.from_numpy; "
            "objects of steering-vectors and repeng: transport_steering_vector)"
        )
    if not v.is_floating_point():
        raise TypeError(f"expected a floating-point tensor, got {v.dtype}")
    if v.dim() == 0 or not -v.dim() <= axis < v.dim():
        raise ValueError(
            f"a tensor of shape {tuple(v.shape)} has no axis {axis}; expected an axis of the gauge's "
            f"width {g.size}"
        )
    if v.shape[axis] != g.size:
        raise ValueError(
            f"axis {axis} of a tensor of shape {tuple(v.shape)}: expected the gauge's width {g.size}, "
            f"got {v.shape[axis]}"
        )
    if out is None:
        out = torch.empty_like(v, requires_grad=False)
    elif (out.shape, out.dtype, out.device) != (v.shape, v.dtype, v.device):
        raise ValueError(
            f"out: expected {v.dtype} {tuple(v.shape)} on {v.device}, as v is; "
            f"got {out.dtype} {tuple(out.shape)} on {out.device}"
        )
    out.copy_(v.detach())
    with InPlace(g) as act:
        (act.vector if signed else act.gain)(out, axis)
    return out


def _along(mask: Tensor, x: Tensor, axis: int) -> Tensor:
    """Reshape a mask of one axis so that it broadcasts over ``x``."""
    shape = [1] * x.dim()
    shape[axis] = len(mask)
    return mask.to(x.device).view(shape)
