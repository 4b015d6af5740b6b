"""Haar statistics against brute force and closed forms; calibrated tests keep their level and the naive one does not."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.stats import betabinom, binom, ks_1samp, uniform

from gaugeport.alignment.matchers import procrustes
from gaugeport.groups import MeanPreservingOrthogonal, Permutation, haar_matrix, mean_free_basis
from gaugeport.pipeline.rotation.haar import null as haar_null
from gaugeport.pipeline.rotation.haar import power, statistics
from gaugeport.pipeline.store.store import Store

D = 12
LAYER = "mean_preserving_orthogonal"


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


def eye(d):
    return torch.eye(d, dtype=torch.float64)


@pytest.fixture(scope="module")
def null():
    return haar_null.draw_null(D, 999, seed=1)


@pytest.mark.parametrize("d", [1, 2, 7, 8, 33])
@pytest.mark.parametrize("reflected", [False, True])
def test_eigenangles_are_those_of_the_eigenvalues(d, reflected):
    r = haar_matrix(d, gen(d))
    if (torch.linalg.det(r) < 0) != reflected:
        r[0] *= -1
    found, truth = statistics.eigenangles(r), np.sort(np.abs(np.angle(np.linalg.eigvals(r.numpy()))))
    assert np.abs(found.numpy() - truth).max() < 1e-6
    signed = statistics.signed_angles(found)
    inside = (found > 1e-3) & (found < math.pi - 1e-3)
    assert abs(float(signed[inside].sum())) < 1e-6 * d, "conjugate pairs"
    assert torch.equal(signed.abs(), found)


def test_ks_distance_is_scipys():
    angles = statistics.eigenangles(haar_matrix(21, gen()))
    truth = ks_1samp(angles.numpy(), uniform(0, math.pi).cdf).statistic
    assert statistics.ks_distance(angles.flip(0)) == pytest.approx(truth, abs=1e-12)


def test_statistics_in_closed_form():
    found = statistics.rotation_statistics(eye(6))
    assert (
        found["distance_from_identity"] == found["distance_to_permutation"] == 0 and found["ks_distance"] == 1
    )
    assert found["largest_entry"] == found["determinant"] == 1
    turned = statistics.rotation_statistics(-eye(5))
    assert turned["distance_from_identity"] == pytest.approx(math.sqrt(2)) and turned["determinant"] == -1
    assert turned["distance_to_signed_permutation"] == 0
    cycle = statistics.rotation_statistics(eye(9).roll(1, 0))
    assert cycle["distance_from_identity"] == pytest.approx(1) and cycle["distance_to_permutation"] == 0
    assert cycle["ks_distance"] == pytest.approx(1 / 9), "angles 2πk/9: the pairs are as far apart as can be"


@pytest.mark.parametrize("group", statistics.GROUPS)
def test_distances_to_permutations_are_the_least_of_all(group):
    r = statistics.random_rotation(4, group, gen(2))
    unit = math.sqrt(2 * statistics.free_width(4, group))
    signs = [torch.tensor(s, dtype=torch.float64) for s in itertools.product((1, -1), repeat=4)]
    plain = [eye(4)[list(p)] for p in itertools.permutations(range(4))]
    found = statistics.rotation_statistics(r, group)
    assert found["distance_to_permutation"] == pytest.approx(min(float((r - p).norm()) for p in plain) / unit)
    best = min(float((r - s[:, None] * p).norm()) for p in plain for s in signs)
    assert found["distance_to_signed_permutation"] == pytest.approx(best / unit)


def test_where_the_mean_is_fixed_the_rest_is_what_counts():
    inside = haar_matrix(8, gen(3))
    r = statistics.whole(inside, LAYER)
    assert torch.allclose(statistics.free_part(r, LAYER), inside, atol=1e-12)
    MeanPreservingOrthogonal(r)
    found, free = statistics.rotation_statistics(r, LAYER), statistics.rotation_statistics(inside)
    for name in ("distance_from_identity", "ks_distance", "determinant"):
        assert found[name] == pytest.approx(free[name], abs=1e-9), name
    p = Permutation.random(9, gen(4)).dense()
    assert statistics.rotation_statistics(p, LAYER)["distance_to_permutation"] == 0
    assert statistics.rotation_statistics(
        statistics.whole(mean_free_basis(9).T @ p @ mean_free_basis(9), LAYER), LAYER
    )["largest_entry"] == (pytest.approx(1)), "entries are read in the model's coordinates"


def test_the_null_on_a_support_is_that_of_any_directions(null):
    whole = null.supported_distance(D)
    assert torch.allclose(whole, null.statistics["distance_from_identity"], atol=1e-12)
    for rank in (1, 5):
        squares = null.supported_distance(rank) ** 2
        assert abs(float(squares.mean()) - 1) < 5 * float(squares.std()) / math.sqrt(len(squares))
    with pytest.raises(ValueError, match="rank 13; allowed: 1 to 12"):
        null.supported_distance(D + 1)


def test_p_values_count():
    draws = torch.arange(1.0, 20.0)
    assert haar_null.p_value(0, draws, "small") == 1 / 20 and haar_null.p_value(0, draws, "large") == 1
    assert (
        haar_null.p_value(18.5, draws, "large") == 2 / 20 and haar_null.p_value(18.5, draws, "both") == 4 / 20
    )
    assert haar_null.p_value(10, draws, "both") == 1
    with pytest.raises(ValueError, match="tail 'left'; allowed: both, large, small"):
        haar_null.p_value(0, draws, "left")


def within(rejected, level, tail, n, size):
    """Whether so many false positives of n tests are likely: the level that a null of ``size`` draws has is itself random."""
    per_tail = math.floor((level / (2 if tail == "both" else 1)) * (size + 1))
    spacings = per_tail * (2 if tail == "both" else 1)
    low, high = betabinom(n, spacings, size + 1 - spacings).interval(0.9999)
    return low <= rejected <= high


def test_a_planted_haar_rotation_is_called_haar_at_the_nominal_rate(null):
    """Two copies of one set of rows, one of them rotated: Procrustes finds the rotation, 5 % of them are rejected."""
    noise, rejected = gen(5), dict.fromkeys(statistics.TAILS, 0)
    rows = torch.randn(40, D, generator=noise, dtype=torch.float64)
    for _ in range(200):
        planted = haar_matrix(D, noise)
        found = procrustes((rows @ planted.T).T @ rows).gauge.dense()
        assert float((found - planted).abs().max()) < 1e-10 and statistics.orthogonality_error(found) <= 1e-6
        for name, value in statistics.rotation_statistics(found).items():
            if name in rejected:
                rejected[name] += (
                    haar_null.p_value(value, null.statistics[name], statistics.TAILS[name]) <= 0.05
                )
    for name, n in rejected.items():
        assert within(n, 0.05, statistics.TAILS[name], 200, 999), (name, n)


@pytest.mark.parametrize("tail", ["both", "large"])
def test_pooling_keeps_the_level_however_few_the_draws(tail):
    values = torch.randn(400, 25, generator=gen(6), dtype=torch.float64).exp()  # skewed, as statistics are
    p = [haar_null.pooled_p_value(v[:5], v[5:], tail, seed=i, permutations=99) for i, v in enumerate(values)]
    low, high = binom(400, 0.04 if tail == "both" else 0.05).interval(0.9999)  # 2 · 2 of 100, or 5
    assert low <= sum(q <= 0.05 for q in p) <= high


def test_pooling_sees_what_single_matrices_do_not_show():
    draws = torch.randn(200, generator=gen(7), dtype=torch.float64)
    shifted = torch.linspace(0.5, 1.5, 10, dtype=torch.float64)
    assert all(haar_null.p_value(float(v), draws, "large") > 0.01 for v in shifted)
    assert haar_null.pooled_p_value(shifted, draws, "large") < 0.01
    assert haar_null.pooled_p_value(shifted, draws, "small") > 0.99


def test_the_naive_test_takes_neighbours_for_independent():
    """On Haar itself it never rejects, single or pooled: eigen-angles repel. It sees the distance only of gross departures."""
    wide = haar_null.draw_null(32, 40, seed=2)
    rates = power.rejection_rates(32, "haar", 40, wide, seed=3)
    assert rates["naive_ks"] == rates["naive_ks_pooled"] == 0
    assert power.rejection_rates(32, "near_identity", 40, wide, seed=3)["naive_ks"] == 1


@pytest.mark.parametrize("group", statistics.GROUPS)
def test_signed_permutations_are_rejected_by_their_entries_and_hardly_by_their_eigenangles(group):
    calibrated = haar_null.draw_null(24, 99, seed=4, group=group)
    rates = power.rejection_rates(24, "signed_permutation", 60, calibrated, seed=5)
    assert rates["distance_to_signed_permutation"] == rates["largest_entry"] == 1
    assert rates["naive_ks"] <= rates["ks_distance"] < 1
    plain = power.rejection_rates(24, "permutation", 60, calibrated, seed=5)
    assert plain["distance_to_permutation"] == 1


def test_alternatives_are_what_they_are_called():
    for group, name in itertools.product(statistics.GROUPS, power.ALTERNATIVES):
        r = power.ALTERNATIVES[name](13, group, gen(8))
        found = statistics.rotation_statistics(r, group)
        assert found["orthogonality_error"] < 1e-12, "and it fixes the mean where the group does"
        if name == "low_rank_identity":
            m = statistics.free_width(13, group)
            assert int((statistics.eigenangles(statistics.free_part(r, group)) < 1e-6).sum()) in (
                m // 6,
                m // 6 + 1,
            )
        if name == "near_identity":
            assert found["distance_from_identity"] < 0.5
    assert (
        statistics.rotation_statistics(power.signed_permutation(13, "orthogonal", gen(9)))["largest_entry"]
        == 1
    )
    signs = {
        float(statistics.free_part(power.signed_permutation(13, LAYER, gen(s)), LAYER).trace().round())
        for s in range(20)
    }
    assert min(signs) < 0 < max(signs), "either sign on the complement"


def test_the_null_is_drawn_once_for_each_width(tmp_path, monkeypatch):
    store = Store(tmp_path)
    first = haar_null.stored_null(store, 6, 5, 0)
    monkeypatch.setattr(haar_null, "random_rotation", None)  # nothing can be drawn any more
    again = haar_null.stored_null(store, 6, 5, 0)
    for name in statistics.TAILS:
        assert torch.equal(first.statistics[name], again.statistics[name])
    assert torch.equal(first.angles, again.angles) and torch.equal(first.traces, again.traces)
    for other in ((store, 7, 5, 0), (store, 6, 6, 0), (store, 6, 5, 1), (store, 6, 5, 0, LAYER)):
        with pytest.raises(TypeError):
            haar_null.stored_null(*other)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: statistics.rotation_statistics(torch.ones(3, 3)), "allowed: orthogonal up to"),
        (lambda: statistics.rotation_statistics(torch.full((2, 2), math.nan)), "max|RRᵀ − I| = nan"),
        (lambda: statistics.eigenangles(torch.ones(3, 2)), "shape (3, 2); allowed: [d, d]"),
        (
            lambda: statistics.rotation_statistics(eye(3), "unitary"),
            "group 'unitary'; allowed: orthogonal, mean_preserving",
        ),
        (
            lambda: statistics.rotation_statistics(-eye(3), LAYER),
            "allowed: rotations that fix the all-ones vector",
        ),
        (
            lambda: haar_null.draw_null(1, 5, 0, LAYER),
            "width 1 of group mean_preserving_orthogonal; allowed: 2 or more",
        ),
        (lambda: haar_null.draw_null(4, 0, 0), "draws=0; allowed: 1 or more"),
        (lambda: haar_null.pooled_p_value(torch.tensor([]), torch.ones(3), "large"), "no values to pool"),
    ],
)
def test_bad_input_names_what_is_allowed(call, words):
    with pytest.raises(ValueError) as e:
        call()
    assert words in str(e.value)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"alternative": "cycle"}, "alternative 'cycle'; allowed: haar, signed_permutation"),
        ({"level": 1.5}, "level=1.5; allowed: between 0 and 1"),
        ({"draws": 3}, "draws=3; allowed: 10 or more"),
        ({"d": 8}, "width 8 with a null of 12 eigen-angles; allowed: a null of 8"),
    ],
)
def test_bad_power_names_what_is_allowed(null, given, words):
    with pytest.raises(ValueError) as e:
        power.rejection_rates(**{"d": D, "alternative": "haar", "draws": 10, "null": null, **given})
    assert words in str(e.value)
