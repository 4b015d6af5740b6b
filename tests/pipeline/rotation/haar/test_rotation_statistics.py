"""Statistics of a rotation equal brute force, closed forms and SciPy."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.stats import ks_1samp, uniform

from gaugeport.groups import MeanPreservingOrthogonal, Permutation, haar_matrix, mean_free_basis
from gaugeport.pipeline.rotation.haar.statistics import (
    GROUPS,
    eigenangles,
    free_part,
    free_width,
    from_free_part,
    ks_distance,
    random_rotation,
    rotation_statistics,
    signed_angles,
)

MEAN_PRESERVING = "mean_preserving_orthogonal"


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


def eye(d):
    return torch.eye(d, dtype=torch.float64)


@pytest.mark.parametrize("d", [1, 2, 7, 8, 33])
@pytest.mark.parametrize("reflected", [False, True])
def test_eigenangles_equal_those_of_complex_eigenvalues(d, reflected):
    r = haar_matrix(d, gen(d))
    if (torch.linalg.det(r) < 0) != reflected:
        r[0] *= -1
    angles, expected = eigenangles(r), np.sort(np.abs(np.angle(np.linalg.eigvals(r.numpy()))))
    assert np.abs(angles.numpy() - expected).max() < 1e-6
    signed = signed_angles(angles)
    inside = (angles > 1e-3) & (angles < math.pi - 1e-3)
    assert abs(float(signed[inside].sum())) < 1e-6 * d, "conjugate pairs cancel"
    assert torch.equal(signed.abs(), angles)


def test_ks_distance_equals_scipy():
    angles = eigenangles(haar_matrix(21, gen()))
    expected = ks_1samp(angles.numpy(), uniform(0, math.pi).cdf).statistic
    assert ks_distance(angles.flip(0)) == pytest.approx(expected, abs=1e-12)


def test_statistics_of_identity_reflection_and_cycle():
    identity = rotation_statistics(eye(6))
    assert identity["distance_from_identity"] == identity["distance_to_permutation"] == 0
    assert identity["ks_distance"] == identity["largest_entry"] == identity["determinant"] == 1
    negative = rotation_statistics(-eye(5))
    assert negative["distance_from_identity"] == pytest.approx(math.sqrt(2))
    assert negative["determinant"] == -1
    assert negative["distance_to_signed_permutation"] == 0
    cycle = rotation_statistics(eye(9).roll(1, 0))
    assert cycle["distance_from_identity"] == pytest.approx(1) and cycle["distance_to_permutation"] == 0
    assert cycle["ks_distance"] == pytest.approx(1 / 9), "angles 2πk/9: the pairs are as far apart as can be"


@pytest.mark.parametrize("group", GROUPS)
def test_distances_to_permutations_are_the_least_of_all(group):
    r = random_rotation(4, group, gen(2))
    unit = math.sqrt(2 * free_width(4, group))
    signs = [torch.tensor(s, dtype=torch.float64) for s in itertools.product((1, -1), repeat=4)]
    permutations = [eye(4)[list(p)] for p in itertools.permutations(range(4))]
    measured = rotation_statistics(r, group)
    least = min(float((r - p).norm()) for p in permutations)
    assert measured["distance_to_permutation"] == pytest.approx(least / unit)
    least = min(float((r - s[:, None] * p).norm()) for p in permutations for s in signs)
    assert measured["distance_to_signed_permutation"] == pytest.approx(least / unit)


def test_mean_preserving_rotations_are_measured_on_their_free_part():
    inside = haar_matrix(8, gen(3))
    r = from_free_part(inside, MEAN_PRESERVING)
    assert torch.allclose(free_part(r, MEAN_PRESERVING), inside, atol=1e-12)
    MeanPreservingOrthogonal(r)
    measured, free = rotation_statistics(r, MEAN_PRESERVING), rotation_statistics(inside)
    for name in ("distance_from_identity", "ks_distance", "determinant"):
        assert measured[name] == pytest.approx(free[name], abs=1e-9), name


def test_entries_of_mean_preserving_rotations_are_read_in_the_models_coordinates():
    p = Permutation.random(9, gen(4)).dense()
    assert rotation_statistics(p, MEAN_PRESERVING)["distance_to_permutation"] == 0
    again = from_free_part(mean_free_basis(9).T @ p @ mean_free_basis(9), MEAN_PRESERVING)
    assert rotation_statistics(again, MEAN_PRESERVING)["largest_entry"] == pytest.approx(1)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: rotation_statistics(torch.ones(3, 3)), "allowed: orthogonal up to"),
        (lambda: rotation_statistics(torch.full((2, 2), math.nan)), "max|RRᵀ − I| = nan"),
        (lambda: eigenangles(torch.ones(3, 2)), "shape (3, 2); allowed: [d, d]"),
        (
            lambda: rotation_statistics(eye(3), "unitary"),
            "group 'unitary'; allowed: orthogonal, mean_preserving",
        ),
        (
            lambda: rotation_statistics(-eye(3), MEAN_PRESERVING),
            "allowed: rotations that fix the all-ones vector",
        ),
    ],
)
def test_bad_rotations_are_refused(call, words):
    with pytest.raises(ValueError) as e:
        call()
    assert words in str(e.value)
