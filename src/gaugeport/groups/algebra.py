"""Name the groups, say which contains which, and compose elements of different groups."""

from __future__ import annotations

from typing import Any

import torch

from gaugeport.groups.affine import AffineGauge, LinearGauge
from gaugeport.groups.element import Element
from gaugeport.groups.permutations import GlobalSignPermutation, Permutation, SignedPermutation
from gaugeport.groups.rotations import (
    ORTHOGONALITY_TOLERANCE,
    MeanPreservingOrthogonal,
    Orthogonal,
    mean_error,
)

GROUPS: dict[str, type[Element]] = {
    c.group: c
    for c in (
        Permutation,
        GlobalSignPermutation,
        SignedPermutation,
        MeanPreservingOrthogonal,
        Orthogonal,
        AffineGauge,
    )
}
"""Each group's class, by the name that configs and tables use."""


def check_is_element(g: object) -> None:
    """Raise ``TypeError`` unless ``g`` is a gauge element. The message mentions ``.gauge`` if it has one."""
    if not isinstance(g, LinearGauge | AffineGauge):
        hint = " (pass its .gauge)" if hasattr(g, "gauge") else ""
        raise TypeError(f"expected a gauge element, got {type(g).__name__}{hint}")


def compose(g: Element, h: Element) -> Any:
    """Return the element with ``compose(g, h)·x = g·(h·x)``.

    Args:
        g: The element that acts second.
        h: The element that acts first.

    Returns:
        An element of the smallest group that contains both.

    Raises:
        ValueError: If the widths differ.
    """
    if g.size != h.size:
        raise ValueError(f"cannot compose gauges of widths {g.size} and {h.size}")
    if isinstance(g, AffineGauge) or isinstance(h, AffineGauge):
        outer, inner = _as_affine(g), _as_affine(h)
        shift = outer.scale * outer.linear.act(inner.shift) + outer.shift
        return AffineGauge(compose(outer.linear, inner.linear), shift, outer.scale * inner.scale)
    joint = smallest_common_group(g, h)
    if issubclass(joint, SignedPermutation):
        assert isinstance(g, SignedPermutation) and isinstance(h, SignedPermutation)
        return joint._from_signed(h.perm[g.perm], g.sign * h.sign[g.perm])
    assert issubclass(joint, Orthogonal)
    return joint(g.dense() @ h.dense())


def _as_affine(g: Element) -> AffineGauge:
    """Return an affine gauge as it is, and a linear element with a shift of zero."""
    if isinstance(g, AffineGauge):
        return g
    assert isinstance(g, LinearGauge)
    return AffineGauge(g, torch.zeros(g.size, dtype=torch.float64))


def smallest_common_group(g: Element, h: Element) -> type[Element]:
    """Return the class of the smallest group that contains both linear elements."""
    for cls in (Permutation, GlobalSignPermutation, SignedPermutation, MeanPreservingOrthogonal):
        if all(contains(cls.group, e) for e in (type(g), type(h))):
            return cls
    return Orthogonal


def contains(group: str, element: type[Element] | Element) -> bool:
    """Return whether a group contains an element, or every element of a class.

    An element is judged by its value: a ``SignedPermutation`` whose signs are all equal is in S_d × {±1}, one
    whose signs are all +1 in S_d, and an ``Orthogonal`` whose rows all sum to +1, or all to -1, in the
    mean-preserving group. Two things are judged by class: a matrix is never taken for a permutation, because
    gains need the permutation itself, and an ``AffineGauge`` is in no other group, even if its shift is 0.

    Args:
        group: A name in :data:`GROUPS`.
        element: An element, or a class that stands for all its elements.

    Raises:
        ValueError: If the group is unknown.
    """
    if group not in GROUPS:
        raise ValueError(f"unknown group {group!r}; allowed: {', '.join(GROUPS)}")
    cls = element if isinstance(element, type) else _smallest_class(element)
    if group in ("orthogonal", "affine"):
        return group == "affine" or not issubclass(cls, AffineGauge)
    if group == "mean_preserving_orthogonal":
        return issubclass(cls, (GlobalSignPermutation, MeanPreservingOrthogonal))
    return issubclass(cls, GROUPS[group])


def _smallest_class(g: Element) -> type[Element]:
    """Return the class of the smallest group that holds an element, by its value."""
    if isinstance(g, SignedPermutation):
        if bool((g.sign == 1).all()):
            return Permutation
        return GlobalSignPermutation if bool((g.sign == -1).all()) else SignedPermutation
    if isinstance(g, Orthogonal) and mean_error(g.matrix) <= ORTHOGONALITY_TOLERANCE:
        return MeanPreservingOrthogonal
    return type(g)
