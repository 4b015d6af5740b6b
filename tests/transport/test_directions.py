"""Test directions, magnitudes and lost shares against dense matrices and index arithmetic."""

import numpy as np
import pytest
import torch

from gaugeport.groups import (
    GROUPS,
    AffineGauge,
    GlobalSignPermutation,
    MeanPreservingOrthogonal,
    Orthogonal,
    Permutation,
    SignedPermutation,
)
from gaugeport.transport.directions import lost_share, transport_direction, transport_magnitude

D = 24
COORDINATEWISE = (Permutation, GlobalSignPermutation, SignedPermutation)
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def element(cls, d=D, seed=1):
    return cls.random(d, torch.Generator().manual_seed(seed))


def signed(d=D):
    """Draw an element with both signs that moves coordinates: dropped signs or the identity would fail."""
    g = element(SignedPermutation, d)
    assert 0 < int((g.sign < 0).sum()) < d
    assert not torch.equal(g.perm, torch.arange(d))
    return g


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("cls", COORDINATEWISE)
def test_coordinates_move_as_the_convention_says(cls, dtype):
    g, v = element(cls), draw(D).to(dtype)
    moved = transport_direction(v, g)
    assert moved.dtype == dtype
    for i in range(D):
        assert moved[i] == g.sign[i] * v[g.perm[i]]


@pytest.mark.parametrize("cls", [SignedPermutation, Orthogonal, MeanPreservingOrthogonal])
def test_batches_along_any_axis_equal_the_dense_matrix(cls):
    g = element(cls)
    for shape, axis in (
        ((D,), -1),
        ((3, D), 1),
        ((D, 3), 0),
        ((2, D, 5), 1),
        ((2, D, 5), -2),
        ((4, 2, D), -1),
    ):
        v = draw(*shape)
        expected = (v.movedim(axis, -1) @ g.dense().T).movedim(-1, axis)
        torch.testing.assert_close(transport_direction(v, g, axis), expected, rtol=0, atol=1e-12)


def test_other_conventions_give_other_results():
    """Controls: the inverse, dropped signs, and signs applied before the permutation."""
    g, v = signed(), draw(D)
    moved = transport_direction(v, g)
    for other in (g.inverse().act(v), v[g.perm], (v * g.sign)[g.perm]):
        assert not torch.allclose(moved, other)


@pytest.mark.parametrize("cls", [SignedPermutation, Orthogonal])
def test_affine_gauges_move_directions_without_their_shift(cls):
    linear = element(cls)
    g, v = AffineGauge(linear, 10 + draw(D)), draw(3, D)
    assert torch.equal(transport_direction(v, g), linear.act(v))
    assert not torch.allclose(transport_direction(v, g), g.act(v))
    a, b = draw(3, D, seed=2), draw(3, D, seed=3)  # a direction is a difference of points
    torch.testing.assert_close(transport_direction(a - b, g), g.act(a) - g.act(b), rtol=0, atol=1e-12)


def test_round_trips_are_bit_equal_in_every_dtype():
    g = signed()
    for dtype in DTYPES:
        v = draw(7, D).to(dtype)
        assert torch.equal(transport_direction(transport_direction(v, g), g.inverse()), v)


def test_wide_batches_through_the_kernels_equal_act():
    g = signed(512)
    for dtype in DTYPES:
        v = draw(300, 512).to(dtype)
        assert torch.equal(transport_direction(v, g), g.act(v))
        assert torch.equal(transport_direction(v.T, g, 0), g.act(v).T)
        assert torch.equal(transport_magnitude(v, g), g.act_gain(v))


def test_input_is_unchanged_and_out_is_filled():
    g, v = signed(), draw(3, D)
    before, out = v.clone(), torch.full((3, D), torch.nan, dtype=torch.float64)
    pointer = out.data_ptr()
    assert transport_direction(v, g, out=out) is out
    assert out.data_ptr() == pointer
    assert torch.equal(v, before)
    assert torch.equal(out, g.act(v))
    assert torch.equal(transport_direction(v, g, out=v), out)  # in place
    assert torch.equal(v, out)


def test_parameters_and_expanded_tensors_are_moved():
    g, v = signed(), draw(D)
    moved = transport_direction(torch.nn.Parameter(v), g)
    assert not moved.requires_grad
    assert torch.equal(moved, g.act(v))
    assert torch.equal(transport_direction(v.expand(4, D), g), g.act(v).expand(4, D))


@pytest.mark.parametrize("cls", COORDINATEWISE)
def test_magnitudes_equal_those_of_the_moved_vectors(cls):
    """The expected values are products and absolute values of moved vectors, not permuted products."""
    g, gradient, activation = element(cls), draw(50, D, seed=1), draw(50, D, seed=2)
    product = gradient * activation
    assert torch.equal(transport_magnitude(product, g), g.act(gradient) * g.act(activation))
    assert torch.equal(transport_magnitude(activation.abs(), g), g.act(activation).abs())
    variance = g.act(activation).var(0)
    torch.testing.assert_close(transport_magnitude(activation.var(0), g), variance, rtol=1e-13, atol=0)
    if cls is SignedPermutation:
        assert not torch.allclose(transport_direction(product, g), transport_magnitude(product, g))


