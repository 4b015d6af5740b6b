"""Nulls and p-values: calibrated tests keep their level, and a null is drawn once."""

import math

import pytest
import torch
from scipy.stats import betabinom, binom

from gaugeport.alignment.matchers import procrustes
from gaugeport.groups import haar_matrix
from gaugeport.pipeline.rotation.haar import null as haar_null
from gaugeport.pipeline.rotation.haar.null import draw_null, p_value, pooled_p_value, stored_null
from gaugeport.pipeline.rotation.haar.statistics import TAILS, orthogonality_error, rotation_statistics
from gaugeport.pipeline.store.store import Store

D = 12
MEAN_PRESERVING = "mean_preserving_orthogonal"


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def null():
    return draw_null(D, 999, seed=1)


def test_null_on_a_support_is_the_same_for_any_directions(null):
    everywhere = null.supported_distance(D)
    assert torch.allclose(everywhere, null.statistics["distance_from_identity"], atol=1e-12)
    for rank in (1, 5):
        squares = null.supported_distance(rank) ** 2
        assert abs(float(squares.mean()) - 1) < 5 * float(squares.std()) / math.sqrt(len(squares))
    with pytest.raises(ValueError, match="rank 13; allowed: 1 to 12"):
        null.supported_distance(D + 1)


def test_p_values_count_draws():
    draws = torch.arange(1.0, 20.0)
    assert p_value(0, draws, "small") == 1 / 20 and p_value(0, draws, "large") == 1
    assert p_value(18.5, draws, "large") == 2 / 20 and p_value(18.5, draws, "both") == 4 / 20
    assert p_value(10, draws, "both") == 1
    with pytest.raises(ValueError, match="tail 'left'; allowed: both, large, small"):
        p_value(0, draws, "left")


def likely(rejected, level, tail, n, size):
    """Return whether so many false positives of n tests are likely; a null of ``size`` is random too."""
    tails = 2 if tail == "both" else 1
    spacings = tails * math.floor(level / tails * (size + 1))
    low, high = betabinom(n, spacings, size + 1 - spacings).interval(0.9999)
    return low <= rejected <= high


def test_planted_haar_rotations_are_rejected_at_the_nominal_rate(null):
    """Procrustes finds the rotation between two copies of the same rows; 5 % of rotations are rejected."""
    noise, rejected = gen(5), dict.fromkeys(TAILS, 0)
    rows = torch.randn(40, D, generator=noise, dtype=torch.float64)
    for _ in range(200):
        planted = haar_matrix(D, noise)
        fitted = procrustes((rows @ planted.T).T @ rows).gauge.dense()
        assert float((fitted - planted).abs().max()) < 1e-10 and orthogonality_error(fitted) <= 1e-6
        measured = rotation_statistics(fitted)
        for name, tail in TAILS.items():
            rejected[name] += p_value(measured[name], null.statistics[name], tail) <= 0.05
    for name, n in rejected.items():
        assert likely(n, 0.05, TAILS[name], 200, 999), (name, n)


@pytest.mark.parametrize("tail", ["both", "large"])
def test_pooling_keeps_the_level_however_few_the_draws(tail):
    values = torch.randn(400, 25, generator=gen(6), dtype=torch.float64).exp()  # skewed, as statistics are
    p = [pooled_p_value(v[:5], v[5:], tail, seed=i, permutations=99) for i, v in enumerate(values)]
    low, high = binom(400, 0.04 if tail == "both" else 0.05).interval(0.9999)  # 2 · 2 of 100, or 5
    assert low <= sum(q <= 0.05 for q in p) <= high


def test_pooling_detects_what_single_matrices_do_not_show():
    draws = torch.randn(200, generator=gen(7), dtype=torch.float64)
    shifted = torch.linspace(0.5, 1.5, 10, dtype=torch.float64)
    assert all(p_value(float(v), draws, "large") > 0.01 for v in shifted)
    assert pooled_p_value(shifted, draws, "large") < 0.01
    assert pooled_p_value(shifted, draws, "small") > 0.99


def test_null_is_drawn_once_for_each_width_size_seed_and_group(tmp_path, monkeypatch):
    store = Store(tmp_path)
    first = stored_null(store, 6, 5, 0)
    monkeypatch.setattr(haar_null, "random_rotation", None)  # drawing raises TypeError from here on
    again = stored_null(store, 6, 5, 0)
    for name in TAILS:
        assert torch.equal(first.statistics[name], again.statistics[name])
    assert torch.equal(first.angles, again.angles) and torch.equal(first.traces, again.traces)
    for other in ((store, 7, 5, 0), (store, 6, 6, 0), (store, 6, 5, 1), (store, 6, 5, 0, MEAN_PRESERVING)):
        with pytest.raises(TypeError):
            stored_null(*other)


def test_bad_nulls_and_pools_are_refused():
    with pytest.raises(ValueError, match="width 1 of group mean_preserving_orthogonal; allowed: 2 or more"):
        draw_null(1, 5, 0, MEAN_PRESERVING)
    with pytest.raises(ValueError, match="draws=0; allowed: 1 or more"):
        draw_null(4, 0, 0)
    with pytest.raises(ValueError, match="no values to pool"):
        pooled_p_value(torch.tensor([]), torch.ones(3), "large")
