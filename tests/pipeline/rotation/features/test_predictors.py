"""Predictors of transfer: the pinned subspace, rank correlations, and the permutation test of the share."""

import pytest
import torch

from dyck_models import generic
from gaugeport.pipeline.rotation.features.predictors import predictor_rows, reader_span, share_in, share_test
from gaugeport.pipeline.rotation.toy.steering_vectors import output_readers


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


def test_pinned_subspace_is_what_the_heads_tell_apart():
    model = generic(hidden_size=32, num_attention_heads=2)
    readers = output_readers(model)
    basis = reader_span(readers)
    assert basis.shape == (32, 8 + 8 + 1)
    gain = model.model.norm.weight.detach()
    for head, k in ((model.lm_head, 9), (model.depth_head, 9), (model.valid_head, 2)):
        w = head.weight.detach()[:k] * gain
        assert share_in(w[0] - w[k - 1], basis) == pytest.approx(1, abs=1e-6)

    free = torch.randn(32, generator=gen()).double()
    free -= basis @ (basis.T @ free)
    assert share_in(free, basis) == pytest.approx(0, abs=1e-12)
    assert share_in(free + basis[:, 3] * free.norm(), basis) == pytest.approx(0.5)
    assert share_in(free, torch.zeros(32, 0, dtype=torch.float64)) == 0
    unused = model.lm_head.weight.detach()[20] * gain
    assert share_in(unused, basis) < 1, "rows of tokens that never occur are not among them"


def test_folding_keeps_the_readers():
    sizes = {"hidden_size": 32, "num_attention_heads": 2}
    readers, folded = (output_readers(generic(**sizes, folded=folded)) for folded in (False, True))
    torch.testing.assert_close(folded, readers)


def test_rank_correlations_with_closeness_and_with_ratio():
    rows = predictor_rows("x", [1, 2, 3, 9, 4], [9.0, 3.0, 1.5, None, 1.0])
    assert {r["metric"]: r["value"] for r in rows} == {
        "x_points": 4,
        "x_transfer_correlation": pytest.approx(1),
        "x_ratio_correlation": pytest.approx(-1),
    }
    rows = predictor_rows("x", [1, 2, 3], [-1.0, 0.2, 0.9])
    values = {r["metric"]: r["value"] for r in rows}
    assert values["x_transfer_correlation"] == values["x_ratio_correlation"] == pytest.approx(1)


@pytest.mark.parametrize(
    ("values", "ratios"),
    [([0, 0, 0], [1.0, 2.0, 3.0]), ([1, 2], [1.0, 2.0]), ([1, 2, 3], [None, 1.0, 2.0])],
)
def test_constant_or_too_few_values_have_no_correlation(values, ratios):
    assert [r["metric"] for r in predictor_rows("x", values, ratios)] == ["x_points"]


def test_share_test_detects_a_planted_share_and_ignores_depth():
    sites = [f"s{i // 6}" for i in range(24)]
    shares = [0.1 * (i % 6) + i // 6 for i in range(24)]
    rho, p = share_test(shares, shares, sites, 499)
    assert rho == pytest.approx(1) and p == pytest.approx(1 / 500)
    depth_only = [float(i // 6) for i in range(24)]  # the same for every share at a depth
    rho, p = share_test(shares, depth_only, sites, 499)
    assert rho > 0.9 and p > 0.5


def test_share_test_keeps_its_level():
    p = []
    for seed in range(200):
        y = torch.randn(12, generator=gen(seed)).tolist()
        p.append(share_test(list(range(12)), y, ["a"] * 6 + ["b"] * 6, 99, seed)[1])
    assert 0.01 <= sum(x <= 0.05 for x in p) / 200 <= 0.10, "binomial: 5 % of 200 ± 3 standard errors"


def test_two_points_are_too_few_for_a_share_test():
    with pytest.raises(ValueError, match="2 vectors and sites; allowed: 3 or more"):
        share_test([1, 2], [1, 2], ["a", "a"], 9)
