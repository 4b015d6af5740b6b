"""Test that moved SAEs keep their latents and move their reconstructions, for all sae-lens architectures."""

import copy
import warnings

import pytest
import torch
from sae_lens import SAE, StandardSAE, StandardSAEConfig, TopKSAE, TopKSAEConfig, TrainingSAE
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
from gaugeport.transport.sae import gauge_digest, transport_sae
from gaugeport.transport.sae_rules import ARCHITECTURES

pytestmark = pytest.mark.filterwarnings("ignore:Sparse invariant checks", "ignore:Setting use_error_term")
D, N = 16, 64
EXTRA = {
    "topk": {"k": 5},
    "abstopk": {"k": 5},
    "batchtopk": {"k": 5},
    "matryoshka_batchtopk": {"k": 5, "matryoshka_widths": [16, N]},
    "matching_pursuit": {"max_iterations": 5},
    "temporal": {"n_heads": 2, "bottleneck_factor": 8, "kval_topk": 5},
}
INFERENCE = sorted(SAE_CLASS_REGISTRY)
CASES = INFERENCE + [f"{a}-training" for a in sorted(SAE_TRAINING_CLASS_REGISTRY)]
VARIANTS = {
    "gated": {"apply_b_dec_to_input": False},
    "topk": {"rescale_acts_by_decoder_norm": True},
    "topk-training": {"use_sparse_activations": True},
    "matching_pursuit": {"apply_b_dec_to_input": False},
    "temporal": {"tied_weights": False, "sae_diff_type": "relu"},
}
CASES_AND_VARIANTS = [(case, {}) for case in CASES] + list(VARIANTS.items())


def build(case, dtype=torch.float64, **config):
    """Return a small SAE of an architecture, with all parameters and buffers random (thresholds positive)."""
    name, _, training = case.partition("-")
    cls, config_class = (SAE_TRAINING_CLASS_REGISTRY if training else SAE_CLASS_REGISTRY)[name]
    if "transcoder" in name:
        config = {"d_out": config.get("d_in", D), "apply_b_dec_to_input": False, **config}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # matching pursuit warns about its default decoder norm
        sae = cls(config_class(**{"d_in": D, "d_sae": N, **EXTRA.get(name, {}), **config}))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for key, t in [*sae.named_parameters(), *sae.named_buffers()]:
            values = torch.randn(t.shape, generator=generator, dtype=torch.float64)
            t.copy_(values.abs() if "threshold" in key else values)
    return sae.to(dtype=dtype)


def element(cls, seed=1, d=D):
    return cls.random(d, torch.Generator().manual_seed(seed))


def signs_only(d=D):
    return SignedPermutation(torch.arange(d), element(SignedPermutation, d=d).sign)


def tokens(dtype=torch.float64, d=D):
    return torch.randn(3, 7, d, generator=torch.Generator().manual_seed(2), dtype=torch.float64).to(dtype)


def latents(sae, x):
    acts = sae.encode(x)
    return acts.to_dense() if acts.is_sparse else acts


def gap(a, b):
    return float((a - b).norm() / b.norm())


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


