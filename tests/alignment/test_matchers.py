"""Matchers are as good as scipy's solutions, and recover planted gauges where theory says so."""

import pytest
import torch
from scipy.optimize import linear_sum_assignment

from gaugeport.alignment.matchers import (
    MATCHERS,
    Matcher,
    combinations,
    default_matchers,
    hungarian_abs,
    hungarian_global_sign,
    hungarian_raw,
    match,
)
from gaugeport.groups import (
    GlobalSignPermutation,
    MeanPreservingOrthogonal,
    Orthogonal,
    Permutation,
    SignedPermutation,
    compose,
)
from places import ROOT
from tiny_models import gen

D = 40


def evidence_for(g, noise, generator):
    """Return Q plus noise: the correlations if A's coordinates are decorrelated and x_B = g·x_A."""
    d = g.size
    return g.dense() + noise * torch.randn(d, d, generator=generator, dtype=torch.float64)


def optimum(score):
    rows, columns = linear_sum_assignment(-score.numpy())
    return float(score.numpy()[rows, columns].sum())


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("d", [1, 2, 3, 31])
def test_objectives_equal_scipys(d, seed):
    c = torch.randn(d, d, generator=gen(seed), dtype=torch.float64)
    rows = torch.arange(d)
    raw, either, marginal = hungarian_raw(c), hungarian_global_sign(c), hungarian_abs(c)
    assert raw.objective == pytest.approx(optimum(c), abs=1e-12 * d)
    assert either.objective == pytest.approx(max(optimum(c), optimum(-c)), abs=1e-12 * d)
    assert marginal.objective == pytest.approx(optimum(c.abs()), abs=1e-12 * d)
    for result in (raw, either, marginal):  # the objective is that of the gauge: sum_i s_i C[i, π(i)]
        g = result.gauge
        assert float((g.sign * c[rows, g.perm]).sum()) == pytest.approx(result.objective, abs=1e-12 * d)
    assert type(raw.gauge) is Permutation and type(either.gauge) is GlobalSignPermutation
    assert type(marginal.gauge) is SignedPermutation


RECOVERS = {
    ("permutation", "hungarian_raw"): Permutation,
    ("permutation", "hungarian_abs"): Permutation,
    ("global_sign_permutation", "hungarian_raw"): GlobalSignPermutation,
    ("signed_permutation", "hungarian_abs"): SignedPermutation,
    ("signed_permutation", "hungarian_raw"): Permutation,
    ("mean_preserving_orthogonal", "procrustes"): MeanPreservingOrthogonal,
    ("orthogonal", "procrustes"): Orthogonal,
}


def test_every_combination_is_tested():
    assert set(RECOVERS) == set(combinations())


@pytest.mark.parametrize("pair", RECOVERS)
@pytest.mark.parametrize("seed", range(4))
def test_planted_elements_are_recovered_from_noise(pair, seed):
    generator = gen(seed)
    g = RECOVERS[pair].random(D, generator)
    result = match(evidence_for(g, 0.1, generator), *pair)
    if pair[1] == "procrustes":
        # first order: the antisymmetric part of the noise, entries of 0.1/√2
        assert float((result.gauge.matrix - g.matrix).norm()) < 0.1 * D
        assert float((match(g.dense(), *pair).gauge.matrix - g.matrix).abs().max()) < 1e-12
    else:
        assert torch.equal(result.gauge.perm, g.perm) and torch.equal(result.gauge.sign, g.sign)
        assert result.objective > 0 and float(result.margin.min()) > 0
    assert result.gauge.group == pair[0]


@pytest.mark.parametrize("sign", [1, -1])
def test_global_sign_is_recovered_and_raw_matching_fails_on_a_negative_one(sign):
    g = GlobalSignPermutation(torch.randperm(D, generator=gen(1)), torch.tensor(sign))
    assert hungarian_global_sign(evidence_for(g, 0.1, gen(2))).gauge == g
    assert bool((hungarian_raw(evidence_for(g, 0.1, gen(2))).gauge.perm == g.perm).all()) is (sign == 1)


@pytest.mark.parametrize("p", [0.0, 0.25, 0.5, 0.75, 1.0])
def test_raw_matching_is_capped_at_the_share_of_positive_signs(p):
    """On decorrelated coordinates only partners are not noise: positive ones are chosen, negative ones never.

    At most one negative row can be forced on its partner (a single row left with a single column).
    """
    d, generator = 200, gen(0)
    sign = torch.ones(d)
    sign[: round((1 - p) * d)] = -1
    g = SignedPermutation(
        torch.randperm(d, generator=generator), sign[torch.randperm(d, generator=generator)]
    )
    c = evidence_for(g, 0.02, generator)
    raw, marginal = match(c, "signed_permutation", "hungarian_raw"), hungarian_abs(c)
    assert abs(float((raw.gauge.perm == g.perm).double().mean()) - p) <= 1 / d
    assert marginal.gauge == g


def test_permutation_with_hungarian_abs_drops_the_signs():
    g = SignedPermutation.random(D, gen(3))
    c = evidence_for(g, 0.1, gen(4))
    dropped, kept = match(c, "permutation", "hungarian_abs"), match(c, "signed_permutation", "hungarian_abs")
    assert dropped.gauge == Permutation(g.perm) and type(dropped.gauge) is Permutation
    assert torch.equal(dropped.margin, kept.margin) and dropped.objective == kept.objective


