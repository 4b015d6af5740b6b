"""Test index lists: the expected coordinates of B are found in moved activations, not in the permutation."""

import numpy as np
import pytest
import torch

from gaugeport.groups import AffineGauge, GlobalSignPermutation, Orthogonal, Permutation, SignedPermutation
from gaugeport.transport.indices import transport_indices

D = 40


def element(cls, seed=1):
    return cls.random(D, torch.Generator().manual_seed(seed))


def spikes(indices):
    """Return one row per index of A, which is 1 there and 0 elsewhere."""
    return torch.eye(D)[torch.as_tensor(indices)]


@pytest.mark.parametrize("cls", [Permutation, GlobalSignPermutation, SignedPermutation])
def test_indices_follow_their_coordinates(cls):
    g, listed = element(cls), [7, 3, 39, 0, 21]
    moved = transport_indices(listed, g)
    moved_spikes = g.act(spikes(listed))
    assert torch.equal(moved.index, moved_spikes.abs().argmax(1))
    assert torch.equal(moved.sign, moved_spikes.sum(1).to(torch.int8))
    assert (moved.index.dtype, moved.sign.dtype, len(moved.dropped)) == (torch.int64, torch.int8, 0)
    assert not torch.equal(moved.index, g.perm[torch.tensor(listed)])  # control: the inverse reading


def test_top_coordinates_follow_the_moved_activations():
    g = element(SignedPermutation)
    x = torch.randn(200, D, generator=torch.Generator().manual_seed(0)) * torch.linspace(1, 5, D)
    top = x.abs().mean(0).topk(6).indices
    assert torch.equal(transport_indices(top, g).index, g.act(x).abs().mean(0).topk(6).indices)
    assert not torch.equal(top, g.act(x).abs().mean(0).topk(6).indices)  # control: the unmoved list


def test_signs_are_those_of_the_moved_coordinates():
    g = element(SignedPermutation)
    moved = transport_indices(torch.arange(D), g)
    x = torch.rand(D, generator=torch.Generator().manual_seed(0)) + 1
    assert torch.equal(g.act(x)[moved.index], moved.sign * x)
    assert {-1, 1} == set(moved.sign.tolist())


def test_round_trips_return_the_list():
    g, listed = element(SignedPermutation), torch.tensor([5, 1, 30])
    there = transport_indices(listed, g)
    back = transport_indices(there.index, g.inverse())
    assert torch.equal(back.index, listed)
    assert torch.equal(back.sign, there.sign)


def test_untrusted_coordinates_are_dropped_and_listed_by_their_index_in_a():
    g, listed = element(SignedPermutation), torch.tensor([9, 2, 17, 33, 4])
    whole = transport_indices(listed, g)
    kept = torch.ones(D, dtype=torch.bool)
    kept[whole.index[[1, 3]]] = False
    moved = transport_indices(listed, g, kept=kept)
    assert moved.dropped.tolist() == [2, 33]
    assert torch.equal(moved.index, whole.index[[0, 2, 4]])
    assert torch.equal(moved.sign, whole.sign[[0, 2, 4]])


def test_empty_lists_and_small_integers_are_moved():
    g = element(SignedPermutation)
    assert len(transport_indices([], g).index) == 0
    assert torch.equal(
        transport_indices(torch.tensor([3, 5], dtype=torch.int8), g).index, transport_indices([3, 5], g).index
    )


def test_affine_gauges_act_by_their_linear_part():
    linear = element(SignedPermutation)
    moved = transport_indices([1, 2], AffineGauge(linear, torch.ones(D)))
    assert torch.equal(moved.index, transport_indices([1, 2], linear).index)


@pytest.mark.parametrize("g", [element(Orthogonal), AffineGauge(element(Orthogonal), torch.zeros(D))])
def test_rotations_cannot_move_indices(g):
    with pytest.raises(ValueError, match=r"'orthogonal' .*index list.*allowed.*signed_permutation"):
        transport_indices([1], g)


def test_invalid_indices_are_named():
    g = element(SignedPermutation)
    with pytest.raises(ValueError, match=r"out of range: \[40, -1\]; allowed: 0 to 39"):
        transport_indices([3, 40, -1], g)
    with pytest.raises(ValueError, match=r"more than once: \[3, 8\]"):
        transport_indices([8, 3, 3, 1, 8], g)
    with pytest.raises(TypeError, match=r"integers, got \[1.5\]"):
        transport_indices([1, 1.5], g)
    with pytest.raises(TypeError, match=r"integers, got torch.float32 starting \[1.0\]"):
        transport_indices(torch.tensor([1.0]), g)
    with pytest.raises(TypeError, match=r"integers, got torch.bool"):
        transport_indices(torch.ones(D, dtype=torch.bool), g)
    with pytest.raises(TypeError, match=r"got ndarray"):
        transport_indices(np.array([1]), g)
    with pytest.raises(ValueError, match=r"one list, got shape \(1, 1\)"):
        transport_indices(torch.tensor([[1]]), g)
    with pytest.raises(ValueError, match=r"kept: .*bool tensor of 40"):
        transport_indices([1], g, kept=torch.ones(3, dtype=torch.bool))
