"""Gauge elements: the coordinate changes of a residual stream that leave the model's function unchanged.

Activations are row vectors ``x[..., d]``, and an element ``g`` acts on the residual axis, of width d:

* ``SignedPermutation``: ``(g·x)[..., i] = sign[i] * x[..., perm[i]]``; its dense matrix has
  ``Q[i, perm[i]] = sign[i]``;
* ``Orthogonal``: ``g·x = x @ Q.T``;
* ``compose(g, h)·x = g·(h·x)``.

A *vector* axis is permuted and signed. A *gain* axis (norm weights, second moments, any magnitude) is only
permuted. Elements are frozen values: they compare by content, and every operation returns a new one.

Files in reading order: ``element`` (what every element offers), ``permutations`` (S_d, S_d × {±1}, B_d),
``rotations`` (O(d) and its mean-preserving subgroup), ``affine`` (a linear element, a scale and a shift),
``algebra`` (names, membership, composition), ``files`` (reading). Imports only ``gaugeport.utils``.
"""

from gaugeport.groups.affine import AffineGauge, LinearGauge
from gaugeport.groups.algebra import (
    GROUPS,
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