@pytest.mark.parametrize("case", CASES)
def test_sae_lens_saves_and_loads_the_moved_sae(case, tmp_path):
    sae, g, x = build(case, torch.float32), element(SignedPermutation), tokens(torch.float32)
    moved = transport_sae(sae, g, {"run": "A to B", "sites": [1, 2]})
    moved.save_model(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loaded = (TrainingSAE if case.endswith("-training") else SAE).load_from_disk(tmp_path)
    assert type(loaded) is type(sae)
    assert loaded.cfg.metadata["gaugeport"] == moved.cfg.metadata["gaugeport"]
    (record,) = loaded.cfg.metadata["gaugeport"]
    assert record["group"] == "signed_permutation" and record["width"] == D
    assert record["digest"] == gauge_digest(g) and record["provenance"] == {"run": "A to B", "sites": [1, 2]}
    assert {"W_dec", "b_dec"} <= set(record["moved"]) <= {"W_enc", "W_dec", "b_dec", "W_skip"}
    with torch.no_grad():
        assert torch.equal(loaded(x), moved(x))


def test_the_record_survives_saving_a_training_sae_for_inference(tmp_path):
    moved = transport_sae(build("batchtopk-training", torch.float32), element(SignedPermutation))
    moved.save_inference_model(tmp_path)
    assert SAE.load_from_disk(tmp_path).cfg.metadata["gaugeport"] == moved.cfg.metadata["gaugeport"]


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


@pytest.mark.parametrize("case", CASES)
def test_the_input_is_unchanged_and_its_flags_are_kept(case):
    sae = build(case)
    sae.W_dec.requires_grad_(False)
    sae.b_dec.grad = torch.ones(D, dtype=torch.float64)
    sae.eval()
    before, config, state = copy.deepcopy(sae.state_dict()), sae.cfg.to_dict(), torch.random.get_rng_state()
    moved = transport_sae(sae, element(SignedPermutation))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(v, before[k]) for k, v in sae.state_dict().items()) and sae.cfg.to_dict() == config
    assert {n: p.requires_grad for n, p in moved.named_parameters()} == {
        n: p.requires_grad for n, p in sae.named_parameters()
    }
    assert all(p.grad is None for p in moved.parameters())
    assert type(moved) is type(sae) and not moved.training
    assert (moved.dtype, moved.device, moved.cfg.device) == (sae.dtype, sae.device, sae.cfg.device)
    pointers = {t.data_ptr() for t in sae.state_dict().values()}
    assert not pointers & {t.data_ptr() for t in moved.state_dict().values()}


@pytest.mark.parametrize("mode", ["constant_norm_rescale", "layer_norm"])
def test_the_moved_sae_keeps_its_own_run_time_norms(mode):
    sae, x = build("standard", normalize_activations=mode), tokens()
    moved = transport_sae(sae, element(Permutation))
    with torch.no_grad():
        expected, acts = sae(x), sae.encode(x)
        moved(3 * x.flip(0) + 1)
        assert torch.equal(sae.decode(acts), expected)


def test_the_error_term_is_kept():
    """With the error term an SAE returns its input, so that it does not change its model."""
    sae, g, x = build("standard"), element(SignedPermutation), tokens()
    sae.use_error_term = True
    with torch.no_grad():
        assert gap(transport_sae(sae, g)(g.act(x)), g.act(x)) <= 1e-12


def test_out_reuses_memory():
    sae, g, h = build("jumprelu"), element(SignedPermutation, 1), element(SignedPermutation, 2)
    first = transport_sae(sae, g)
    pointers = [t.data_ptr() for t in first.state_dict().values()]
    second = transport_sae(sae, h, out=first)
    assert [t.data_ptr() for t in second.state_dict().values()] == pointers
    fresh = transport_sae(sae, h)
    assert all(torch.equal(v, fresh.state_dict()[k]) for k, v in second.state_dict().items())
    assert second.cfg.metadata["gaugeport"] == fresh.cfg.metadata["gaugeport"]


def test_saes_on_the_meta_device_are_moved():
    sae = StandardSAE(StandardSAEConfig(d_in=D, d_sae=N, device="meta", dtype="bfloat16"))
    moved = transport_sae(sae, element(SignedPermutation))
    assert {(p.is_meta, p.dtype) for p in moved.parameters()} == {(True, torch.bfloat16)}
    assert moved.cfg.metadata["gaugeport"][0]["moved"] == ["b_dec", "W_dec", "W_enc"]


def test_tensors_that_share_memory_are_each_moved_once():
    sae, g = TopKSAE(TopKSAEConfig(d_in=256, d_sae=300, k=5)), element(SignedPermutation, d=256)
    sae.W_enc.data = sae.W_dec.data.T  # the same memory
    moved = transport_sae(sae, g)
    assert torch.equal(moved.W_enc, g.act(sae.W_enc, 0)) and torch.equal(moved.W_dec.T, moved.W_enc)
    assert moved.W_enc.is_contiguous()
