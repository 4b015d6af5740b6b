"""Check that random elements follow Haar measure (the uniform distribution, for finite groups)."""

import math

import pytest
import torch

from gauge_elements import ALL, DISCRETE, close, gen
from gaugeport.groups import (
    GlobalSignPermutation,
    MeanPreservingOrthogonal,
    Orthogonal,
    Permutation,
    SignedPermutation,
    haar_matrix,
    mean_free_basis,
)


def first_column_signs(draw_one, trials=400):
    return sum(float(draw_one()[0, 0]) > 0 for _ in range(trials)) / trials


def uncorrected(d, generator):
    return torch.linalg.qr(torch.randn(d, d, generator=generator, dtype=torch.float64)).Q


def test_haar_needs_the_sign_correction():
    """Under Haar measure Q₀₀ is symmetric about 0; QR without the correction always makes it negative.

    Over 400 trials the share of positive values has standard deviation 1/40, so 5 standard deviations are
    1/8.
    """
    corrected, raw = gen(0), gen(0)
    assert abs(first_column_signs(lambda: Orthogonal.random(6, corrected).matrix) - 0.5) < 5 / 40
    assert abs(first_column_signs(lambda: uncorrected(6, raw)) - 0.5) > 5 / 40


def test_haar_traces_have_the_known_moments():
    """Under Haar measure on O(d), d ≥ 2: E[tr Q] = 0, E[(tr Q)²] = 1, E[tr Q²] = 1 (Diaconis 1994)."""
    n, d = 2000, 8

    def statistics(draw_one):
        qs = torch.stack([draw_one() for _ in range(n)])
        traces = qs.diagonal(dim1=1, dim2=2).sum(1)
        squares = (qs @ qs).diagonal(dim1=1, dim2=2).sum(1)
        return [
            ((v - e).mean() / v.std() * n**0.5).abs().item()
            for v, e in ((traces, 0), (traces**2, 1), (squares, 1))
        ]

    corrected, raw = gen(3), gen(3)
    assert max(statistics(lambda: haar_matrix(d, corrected))) < 5
    assert max(statistics(lambda: uncorrected(d, raw))) > 5


def test_haar_determinants_are_positive_half_of_the_time():
    generator = gen(5)
    positive = sum(float(torch.linalg.det(haar_matrix(5, generator))) > 0 for _ in range(400)) / 400
    assert abs(positive - 0.5) < 5 / 40


@pytest.mark.parametrize("d", [1, 2, 3, 17, 64])
def test_mean_preserving_rotation_fixes_ones_up_to_a_fair_sign(d):
    generator, ones, signs = gen(d), torch.ones(d, dtype=torch.float64), []
    for _ in range(40):
        moved = MeanPreservingOrthogonal.random(d, generator).act(ones)
        signs.append(round(float(moved[0])))
        assert close(moved, signs[-1] * ones, 1e-12) and abs(signs[-1]) == 1
    assert abs(sum(signs)) < 5 * math.sqrt(40)
    basis = mean_free_basis(d)
    assert close(basis.T @ basis, torch.eye(d - 1, dtype=torch.float64)) and close(
        ones @ basis, torch.zeros(d - 1).double()
    )


def test_mean_preserving_rotation_is_haar_on_the_complement():
    """For B an orthonormal basis of the complement of 1, BᵀQB is Haar on O(d-1): E[tr] = 0, E[tr²] = 1."""
    basis, generator, n = mean_free_basis(7), gen(1), 2000
    traces = torch.stack(
        [(basis.T @ MeanPreservingOrthogonal.random(7, generator).matrix @ basis).trace() for _ in range(n)]
    )
    for values, expected in ((traces, 0.0), (traces**2, 1.0)):
        assert abs(float((values - expected).mean() / values.std())) * n**0.5 < 5


@pytest.mark.parametrize("cls", DISCRETE)
def test_random_elements_are_uniform(cls):
    """At d = 3 all 6, 12 or 48 elements are equally likely.

    The statistic χ² must lie within 5 standard deviations of its mean.
    """
    generator, n = gen(8), 4800
    counts = {}
    for _ in range(n):
        g = cls.random(3, generator)
        counts[g] = counts.get(g, 0) + 1
    size = {Permutation: 6, GlobalSignPermutation: 12, SignedPermutation: 48}[cls]
    assert len(counts) == size
    chi2 = sum((c - n / size) ** 2 / (n / size) for c in counts.values())
    assert chi2 < size - 1 + 5 * math.sqrt(2 * (size - 1))


@pytest.mark.parametrize("cls", ALL)
def test_random_elements_depend_on_the_generator_alone(cls):
    state = torch.get_rng_state()
    assert cls.random(9, gen(4)) == cls.random(9, gen(4)) != cls.random(9, gen(5))
    assert torch.equal(torch.get_rng_state(), state)
