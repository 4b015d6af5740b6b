"""Agreement of top-k lists: by hand, and by chance over all lists."""

import itertools

import numpy as np
import pytest
import torch
from scipy import stats

from gaugeport.groups import SignedPermutation
from gaugeport.pipeline.measures.list_agreement import agreement_by_chance, compare_lists, top_indices


def test_top_and_agreement_by_hand():
    a = torch.tensor([0.1, -5.0, 3.0, 0.0, -2.0])
    assert top_indices(a, 3).tolist() == [1, 2, 4]
    # 4→0, 1→1 with its sign reversed, 2→4
    g = SignedPermutation(torch.tensor([4, 1, 0, 3, 2]), torch.tensor([1, -1, 1, 1, 1]))
    b = torch.tensor([2.0, -4.0, 7.0, 0.0, 1.0])
    agreement = compare_lists(a, b, g, 3, signed=True)
    assert agreement["precision"] == pytest.approx(2 / 3) and agreement["jaccard"] == pytest.approx(2 / 4)
    assert agreement["sign_agreement"] == pytest.approx(1 / 3)  # −2 against 2, 5 against −4, 3 against 1
    expected = stats.spearmanr([2.0, 5.0, 0.1, 0.0, 3.0], [2.0, 4.0, 7.0, 0.0, 1.0]).statistic
    assert agreement["rank_correlation"] == pytest.approx(expected)
    assert "sign_agreement" not in compare_lists(a, b, g, 3)


def test_ties_keep_the_order_of_the_indices():
    assert top_indices(torch.ones(5), 3).tolist() == [0, 1, 2]


def test_chance_is_the_mean_over_all_lists():
    n, k = 7, 3
    subsets = [set(s) for s in itertools.combinations(range(n), k)]
    assert agreement_by_chance("jaccard", n, k) == pytest.approx(
        np.mean([len(s & {0, 1, 2}) / len(s | {0, 1, 2}) for s in subsets])
    )
    assert agreement_by_chance("precision", n, k) == pytest.approx(
        np.mean([len(s & {0, 1, 2}) / k for s in subsets])
    )
    assert agreement_by_chance("jaccard", n, n) == 1


@pytest.mark.parametrize("k", [0, 33])
def test_lists_longer_than_the_scores_are_refused(k):
    with pytest.raises(ValueError, match=f"the top {k} of 32; allowed: 1 to 32"):
        top_indices(torch.ones(32), k)
