"""Directions and magnitudes: steering vectors, probes, gradients, means; products, absolute values, variances.

A direction has no origin, so an affine gauge acts on it by its linear part alone. A magnitude has no sign, so it is
permuted only, and a rotation has nothing to say about it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gaugeport.groups import AffineGauge, Element, LinearGauge, SignedPermutation, check_is_element
from gaugeport.transport.axis import InPlace


def transport_direction(
    v: Tensor, g: Element, axis: int = -1, *, kept: Tensor | None = None, out: Tensor | None = None
) -> Tensor:
    """``g·v`` along ``axis``: a direction (or any batch of them) written in the coordinates of B.

    ``v`` float[..., d, ...] in A's coordinates; dtype and device are kept, gradient history is not. ``g`` is of any
    group, an :class:`AffineGauge` acting by its linear part. ``kept`` bool[d] marks the coordinates of B whose
    assignment is trusted: the others are set to zero, at the cost that :func:`lost_share` tells. ``out``, of ``v``'s
    shape, dtype and device, receives the result in place of a new tensor (it may be ``v`` itself).

    Raises ``TypeError`` for what is no floating-point tensor, ``ValueError`` where widths, ``kept`` or ``out`` do not
    fit. Source: DESIGN §1, second row of the table of transports.
    """
    moved = _moved(v, linear_part(g), axis, out, signed=True)
    if kept is not None:
        moved.mul_(_along(check_kept(kept, g.size), moved, axis))
    return moved


def transport_magnitude(m: Tensor, g: Element, axis: int = -1, *, out: Tensor | None = None) -> Tensor:
    """``m`` permuted along ``axis``, without signs: what is even in each coordinate of the stream.

    For gradient×activation and other products, integrated gradients, mean absolute values, variances, second moments.
    ``m`` float[..., d, ...] and ``out`` as in :func:`transport_direction`.

    Raises ``ValueError`` for a rotation, naming the groups under which a magnitude is covariant, for an affine gauge (its
    shift changes all of these but the variances, which go by its linear part), and where :func:`transport_direction` does.
    """
    if isinstance(g, AffineGauge):
        raise ValueError(
            f"a magnitude has no image under a gauge of group {g.group!r}, whose shift changes absolute values and "
            "products; allowed groups: permutation, global_sign_permutation, signed_permutation (variances: pass g.linear)"
        )
    return _moved(
        m, coordinatewise(g, "a magnitude (product, absolute value, variance)"), axis, out, signed=False
    )


def lost_share(v: Tensor, g: Element, kept: Tensor, axis: int = -1) -> Tensor:
    """The share of ``‖v‖²`` that :func:`transport_direction` gives up to ``kept``: float[...], ``v`` without ``axis``.

    Between 0 and 1, in float32 or wider; 0 for a zero vector. Arguments and errors as there.
    """
    moved = transport_direction(v, g, axis)
    squares = moved.to(torch.promote_types(moved.dtype, torch.float32)).square_()
    whole = squares.sum(axis)
    lost = squares.mul_(_along(~check_kept(kept, g.size), moved, axis)).sum(axis)
    return lost / torch.where(whole == 0, 1, whole)


def linear_part(g: Element) -> LinearGauge:
    """``g``, or the linear part of an affine gauge. Raises ``TypeError`` for what is no gauge element."""
    check_is_element(g)
    return g.linear if isinstance(g, AffineGauge) else g  # type: ignore[return-value]


def coordinatewise(g: Element, what: str) -> SignedPermutation:
    """The linear part of ``g`` if it moves coordinates without mixing them. Raises ``ValueError`` naming ``what``."""
    linear = linear_part(g)
    if not isinstance(linear, SignedPermutation):
        raise ValueError(
            f"{what} has no image under a gauge of group {linear.group!r}, which mixes coordinates; "
            "allowed groups: permutation, global_sign_permutation, signed_permutation"
        )
    return linear


def check_kept(kept: Tensor, d: int) -> Tensor:
    """``kept`` if it is bool[d]. Raises ``ValueError`` otherwise."""
    if not isinstance(kept, Tensor) or kept.dtype != torch.bool or kept.shape != (d,):
        found = f"{kept.dtype} {tuple(kept.shape)}" if isinstance(kept, Tensor) else type(kept).__name__
        raise ValueError(f"kept must be a bool tensor of {d} entries, one per coordinate of B; found {found}")
    return kept


def _moved(v: Tensor, g: LinearGauge, axis: int, out: Tensor | None, signed: bool) -> Tensor:
    if not isinstance(v, Tensor):
        raise TypeError(f"a torch tensor is wanted, found {type(v).__name__} (numpy: torch.from_numpy)")
    if not v.is_floating_point():
        raise TypeError(f"a floating-point tensor is wanted, found {v.dtype}")
    if v.dim() == 0 or not -v.dim() <= axis < v.dim():
        raise ValueError(
            f"a tensor of shape {tuple(v.shape)} has no axis {axis}; the gauge wants one of width {g.size}"
        )
    if v.shape[axis] != g.size:
        raise ValueError(
            f"axis {axis} of {tuple(v.shape)} has width {v.shape[axis]}; the gauge has width {g.size}"
        )
    if out is None:
        out = torch.empty_like(v, requires_grad=False)
    elif (out.shape, out.dtype, out.device) != (v.shape, v.dtype, v.device):
        raise ValueError(
            f"out is {out.dtype} {tuple(out.shape)} on {out.device}; "
            f"it must be as v, {v.dtype} {tuple(v.shape)} on {v.device}"
        )
    out.copy_(v.detach())
    with InPlace(g) as act:
        (act.vector if signed else act.gain)(out, axis)
    return out


def _along(mask: Tensor, x: Tensor, axis: int) -> Tensor:
    shape = [1] * x.dim()
    shape[axis] = len(mask)
    return mask.to(x.device).view(shape)
