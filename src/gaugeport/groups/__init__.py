"""Gauge elements: the coordinate changes of a residual stream that leave the model's function alone.

Conventions (DESIGN §1), used everywhere in the package:

* activations are row vectors ``x[..., d]``; an element ``g`` acts on the residual axis;
* ``SignedPermutation``: ``(g·x)[..., i] = sign[i] * x[..., perm[i]]``, dense form ``Q[i, perm[i]] = sign[i]``;
* ``Orthogonal``: ``g·x = x @ Q.T``;
* ``compose(g, h)·x = g·(h·x)``.

A *vector* axis is permuted and signed; a *gain* axis (norm weights, second moments, any magnitude) is permuted only.
Elements are frozen values: they compare by content, and every operation returns a new one.
"""

from gaugeport.groups.affine import AffineGauge
from gaugeport.groups.algebra import (
    GROUPS,
    LinearGauge,
    check_is_element,
    compose,
    contains,
    smallest_common_group,
)
from gaugeport.groups.element import Element
from gaugeport.groups.files import load, provenance
from gaugeport.groups.permutations import GlobalSignPermutation, Permutation, SignedPermutation
from gaugeport.groups.rotations import MeanPreservingOrthogonal, Orthogonal, haar_matrix, mean_free_basis

__all__ = [
    "GROUPS",
    "AffineGauge",
    "Element",
    "GlobalSignPermutation",
    "LinearGauge",
    "MeanPreservingOrthogonal",
    "Orthogonal",
    "Permutation",
    "SignedPermutation",
    "check_is_element",
    "compose",
    "contains",
    "haar_matrix",
    "load",
    "mean_free_basis",
    "provenance",
    "smallest_common_group",
]
