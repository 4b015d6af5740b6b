"""Test that moved SAEs keep their latents and move their reconstructions, for all sae-lens architectures."""

import copy

import pytest
import torch
from sae_lens.registry import SAE_CLASS_REGISTRY, SAE_TRAINING_CLASS_REGISTRY
from torch.testing import assert_close

from gaugeport.groups import (
    AffineGauge,
    GlobalSignPermutation,
    MeanPreservingOrthogonal,
    Orthogonal,
    Permutation,
    SignedPermutation,
)
from gaugeport.transport.sae import transport_sae
from gaugeport.transport.sae_description import gauge_digest
from gaugeport.transport.sae_rules import ARCHITECTURES
from tiny_saes import CASES, D, build, element, gap, tokens

pytestmark = pytest.mark.filterwarnings("ignore:Sparse invariant checks", "ignore:Setting use_error_term")
VARIANTS = {
    "gated": {"apply_b_dec_to_input": False},
    "topk": {"rescale_acts_by_decoder_norm": True},
    "topk-training": {"use_sparse_activations": True},
    "matching_pursuit": {"apply_b_dec_to_input": False},
    "temporal": {"tied_weights": False, "sae_diff_type": "relu"},
}
CASES_AND_VARIANTS = [(case, {}) for case in CASES] + list(VARIANTS.items())


def signs_only(d=D):
    return SignedPermutation(torch.arange(d), element(SignedPermutation, d=d).sign)


def latents(sae, x):
    acts = sae.encode(x)
    return acts.to_dense() if acts.is_sparse else acts


def gaps(sae, moved, g, x):
    """Return the larger of the relative changes of latents and reconstructions."""
    with torch.no_grad():
        return max(gap(latents(moved, g.act(x)), latents(sae, x)), gap(moved(g.act(x)), g.act(sae(x))))


def test_every_architecture_of_sae_lens_has_rules():
    assert set(ARCHITECTURES) == set(SAE_CLASS_REGISTRY) | set(SAE_TRAINING_CLASS_REGISTRY)


@pytest.mark.parametrize("mode", ["none", "constant_norm_rescale"])
@pytest.mark.parametrize(("case", "config"), CASES_AND_VARIANTS)
def test_sign_changes_are_bit_equal(case, config, mode):
    sae = build(case, torch.float32, normalize_activations=mode, **config)
    g, x = signs_only(), tokens(torch.float32)
    moved = transport_sae(sae, g)
    with torch.no_grad():
        assert bool(latents(sae, x).any())
        assert torch.equal(latents(moved, g.act(x)), latents(sae, x))
        assert torch.equal(moved(g.act(x)), g.act(sae(x)))


@pytest.mark.parametrize("group", [Permutation, SignedPermutation, Orthogonal])
@pytest.mark.parametrize("mode", ["none", "expected_average_only_in", "constant_norm_rescale"])
@pytest.mark.parametrize(("case", "config"), CASES_AND_VARIANTS)
def test_linear_gauges_keep_latents_and_move_reconstructions(case, config, mode, group):
    sae, g = build(case, normalize_activations=mode, **config), element(group)
    assert gaps(sae, transport_sae(sae, g), g, tokens()) <= 1e-12


@pytest.mark.parametrize("group", [SignedPermutation, Orthogonal])
def test_constant_scale_of_temporal_saes_commutes_with_rotations(group):
    config = {"normalize_activations": "constant_scalar_rescale", "activation_normalization_factor": 0.3}
    sae, g = build("temporal", **config), element(group)
    assert gaps(sae, transport_sae(sae, g), g, tokens()) <= 1e-12


@pytest.mark.parametrize("case", CASES)
def test_dropping_the_signs_changes_the_function(case):
    sae, g = build(case), element(SignedPermutation)
    assert gaps(sae, transport_sae(sae, g.without_signs()), g, tokens()) > 1e-1


@pytest.mark.parametrize("group", [Permutation, GlobalSignPermutation, MeanPreservingOrthogonal])
@pytest.mark.parametrize("case", ["standard", "topk-training", "transcoder", "temporal"])
def test_layer_norm_commutes_with_gauges_that_keep_the_mean(case, group):
    sae, g = build(case, normalize_activations="layer_norm"), element(group)
    assert gaps(sae, transport_sae(sae, g), g, tokens()) <= 1e-12


