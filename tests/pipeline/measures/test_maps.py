"""Maps of each group: planted ones are recovered, larger groups contain smaller ones, few tokens overfit."""

import pytest
import torch

from gaugeport.groups import Orthogonal, SignedPermutation
from gaugeport.pipeline.measures.maps import MATCHER_OF_GROUP, fit_map, fit_ridge, identity_map, shrink

D = 24


def rows(seed, n=2000):
    gen = torch.Generator().manual_seed(seed)
    scale = torch.linspace(0.5, 2.0, D)
    return torch.randn(n, D, generator=gen) * scale + torch.randn(D, generator=gen)


def unexplained(guess, truth):
    return float(((guess - truth) ** 2).sum() / ((truth - truth.mean(0)) ** 2).sum())


def test_a_planted_signed_permutation_is_carried_both_ways():
    g = SignedPermutation.random(D, torch.Generator().manual_seed(1))
    a = rows(0)
    b = 2.5 * g.act(a) + 3.0
    for group in ("signed_permutation", "orthogonal", "affine"):
        m = fit_map(group, a, b)
        assert unexplained(m.forward(a), b) < 1e-4 and unexplained(m.backward(b), a) < 1e-4
    assert fit_map("signed_permutation", a, b).gauge == g
    assert unexplained(fit_map("permutation", a, b).forward(a), b) > 0.5, "half of the signs are wrong"


def test_rotation_is_fitted_only_by_rotations():
    q = Orthogonal.random(D, torch.Generator().manual_seed(2))
    a = rows(0)
    b = q.act(a)
    assert unexplained(fit_map("orthogonal", a, b).forward(a), b) < 1e-6
    assert unexplained(fit_map("signed_permutation", a, b).forward(a), b) > 0.5


def test_plant_prevents_ties_and_leaves_no_trace():
    a = rows(0)
    plant = SignedPermutation.random(D, torch.Generator().manual_seed(3))
    for group in ("signed_permutation", "orthogonal", "affine"):
        assert unexplained(fit_map(group, a, a, plant).forward(a), a) < 1e-4
    assert unexplained(fit_map("permutation", a, a).forward(a), a) < 1e-6, (
        "without a plant, ties make raw S_d right"
    )
    assert unexplained(fit_map("permutation", a, a, plant).forward(a), a) > 0.5


def test_identity_map_carries_means_and_scale():
    a = rows(0)
    m = identity_map(a, 2.5 * a + 3.0)
    assert m.scale == pytest.approx(2.5) and m.gauge == SignedPermutation.identity(D)
    assert unexplained(m.forward(a), 2.5 * a + 3.0) < 1e-10
    g = SignedPermutation.random(D, torch.Generator().manual_seed(1))
    assert unexplained(identity_map(a, g.act(a)).forward(a), g.act(a)) > 0.5


def test_shrunk_map_explains_rho_squared_and_gauge_2_rho_minus_1():
    """B is half A and half noise: ρ = ½, so the gauge explains 0 and the shrunk map a quarter."""
    gen = torch.Generator().manual_seed(4)
    a, noise = (torch.randn(40_000, D, generator=gen) for _ in range(2))
    b = 3 * (0.5 * a + 0.75**0.5 * noise) + 1
    m = identity_map(a, b)
    small = shrink(m, a, b)
    assert 1 - unexplained(m.forward(a), b) == pytest.approx(0.0, abs=0.01)
    assert 1 - unexplained(small.forward(a), b) == pytest.approx(0.25, abs=0.01)
    assert small.scale == pytest.approx(0.5 * m.scale, rel=0.01)
    assert torch.equal(small.to_b, m.to_b) and torch.equal(small.mean_b, m.mean_b)
    torch.testing.assert_close(small.backward(small.forward(a)), a)
    affine = fit_map("affine", a[:40], b[:40])
    assert shrink(affine, a[:40], b[:40]) is affine, "the ridge penalty has shrunk it already"


def test_few_tokens_hurt_the_affine_map_on_held_out_rows():
    """B is a noisy copy: B_d cannot overfit, but the ridge map has d² parameters."""
    a, test = rows(0, 40), rows(5)
    noise = torch.Generator().manual_seed(4)
    b = a + 0.3 * torch.randn(a.shape, generator=noise)
    signed, affine = (fit_map(g, a, b) for g in ("signed_permutation", "affine"))
    assert unexplained(signed.forward(test), test) < unexplained(affine.forward(test), test)


def test_ridge_is_least_squares_where_there_is_no_noise():
    a = rows(0)
    m = torch.randn(D, D, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
    found = fit_ridge(a.double(), a.double() @ m.T)
    assert float((found - m).norm() / m.norm()) < 1e-3


def test_bad_input():
    with pytest.raises(ValueError, match=f"allowed: {', '.join(MATCHER_OF_GROUP)}"):
        fit_map("unitary", rows(0), rows(0))
    with pytest.raises(ValueError, match="paired rows"):
        fit_map("affine", rows(0), rows(0, 10))