@pytest.mark.parametrize("g", [element(Orthogonal), element(MeanPreservingOrthogonal)])
def test_rotations_cannot_move_magnitudes(g):
    with pytest.raises(ValueError, match=r"group '.*orthogonal'.*allowed groups: permutation, global_sign"):
        transport_magnitude(draw(D), g)


def test_affine_gauges_cannot_move_magnitudes():
    g, x = AffineGauge(signed(), 3 + draw(D)), draw(50, D)
    assert not torch.allclose(
        g.act(x).abs().mean(0), transport_magnitude(x.abs().mean(0), g.linear), rtol=0.1
    )
    with pytest.raises(ValueError, match=r"'affine'.*permutation, global_sign.*g\.linear"):
        transport_magnitude(draw(D), g)
    torch.testing.assert_close(g.act(x).var(0), transport_magnitude(x.var(0), g.linear), rtol=1e-12, atol=0)


def test_untrusted_coordinates_are_zero_and_lost_share_measures_them():
    g, v = signed(), draw(5, D)
    kept = torch.arange(D) % 3 > 0
    moved, whole = transport_direction(v, g, kept=kept), transport_direction(v, g)
    assert torch.equal(moved[:, kept], whole[:, kept])
    assert torch.equal(moved[:, ~kept], torch.zeros(5, int((~kept).sum())))
    # computed on A's side: the lost coordinates of A are perm of those of B
    expected = v[:, g.perm[~kept]].square().sum(1) / v.square().sum(1)
    torch.testing.assert_close(lost_share(v, g, kept), expected, rtol=0, atol=1e-14)
    assert bool((expected > 0).all())
    pythagoras = (whole.square().sum(1) - moved.square().sum(1)) / whole.square().sum(1)
    torch.testing.assert_close(lost_share(v, g, kept), pythagoras, rtol=0, atol=1e-14)


def test_lost_share_is_0_or_1_at_its_limits_and_works_along_other_axes():
    g, v = element(Orthogonal), draw(D, 4).to(torch.bfloat16)
    everything = torch.ones(D, dtype=torch.bool)
    assert torch.equal(lost_share(v, g, everything, axis=0), torch.zeros(4))
    assert torch.equal(lost_share(v, g, ~everything, axis=0), torch.ones(4))
    assert lost_share(torch.zeros(D), g, ~everything) == 0
    kept = torch.arange(D) < 5
    one_by_one = torch.stack([lost_share(v[:, k], g, kept) for k in range(4)])
    torch.testing.assert_close(lost_share(v, g, kept, axis=0), one_by_one)


@pytest.mark.parametrize("transport", [transport_direction, transport_magnitude])
def test_invalid_input_is_named(transport):
    g = signed()
    with pytest.raises(ValueError, match=rf"axis -1 .*\(3, 23\).* width {D}, got 23"):
        transport(draw(3, 23), g)
    with pytest.raises(ValueError, match=rf"axis 0 .*\(3, {D}\).* width {D}, got 3"):
        transport(draw(3, D), g, 0)
    with pytest.raises(ValueError, match=r"no axis 2"):
        transport(draw(3, D), g, 2)
    with pytest.raises(ValueError, match=r"no axis -1"):
        transport(torch.tensor(1.0), g)
    with pytest.raises(TypeError, match=r"torch tensor, got ndarray.*from_numpy"):
        transport(np.zeros(D), g)
    with pytest.raises(TypeError, match=r"floating-point tensor, got torch.int64"):
        transport(torch.arange(D), g)
    with pytest.raises(TypeError, match=r"gauge element, got Tensor"):
        transport(draw(D), g.perm)
    with pytest.raises(ValueError, match=r"out: .*torch.float64 .*got torch.float32"):
        transport(draw(D), g, out=torch.zeros(D))


@pytest.mark.parametrize("kept", [torch.ones(D), torch.ones(D + 1, dtype=torch.bool), [True] * D])
def test_kept_other_than_bool_of_the_width_is_refused(kept):
    for transport in (lambda v, g: transport_direction(v, g, kept=kept), lambda v, g: lost_share(v, g, kept)):
        with pytest.raises(ValueError, match=rf"kept: .*bool tensor of {D} entries"):
            transport(draw(D), signed())


def test_every_group_keeps_the_norm_of_a_direction():
    for name, cls in GROUPS.items():
        moved = transport_direction(draw(D), element(cls))
        torch.testing.assert_close(moved.norm(), draw(D).norm(), msg=name)