@pytest.mark.parametrize("group", [SignedPermutation, Orthogonal])
def test_layer_norm_does_not_commute_with_other_gauges(group):
    """Control: the weights are moved without the normalisation, which is then switched on again."""
    sae, plain, g = build("standard", normalize_activations="layer_norm"), build("standard"), element(group)
    forced = build("standard", normalize_activations="layer_norm")
    forced.load_state_dict(transport_sae(plain, g).state_dict())
    assert gaps(sae, forced, g, tokens()) > 1e-1


@pytest.mark.parametrize("linear", [SignedPermutation, Orthogonal])
@pytest.mark.parametrize(
    "case", ["standard", "gated", "topk", "jumprelu", "matching_pursuit", "temporal", "batchtopk-training"]
)
def test_affine_gauges_move_b_dec_as_a_point(case, linear):
    sae, shift = build(case), element(AffineGauge, 5).shift
    g = AffineGauge(element(linear), shift)
    assert gaps(sae, transport_sae(sae, g), g, tokens()) <= 1e-12
    assert gaps(sae, transport_sae(sae, g.linear), g, tokens()) > 1e-1


FOLDABLE = [c for c in CASES if not c.startswith(("matching_pursuit", "temporal")) and "skip" not in c]


@pytest.mark.parametrize("case", FOLDABLE)
def test_moving_by_a_rotation_equals_folding_it_as_a_whitening(case):
    """For ``y = g·x`` is ``x = y Q``, so an SAE that sees ``y`` through the whitening Q is the moved one."""
    sae, g, x = build(case), element(Orthogonal), tokens()
    folded, y = copy.deepcopy(sae), g.act(x)
    folded.fold_activation_whitening(torch.zeros(D, dtype=torch.float64), g.dense(), g.dense().T)
    moved = transport_sae(sae, g)
    with torch.no_grad():
        assert gap(moved(y), folded(y)) <= 1e-12
    if not getattr(sae.cfg, "rescale_acts_by_decoder_norm", False):  # else sae-lens folds the norms as well
        for key, value in folded.state_dict().items():
            assert gap(moved.state_dict()[key], value) <= 1e-12, key


@pytest.mark.parametrize("case", ["standard", "gated", "jumprelu", "batchtopk-training"])
def test_moving_by_an_affine_gauge_equals_folding_a_mean(case):
    sae, g = build(case), element(AffineGauge)
    folded, y = copy.deepcopy(sae), g.act(tokens())
    folded.fold_activation_whitening(g.shift, g.linear.dense(), g.linear.dense().T)
    with torch.no_grad():
        assert gap(transport_sae(sae, g)(y), folded(y)) <= 1e-12


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("case", CASES)
def test_round_trips_are_bit_equal_and_recorded(case, dtype):
    sae, g = build(case, dtype), element(SignedPermutation)
    moved = transport_sae(sae, g, {"step": 1})
    back = transport_sae(moved, g.inverse(), {"step": 2})
    assert not torch.equal(moved.W_dec, sae.W_dec)
    for key, value in sae.state_dict().items():
        assert torch.equal(back.state_dict()[key], value) and back.state_dict()[key].dtype == value.dtype
    records = back.cfg.metadata["gaugeport"]
    assert [r["provenance"]["step"] for r in records] == [1, 2]
    assert [r["digest"] for r in records] == [gauge_digest(g), gauge_digest(g.inverse())]
    assert len(moved.cfg.metadata["gaugeport"]) == 1
    assert "gaugeport" not in sae.cfg.metadata


@pytest.mark.parametrize("group", [SignedPermutation, Permutation, Orthogonal])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_wide_tensors_through_the_kernels_equal_act(dtype, group):
    d, threads = 256, torch.get_num_threads()
    sae, g = build("skip_transcoder", dtype, d_in=d, d_sae=301), element(group, d=d)
    sae.W_enc.data[3] = 0.0
    torch.set_num_threads(2)
    try:
        moved = transport_sae(sae, g)
    finally:
        torch.set_num_threads(threads)
    expected = {
        "W_enc": g.act(sae.W_enc, 0),
        "W_dec": g.act(sae.W_dec, 1),
        "b_dec": g.act(sae.b_dec, 0),
        "W_skip": g.act(g.act(sae.W_skip.double(), 0), 1).to(dtype),
        "b_enc": sae.b_enc,
    }
    # rotations sum in float64, and two threads may sum in another order than one; only float64 shows it
    slack = d * torch.finfo(dtype).eps if group is Orthogonal and dtype == torch.float64 else 0.0
    for name, tensor in expected.items():
        assert_close(
            getattr(moved, name),
            tensor,
            rtol=0,
            atol=slack,
            msg=lambda message, name=name: f"{name}: {message}",
        )
