"""Check group laws, membership and actions of gauge elements against their definitions."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gauge_elements import ALL, DISCRETE, LINEAR, close, gen
from gaugeport.groups import (
    GROUPS,
    AffineGauge,
    Element,
    GlobalSignPermutation,
    MeanPreservingOrthogonal,
    Orthogonal,
    Permutation,
    SignedPermutation,
    compose,
    contains,
    smallest_common_group,
)

widths = st.integers(2, 12)
seeds = st.integers(0, 2**31 - 1)
quick = settings(max_examples=25, deadline=None)


def rows(d, generator, n=5):
    return torch.randn(n, d, generator=generator, dtype=torch.float64)


def same(g, h):
    """Whether two elements are the same map, by their action on d + 1 affinely independent points."""
    points = torch.cat([torch.eye(g.size, dtype=torch.float64), torch.zeros(1, g.size, dtype=torch.float64)])
    return close(g.act(points), h.act(points), 1e-10)


@pytest.mark.parametrize("cls", ALL)
@quick
@given(d=widths, seed=seeds)
def test_group_laws_hold(cls, d, seed):
    generator = gen(seed)
    f, g, h = (cls.random(d, generator) for _ in range(3))
    one = cls.identity(d)
    assert same(compose(f, compose(g, h)), compose(compose(f, g), h))
    assert same(compose(g, one), g) and same(compose(one, g), g)
    assert same(compose(g, g.inverse()), one) and same(compose(g.inverse(), g), one)
    assert same(compose(f, g).inverse(), compose(g.inverse(), f.inverse()))
    assert type(compose(f, g)) is type(f.inverse()) is type(one) is cls
    if cls in DISCRETE:
        assert compose(f, compose(g, h)) == compose(compose(f, g), h)
        assert compose(g, g.inverse()) == one and compose(g, one) == g


@pytest.mark.parametrize("first", ALL)
@pytest.mark.parametrize("second", ALL)
@quick
@given(d=widths, seed=seeds)
def test_composition_acts_like_both_elements_in_turn(first, second, d, seed):
    generator = gen(seed)
    g, h = first.random(d, generator), second.random(d, generator)
    x = rows(d, generator)
    both = compose(g, h)
    assert close(both.act(x), g.act(h.act(x)), 1e-11)
    smaller = [c for c in ALL if contains(c.group, first) and contains(c.group, second)]
    assert type(both) is smaller[0]  # ALL is ordered so that the first that holds both is the smallest


def test_smallest_common_group_of_two_classes():
    cases = {
        (Permutation, Permutation): Permutation,
        (Permutation, GlobalSignPermutation): GlobalSignPermutation,
        (GlobalSignPermutation, SignedPermutation): SignedPermutation,
        (GlobalSignPermutation, MeanPreservingOrthogonal): MeanPreservingOrthogonal,
        (SignedPermutation, MeanPreservingOrthogonal): Orthogonal,  # a sign flip moves the all-ones direction
        (MeanPreservingOrthogonal, Orthogonal): Orthogonal,
    }
    for (a, b), joint in cases.items():
        g, h = a.random(6, gen(0)), b.random(6, gen(1))
        assert smallest_common_group(g, h) is smallest_common_group(h, g) is joint


def test_contains_follows_the_inclusions_of_the_groups():
    members_of = {
        "permutation": {Permutation},
        "global_sign_permutation": {Permutation, GlobalSignPermutation},
        "signed_permutation": set(DISCRETE),
        "mean_preserving_orthogonal": {Permutation, GlobalSignPermutation, MeanPreservingOrthogonal},
        "orthogonal": set(LINEAR),
        "affine": set(ALL),
    }
    assert set(members_of) == set(GROUPS)
    for group, members in members_of.items():
        for cls in ALL:
            assert contains(group, cls) is (cls in members)
    with pytest.raises(ValueError, match=r"unknown group 'hyperoctahedral'; allowed: permutation"):
        contains("hyperoctahedral", Permutation)


GROUPS_WITHOUT_SIGNS = {"permutation", "global_sign_permutation", "signed_permutation"}
GROUPS_OF_ROTATIONS = {"orthogonal", "affine"}


@pytest.mark.parametrize(
    ("sign", "groups"),
    [
        ([1, 1, 1, 1], {*GROUPS_WITHOUT_SIGNS, "mean_preserving_orthogonal"}),
        ([-1, -1, -1, -1], {*GROUPS_WITHOUT_SIGNS - {"permutation"}, "mean_preserving_orthogonal"}),
        ([1, 1, 1, -1], {"signed_permutation"}),
        ([-1, -1, 1, -1], {"signed_permutation"}),
    ],
)
def test_signed_permutations_are_members_by_their_signs(sign, groups):
    g = SignedPermutation(torch.tensor([3, 1, 0, 2]), torch.tensor(sign))
    assert {name for name in GROUPS if contains(name, g)} == groups | GROUPS_OF_ROTATIONS


def test_rotations_are_members_by_the_direction_they_fix():
    for seed in range(4):
        fixing = MeanPreservingOrthogonal.random(4, gen(seed))
        assert contains("mean_preserving_orthogonal", Orthogonal(fixing.matrix))
        assert not contains("mean_preserving_orthogonal", Orthogonal.random(4, gen(seed)))
    mirrored = torch.diag(torch.tensor([1.0, 1.0, 1.0, -1.0]))
    assert not contains("mean_preserving_orthogonal", Orthogonal(mirrored))
    # a matrix is never taken for a permutation: gains need the permutation itself
    assert not any(contains(name, Orthogonal.identity(4)) for name in GROUPS_WITHOUT_SIGNS)
    assert not contains("orthogonal", AffineGauge.identity(4))


@pytest.mark.parametrize("cls", LINEAR)
@quick
@given(d=widths, seed=seeds)
def test_dense_form_agrees_with_the_action(cls, d, seed):
    generator = gen(seed)
    g, x = cls.random(d, generator), rows(d, generator)
    q = g.dense()
    assert close(g.act(x), x @ q.T)
    assert close(q @ q.T, torch.eye(d, dtype=torch.float64))
    assert close(g.inverse().dense(), q.T)


def test_signed_permutation_moves_each_entry_as_defined():
    g = SignedPermutation(torch.tensor([2, 0, 1]), torch.tensor([1, -1, -1]))
    x = torch.tensor([10.0, 20.0, 30.0])
    assert g.act(x).tolist() == [30.0, -10.0, -20.0]
    assert g.act_gain(x).tolist() == [30.0, 10.0, 20.0]
    assert g.dense().tolist() == [[0, 0, 1], [-1, 0, 0], [0, -1, 0]]
    assert g.inverse().act(g.act(x)).tolist() == x.tolist()
    assert g.without_signs() == Permutation(torch.tensor([2, 0, 1]))


def test_composition_order_matters():
    g, h = (Permutation(torch.tensor(p)) for p in ([1, 0, 2], [0, 2, 1]))
    assert compose(g, h).act(torch.arange(3)).tolist() == g.act(h.act(torch.arange(3))).tolist() == [2, 0, 1]
    assert compose(g, h) != compose(h, g)


@pytest.mark.parametrize("cls", LINEAR)
@pytest.mark.parametrize("axis", [0, 1, 2, -1, -2, -3])
def test_elements_act_on_any_axis(cls, axis):
    d = 6
    shape = [2, 3, 4]
    shape[axis] = d
    g, x = cls.random(d, gen(1)), torch.randn(shape, generator=gen(2), dtype=torch.float64)
    assert close(g.act(x, axis), (x.movedim(axis, -1) @ g.dense().T).movedim(-1, axis))
    if cls in DISCRETE:
        assert torch.equal(g.act_gain(x, axis), x.movedim(axis, -1)[..., g.perm].movedim(-1, axis))


@pytest.mark.parametrize("cls", DISCRETE)
@quick
@given(d=widths, seed=seeds)
def test_second_moments_are_permuted_only(cls, d, seed):
    generator = gen(seed)
    g, x = cls.random(d, generator), rows(d, generator)
    assert torch.equal(g.act(x).square().mean(0), g.act_gain(x.square().mean(0)))
    assert torch.equal(g.act(x).abs().amax(0), g.act_gain(x.abs().amax(0)))


@pytest.mark.parametrize("cls", [Orthogonal, MeanPreservingOrthogonal])
def test_rotations_refuse_magnitudes(cls):
    with pytest.raises(
        ValueError, match="Allowed groups: permutation, global_sign_permutation, signed_permutation"
    ):
        cls.random(4, gen(0)).act_gain(torch.ones(4))


@pytest.mark.parametrize("cls", DISCRETE)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_inverse_undoes_the_action_exactly_in_every_dtype(cls, dtype):
    g, x = cls.random(64, gen(0)), torch.randn(8, 64, generator=gen(1)).to(dtype)
    moved = g.act(x)
    assert moved.dtype == dtype
    assert torch.equal(g.inverse().act(moved), x)
    assert torch.equal(moved.double(), g.act(x.double()))


def test_affine_has_no_action_on_magnitudes_and_no_matrix():
    g = AffineGauge.random(4, gen(0))
    with pytest.raises(ValueError, match=r"affine gauge does not act on gains.*\.linear"):
        g.act_gain(torch.ones(4))
    with pytest.raises(ValueError, match=r"affine gauge has no matrix.*\.linear"):
        g.dense()


def test_elements_must_define_every_operation():
    with pytest.raises(TypeError, match="abstract"):
        Element()


def test_affine_rounds_bfloat16_once():
    g, x = AffineGauge.random(32, gen(1)), rows(32, gen(2)).to(torch.bfloat16)
    assert torch.equal(g.act(x), g.act(x.to(torch.float32)).to(torch.bfloat16))


def test_affine_applies_linear_part_then_shift():
    linear, shift = SignedPermutation.random(5, gen(0)), torch.arange(5.0)
    g, x = AffineGauge(linear, shift), rows(5, gen(1))
    assert close(g.act(x), linear.act(x) + shift)
    assert close(g.act(x.T, axis=0), g.act(x).T)
    h = AffineGauge(Orthogonal.random(5, gen(2)), torch.ones(5))
    assert close(compose(g, h).act(x), linear.act(h.act(x)) + shift)
    assert close(compose(g, linear).act(x), linear.act(linear.act(x)) + shift)
    assert close(compose(linear, h).act(x), linear.act(h.act(x)))
    assert close(g.inverse().act(g.act(x)), x)


def test_affine_scales_between_linear_part_and_shift():
    g = AffineGauge(SignedPermutation.random(5, gen(0)), torch.arange(5.0), 2.5)
    h = AffineGauge(Orthogonal.random(5, gen(2)), torch.ones(5), 0.3)
    x = rows(5, gen(1))
    assert close(g.act(x), 2.5 * g.linear.act(x) + g.shift)
    assert close(g.act(x.T, axis=0), g.act(x).T)
    for first, second in ((g, h), (h, g), (g, h.linear), (h.linear, g)):
        assert close(compose(second, first).act(x), second.act(first.act(x)))
    assert compose(g, h).scale == 2.5 * 0.3
    assert close(g.inverse().act(g.act(x)), x) and close(g.act(g.inverse().act(x)), x)
    unscaled = AffineGauge(g.linear, g.shift)
    assert unscaled != g and hash(unscaled) != hash(g) and not close(unscaled.act(x), g.act(x), 0.1)
