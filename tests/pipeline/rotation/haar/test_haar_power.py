"""Power of the tests: what the calibrated ones reject, what the naive one does not, and bad input."""

import itertools

import pytest
import torch

from gaugeport.pipeline.rotation.haar.null import draw_null
from gaugeport.pipeline.rotation.haar.power import ALTERNATIVES, rejection_rates, signed_permutation
from gaugeport.pipeline.rotation.haar.statistics import (
    GROUPS,
    eigenangles,
    free_part,
    free_width,
    rotation_statistics,
)

MEAN_PRESERVING = "mean_preserving_orthogonal"


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


def test_naive_test_never_rejects_haar_and_sees_gross_departures_only():
    """Eigen-angles repel, so the test that takes them as independent never rejects, single or pooled."""
    null = draw_null(32, 40, seed=2)
    rates = rejection_rates(32, "haar", 40, null, seed=3)
    assert rates["naive_ks"] == rates["naive_ks_pooled"] == 0
    assert rejection_rates(32, "near_identity", 40, null, seed=3)["naive_ks"] == 1


@pytest.mark.parametrize("group", GROUPS)
def test_signed_permutations_are_rejected_by_entries_and_hardly_by_eigenangles(group):
    null = draw_null(24, 99, seed=4, group=group)
    rates = rejection_rates(24, "signed_permutation", 60, null, seed=5)
    assert rates["distance_to_signed_permutation"] == rates["largest_entry"] == 1
    assert rates["naive_ks"] <= rates["ks_distance"] < 1
    unsigned = rejection_rates(24, "permutation", 60, null, seed=5)
    assert unsigned["distance_to_permutation"] == 1


@pytest.mark.parametrize(("group", "name"), itertools.product(GROUPS, ALTERNATIVES))
def test_alternatives_are_what_their_names_say(group, name):
    r = ALTERNATIVES[name](13, group, gen(8))
    measured = rotation_statistics(r, group)  # which checks that the mean is fixed where the group fixes it
    assert measured["orthogonality_error"] < 1e-12
    if name == "low_rank_identity":
        m = free_width(13, group)
        assert int((eigenangles(free_part(r, group)) < 1e-6).sum()) in (m // 6, m // 6 + 1)
    if name == "near_identity":
        assert measured["distance_from_identity"] < 0.5


def test_signed_permutations_have_either_sign():
    assert rotation_statistics(signed_permutation(13, "orthogonal", gen(9)))["largest_entry"] == 1
    drawn = (signed_permutation(13, MEAN_PRESERVING, gen(s)) for s in range(20))
    traces = {float(free_part(r, MEAN_PRESERVING).trace().round()) for r in drawn}
    assert min(traces) < 0 < max(traces), "either sign on the complement of the all-ones vector"


@pytest.fixture(scope="module")
def null_of_width_12():
    return draw_null(12, 5, seed=1)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"alternative": "cycle"}, "alternative 'cycle'; allowed: haar, signed_permutation"),
        ({"level": 1.5}, "level=1.5; allowed: between 0 and 1"),
        ({"draws": 3}, "draws=3; allowed: 10 or more"),
        ({"d": 8}, "width 8 with a null of 12 eigen-angles; allowed: a null of 8"),
    ],
)
def test_bad_settings_are_refused(null_of_width_12, given, words):
    settings = {"d": 12, "alternative": "haar", "draws": 10, "null": null_of_width_12, **given}
    with pytest.raises(ValueError) as e:
        rejection_rates(**settings)
    assert words in str(e.value)