def test_margins_are_partner_score_minus_best_other_score():
    c = torch.tensor([[0.9, -0.8, 0.0], [0.7, 0.1, 0.2], [0.0, 0.1, -0.5]])
    result = hungarian_abs(c)
    # |C|: 0→1, 1→0, 2→2 gives 2.0; 0→0, 1→1 would give 1.5
    assert result.gauge.perm.tolist() == [1, 0, 2] and result.gauge.sign.tolist() == [-1, 1, -1]
    assert result.margin.tolist() == pytest.approx([0.8 - 0.9, 0.7 - 0.2, 0.5 - 0.1], abs=1e-6)
    raw = hungarian_raw(c)
    rows = torch.arange(3)
    for i, margin in enumerate(raw.margin.tolist()):
        others = [float(c[i, j]) for j in range(3) if j != int(raw.gauge.perm[i])]
        assert margin == pytest.approx(float(c[i, raw.gauge.perm[i]]) - max(others), abs=1e-6)
    negative = hungarian_global_sign(-torch.eye(3))
    assert negative.gauge.sign.tolist() == [-1] * 3 and negative.margin.tolist() == [1.0] * 3
    assert torch.equal(negative.gauge.perm, rows)
    assert hungarian_abs(torch.tensor([[-0.3]])).margin.tolist() == pytest.approx([0.3])


@pytest.mark.parametrize("seed", range(5))
def test_sign_marginalized_matching_is_equivariant_under_plants(seed):
    """match(h_B·C·h_A⁻¹) = h_B · match(C) · h_A⁻¹ exactly, whether the match is right or wrong."""
    generator = gen(seed)
    c = evidence_for(SignedPermutation.random(D, generator), 0.5, generator)  # noise as large as errors need
    h_a, h_b = (SignedPermutation.random(D, generator) for _ in range(2))
    moved = h_b.act(h_a.act(c, axis=1), axis=0)
    plain, planted = hungarian_abs(c), hungarian_abs(moved)
    assert planted.gauge == compose(h_b, compose(plain.gauge, h_a.inverse()))
    assert planted.objective == pytest.approx(plain.objective, abs=1e-12 * D)
    assert torch.allclose(planted.margin, h_b.act_gain(plain.margin))
    raw_a, raw_b = (
        match(c, "permutation", "hungarian_raw").gauge,
        match(moved, "permutation", "hungarian_raw").gauge,
    )
    assert (
        raw_b.perm.tolist() != compose(h_b, compose(raw_a, h_a.inverse())).perm.tolist()
    )  # negative control


@pytest.mark.parametrize(
    "pair",
    [
        ("orthogonal", "hungarian_abs"),
        ("permutation", "procrustes"),
        ("affine", "procrustes"),
        ("signed_permutation", "weights"),
        ("global_sign_permutation", "hungarian_abs"),
        ("B_d", "hungarian_abs"),
    ],
)
def test_invalid_pairs_are_rejected(pair):
    with pytest.raises(
        ValueError,
        match=f"matcher '{pair[1]}' does not recover an element of '{pair[0]}'; allowed: permutation with",
    ):
        match(torch.eye(3), *pair)


@pytest.mark.parametrize("pair", [p for p in combinations() if "orthogonal" not in p[0]])
def test_match_follows_planted_signs_unless_its_record_says_otherwise(pair):
    generator, (group, matcher) = gen(0), pair
    c = evidence_for(SignedPermutation.random(D, generator), 0.5, generator)
    signs = SignedPermutation(torch.arange(D), SignedPermutation.random(D, generator).sign)
    before, after = match(c, group, matcher).gauge, match(signs.act(c, axis=0), group, matcher).gauge
    follows = torch.equal(after.perm, before.perm) and torch.equal(after.sign, signs.sign * before.sign)
    assert follows is (group not in MATCHERS[matcher].depends_on_signs)


def test_every_group_has_one_default_matcher():
    defaults = [group for m in MATCHERS.values() for group in m.default_for]
    assert sorted(defaults) == sorted(default_matchers()) == sorted({group for group, _ in combinations()})
    assert set(default_matchers().items()) <= set(combinations())


def test_every_matcher_can_be_composed():
    configs = {path.stem for path in (ROOT / "conf" / "matcher").glob("*.yaml")}
    assert configs == {*MATCHERS, "weights", "oracle", "none"}


@pytest.mark.parametrize("field", ["default_for", "depends_on_signs"])
def test_record_may_only_name_groups_that_it_recovers(field):
    with pytest.raises(ValueError, match=f"{field} names orthogonal; allowed: permutation"):
        Matcher("new", {"permutation": hungarian_raw}, **{field: ("orthogonal",)})


@pytest.mark.parametrize("bad", [torch.full((3, 3), float("nan")), torch.ones(2, 3)])
def test_bad_evidence_is_rejected(bad):
    for matcher in (hungarian_raw, hungarian_abs, hungarian_global_sign):
        with pytest.raises(ValueError):
            matcher(bad)
