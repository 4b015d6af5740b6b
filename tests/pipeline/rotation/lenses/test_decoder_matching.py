"""Matching decoders finds a planted permutation and none in noise."""

import pytest
import torch

from gaugeport.pipeline.rotation.lenses.decoder_matching import match_decoders


@pytest.fixture(scope="module")
def permuted():
    """Sixty decoder rows, the same rows rescaled, permuted and with a little noise, and the permutation."""
    gen = torch.Generator().manual_seed(5)
    a, unrelated = torch.randn(60, 16, generator=gen), torch.randn(60, 16, generator=gen)
    perm = torch.randperm(60, generator=gen)
    b = torch.empty_like(a)
    b[perm] = a * (torch.rand(60, 1, generator=gen) + 0.5) + 0.05 * torch.randn(60, 16, generator=gen)
    return a, b, perm, unrelated


def test_a_planted_permutation_is_found(permuted):
    a, b, perm, _ = permuted
    match = match_decoders(a, b)
    assert torch.equal(match.columns, perm)
    assert match.values(0.9)["matched_above"] == match.values(0.9)["max_above"] == 1


def test_unrelated_decoders_do_not_match(permuted):
    a, _, _, unrelated = permuted
    match = match_decoders(a, unrelated)
    assert match.values(0.9)["max_above"] == 0 and match.values(0.9)["mean_max_cosine"] < 0.8
    assert (match.best >= match.matched).all()


def test_opposite_directions_do_not_match(permuted):
    a, b, _, _ = permuted
    assert match_decoders(a, -b).values(0.9)["max_above"] == 0, "the direction of a latent has a sign"


def test_a_row_of_norm_zero_has_cosine_zero(permuted):
    a, b, _, _ = permuted
    dead = a.clone()
    dead[0] = 0
    assert float(match_decoders(dead, b).matched[0]) == 0


@pytest.mark.parametrize("bad", [0, 1, -0.5])
def test_a_threshold_that_is_not_between_0_and_1_is_refused(permuted, bad):
    a, b, _, _ = permuted
    with pytest.raises(ValueError, match=f"threshold={bad}.*allowed: between 0 and 1"):
        match_decoders(a, b).values(bad)


def test_decoders_of_different_shapes_are_refused(permuted):
    a, b, _, _ = permuted
    with pytest.raises(ValueError, match=r"\(60, 16\) and \(5, 16\); expected the same"):
        match_decoders(a, b[:5])
