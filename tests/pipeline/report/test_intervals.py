"""Intervals against scipy, and against simulated data whose rate of coverage is known."""

import itertools

import numpy as np
import pytest
from scipy import stats

from gaugeport.pipeline.report.intervals import (
    fisher_interval,
    interval_of,
    jackknife_interval,
    pairs_interval_of,
    share_interval,
    t_interval,
)


def test_student_against_scipy():
    values = [0.1, 0.4, 0.2, 0.6]
    low, high = stats.t.interval(0.95, 3, np.mean(values), stats.sem(values))
    assert t_interval(values) == pytest.approx((np.mean(values), low, high, 4))
    assert np.isnan(t_interval([1.0])[1])


def test_fisher_is_student_of_z_and_stays_within_one():
    r = [0.3, 0.9, 0.99, 0.8]
    expected = np.tanh(t_interval(np.arctanh(r).tolist())[:3])
    assert fisher_interval(r) == pytest.approx((*expected, 4))
    assert fisher_interval([-0.5, 0.5])[0] == pytest.approx(0)
    assert t_interval([0.52, 0.99, 0.99])[2] > 1 > fisher_interval([0.52, 0.99, 0.99])[2]
    assert fisher_interval([1.0, 0.9]) == t_interval([1.0, 0.9]), "z of a perfect correlation is infinite"


def test_fisher_covers_the_true_correlation_at_its_rate():
    """Correlations of 12 points from a normal pair of known ρ: z is nearly normal about artanh ρ + ρ / 22."""
    rng, rho, n, seeds, trials = np.random.default_rng(0), 0.9, 12, 5, 2000
    x = rng.standard_normal((trials, seeds, n))
    y = rho * x + np.sqrt(1 - rho**2) * rng.standard_normal((trials, seeds, n))
    x, y = (a - a.mean(-1, keepdims=True) for a in (x, y))
    r = (x * y).sum(-1) / np.sqrt((x * x).sum(-1) * (y * y).sum(-1))
    truth = np.tanh(np.arctanh(rho) + rho / (2 * (n - 1)))
    covered = np.mean([low <= truth <= high for _, low, high, _ in map(fisher_interval, r)])
    assert abs(covered - 0.95) < 4 * np.sqrt(0.95 * 0.05 / trials)


@pytest.mark.parametrize(("k", "n", "low"), [(6, 6, 0.025 ** (1 / 6)), (5, 5, 0.025 ** (1 / 5))])
def test_share_is_clopper_and_pearsons(k, n, low):
    """Of k = n the lower end solves p^n = α/2."""
    share, found, high, count = share_interval([True] * k + [False] * (n - k))
    assert (share, high, count) == (1, 1, n) and found == pytest.approx(low)
    assert share_interval([False] * n)[2] == pytest.approx(1 - low)
    for hits in range(n + 1):
        scipys = stats.binomtest(hits, n).proportion_ci(method="exact")
        assert share_interval([i < hits for i in range(n)])[1:3] == pytest.approx((scipys.low, scipys.high))


def test_metrics_choose_their_interval():
    r = [0.5, 0.99]
    for metric in ("bar_c_pearson", "predictor_pearson", "share_transfer_correlation"):
        assert interval_of(metric, r) == fisher_interval(r)
    for metric in ("firing_pearson", "accuracy"):
        assert interval_of(metric, r) == t_interval(r)


def simulated(rng, noise, seeds=6):
    """A value for each pair of seeds: the sum of what each seed brings, about 1, and the pair's own noise."""
    of_seed, pairs = 0.5 + rng.standard_normal(seeds), itertools.combinations(range(seeds), 2)
    return {(i, j): of_seed[i] + of_seed[j] + noise * rng.standard_normal() for i, j in pairs}


@pytest.mark.parametrize("noise", [0.0, 1.0])
def test_jackknife_over_seeds_covers_the_true_mean_at_its_rate(noise):
    """Sums of what seeds bring are covered at exactly .95: the jackknife's is then Student's interval of
    twice their mean. Noise of the pairs makes it wider than it need be. Fifteen pairs taken for independent
    are covered far less often."""
    rng, trials = np.random.default_rng(0), 1000
    drawn = [simulated(rng, noise) for _ in range(trials)]
    covered = np.mean([low <= 1 <= high for _, low, high, _ in map(jackknife_interval, drawn)])
    spread = np.sqrt(0.95 * 0.05 / trials)
    assert covered > 0.95 - 4 * spread and (noise or covered < 0.95 + 4 * spread)
    independent = [t_interval(list(values.values())) for values in drawn]
    assert np.mean([low <= 1 <= high for _, low, high, _ in independent]) < 0.85


def test_jackknife_of_sums_is_students_interval_of_the_seeds():
    brought = [0.1, 0.5, 0.2, 0.9]
    pairs = {(i, j): brought[i] + brought[j] for i, j in itertools.combinations(range(4), 2)}
    assert jackknife_interval(pairs) == pytest.approx((*(2 * np.array(t_interval(brought)[:3])), 4))
    moved = {pair: float(np.tanh(v)) for pair, v in pairs.items()}
    expected = np.tanh(jackknife_interval(pairs)[:3])
    assert pairs_interval_of("bar_c_pearson", moved) == pytest.approx((*expected, 4))


def test_pairs_that_all_share_a_seed_are_values_of_the_other():
    star = {(0, 1): 0.1, (0, 2): 0.4, (0, 3): 0.2}
    assert pairs_interval_of("accuracy", star) == t_interval([0.1, 0.4, 0.2])
    with pytest.raises(ValueError, match=r"expected every pair of three seeds or more, got \[\(0, 1\), "):
        jackknife_interval(star)


def test_three_seeds_that_are_compared_with_none_are_no_pairs():
    assert pairs_interval_of("accuracy", {(0, 0): 0.1, (0, 1): 0.4, (0, 2): 0.2}) == t_interval(
        [0.1, 0.4, 0.2]
    )


def test_pairs_of_an_incomplete_design_count_where_they_share_the_commonest_seed():
    """One stray pair must not turn four seeds, too few for a verdict, into five."""
    star = {(0, 1): 0.1, (0, 2): 0.4, (0, 3): 0.2, (0, 4): 0.3}
    assert pairs_interval_of("accuracy", {**star, (1, 4): 9.0}) == t_interval(list(star.values()))
    assert pairs_interval_of("accuracy", {(0, 1): 9.0, (1, 2): 0.1, (2, 3): 0.3}) == t_interval([9.0, 0.1])
