"""Test that a moved SAE is a sae-lens object: it saves, loads, and shares nothing with the first."""

import copy
import warnings

import pytest
import torch
from sae_lens import SAE, StandardSAE, StandardSAEConfig, TopKSAE, TopKSAEConfig, TrainingSAE

from gaugeport.groups import Permutation, SignedPermutation
from gaugeport.transport.sae import transport_sae
from gaugeport.transport.sae_description import gauge_digest
from tiny_saes import CASES, D, N, build, element, gap, tokens

pytestmark = pytest.mark.filterwarnings("ignore:Sparse invariant checks", "ignore:Setting use_error_term")


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
