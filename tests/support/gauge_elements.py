"""Share the gauge classes and comparisons that the tests of groups use."""

import torch

from gaugeport.groups import (
    AffineGauge,
    GlobalSignPermutation,
    MeanPreservingOrthogonal,
    Orthogonal,
    Permutation,
    SignedPermutation,
)

DISCRETE = (Permutation, GlobalSignPermutation, SignedPermutation)
LINEAR = (*DISCRETE, MeanPreservingOrthogonal, Orthogonal)
ALL = (*LINEAR, AffineGauge)
EXACT = 1e-12
"""Rounding of float64 products of matrices with orthonormal rows, d ≤ 12."""


def gen(seed):
    return torch.Generator().manual_seed(seed)


def close(a, b, tolerance=EXACT):
    return torch.allclose(a, b, rtol=0, atol=tolerance)
