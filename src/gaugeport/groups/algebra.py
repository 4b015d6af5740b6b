"""The groups by name, which contains which, and composition across them."""

from __future__ import annotations

from typing import Any

import torch

from gaugeport.groups.affine import AffineGauge
from gaugeport.groups.element import Element
from gaugeport.groups.permutations import GlobalSignPermutation, Permutation, SignedPermutation
from gaugeport.groups.rotations import MeanPreservingOrthogonal, Orthogonal

LinearGauge = SignedPermutation | Orthogonal
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


def check_is_element(g: object) -> None:
    """Raise ``TypeError`` for what is no gauge element, telling where an alignment keeps its own."""
    if not isinstance(g, SignedPermutation | Orthogonal | AffineGauge):
        hint = " (pass its .gauge)" if hasattr(g, "gauge") else ""
        raise TypeError(f"a gauge element is wanted, found {type(g).__name__}{hint}")


def compose(g: Element, h: Element) -> Any:
    """The element with ``compose(g, h)·x = g·(h·x)``, in the smallest of our groups that holds both.

    Raises ``ValueError`` when the widths differ.
    """
    if g.size != h.size:
        raise ValueError(f"cannot compose gauges of widths {g.size} and {h.size}")
    if isinstance(g, AffineGauge) or isinstance(h, AffineGauge):
        gl, gs = (
            (g.linear, g.shift)
            if isinstance(g, AffineGauge)
            else (g, torch.zeros(g.size, dtype=torch.float64))
        )
        hl, hs = (
            (h.linear, h.shift)
            if isinstance(h, AffineGauge)
            else (h, torch.zeros(h.size, dtype=torch.float64))
        )
        return AffineGauge(compose(gl, hl), gl.act(hs) + gs)  # type: ignore[attr-defined]
    joint = smallest_common_group(g, h)
    if issubclass(joint, SignedPermutation):
        assert isinstance(g, SignedPermutation) and isinstance(h, SignedPermutation)
        return joint._from_signed(h.perm[g.perm], g.sign * h.sign[g.perm])
    assert isinstance(g, LinearGauge) and isinstance(h, LinearGauge)
    return joint(g.dense() @ h.dense())  # type: ignore[call-arg]


def smallest_common_group(g: Element, h: Element) -> type[Element]:
    """The smallest class of ours that is a group holding both (linear) elements."""
    for cls in (Permutation, GlobalSignPermutation, SignedPermutation, MeanPreservingOrthogonal):
        if all(contains(cls.group, e) for e in (type(g), type(h))):
            return cls
    return Orthogonal


def contains(group: str, element: type[Element] | Element) -> bool:
    """Whether the named group holds every element of a class, or of the class of ``element`` (its values are not looked at)."""
    cls = element if isinstance(element, type) else type(element)
    if group not in GROUPS:
        raise ValueError(f"unknown group {group!r}; allowed: {', '.join(GROUPS)}")
    if group in ("orthogonal", "affine"):
        return group == "affine" or not issubclass(cls, AffineGauge)
    if group == "mean_preserving_orthogonal":
        return issubclass(cls, (GlobalSignPermutation, MeanPreservingOrthogonal))
    return issubclass(cls, GROUPS[group])
