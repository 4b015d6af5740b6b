"""Test SAEs by sae-lens's trainer: how much they explain, determinism, saving, moving and bad settings."""

import pytest
import torch
from sae_lens import SAE
from sae_lens.training import sae_trainer

from gaugeport.groups import SignedPermutation
from gaugeport.pipeline.config.compose import compose_config, from_config
from gaugeport.pipeline.measures.sae_transfer import nmse
from gaugeport.pipeline.stages.saes import sae_key
from gaugeport.pipeline.training.saes import train_sae
from gaugeport.transport.sae import transport_sae

D, TRUE, K = 16, 24, 3
METADATA = {"model_name": "toy", "hook_name": "blocks.1.hook_resid_post"}
COMMON = {"latents": 48, "lr": 1e-2, "batch_size": 256, "activations": 8192, "tokens": 51_200}
TOPK = {"architecture": "topk", "k": K, **COMMON}
STANDARD = {"architecture": "standard", "l1": 0.3, **COMMON}


def sparse(n, seed, scale=1.0):
    """Draw tokens with K of TRUE features each, around a mean that is not 0."""
    features = torch.randn(TRUE, D, generator=torch.Generator().manual_seed(0))
    gen = torch.Generator().manual_seed(1 + seed)
    active = torch.rand(n, TRUE, generator=gen).argsort(1) < K
    strengths = active * (0.5 + torch.rand(n, TRUE, generator=gen))
    return scale * (strengths @ features + 2.0)


@pytest.fixture(scope="module", params=[TOPK, STANDARD], ids=lambda s: s["architecture"])
def trained(request):
    return request.param, train_sae(sparse(8192, 0), request.param, 3, METADATA)


def test_trained_sae_explains_more_than_k_principal_components(trained):
    """A barely trained one explains less."""
    settings, sae = trained
    test = sparse(2048, 1)
    centred = sparse(8192, 0) - sparse(8192, 0).mean(0)
    top = torch.linalg.svd(centred, full_matrices=False).Vh[:K]
    by_components = nmse(test, (test - test.mean(0)) @ top.T @ top + test.mean(0))
    short = train_sae(sparse(8192, 0), {**settings, "tokens": 256}, 3, METADATA)
    with torch.no_grad():
        assert nmse(test, sae(test)) < by_components
        assert nmse(test, short(test)) > by_components
        latents = sae.encode(test) != 0
    if settings["architecture"] == "topk":
        assert int(latents.sum(1).max()) <= K


def test_training_is_deterministic_and_leaves_global_state_unchanged(trained):
    settings, sae = trained
    bar, before = sae_trainer.tqdm, torch.get_rng_state()
    again = train_sae(sparse(8192, 0), settings, 3, METADATA)
    assert torch.equal(torch.get_rng_state(), before)
    assert sae_trainer.tqdm is bar and torch.get_num_threads() == 1
    assert all(torch.equal(p, q) for p, q in zip(sae.parameters(), again.parameters(), strict=True))
    other = train_sae(sparse(8192, 0), {**settings, "tokens": 2560}, 4, METADATA)
    assert not torch.equal(other.W_enc, sae.W_enc)


def test_saved_sae_is_ordinary_and_moves_exactly(trained, tmp_path):
    """Only W_enc, W_dec and b_dec live in the stream: there is no normalisation, and b_dec is subtracted."""
    _, sae = trained
    sae.save_inference_model(tmp_path)
    loaded = SAE.load_from_disk(tmp_path).eval()
    x = sparse(512, 2)
    assert loaded.cfg.normalize_activations == "none" and loaded.cfg.apply_b_dec_to_input
    assert loaded.cfg.metadata.hook_name == METADATA["hook_name"]
    signs = torch.where(torch.arange(D) % 3 == 0, -1, 1).to(torch.int8)
    g = SignedPermutation(torch.arange(D), signs)
    moved = transport_sae(loaded, g)
    with torch.no_grad():
        # saving folds TopK's decoder norms into the encoder, which rounds each number once more: (1e-7)²
        assert nmse(sae(x), loaded(x)) < 1e-10
        assert torch.equal(moved.encode(g.act(x)), loaded.encode(x))
        assert torch.equal(moved(g.act(x)), g.act(loaded(x)))
        assert not torch.equal(moved.encode(x), loaded.encode(x))
    assert sorted(moved.cfg.metadata["gaugeport"][0]["moved"]) == ["W_dec", "W_enc", "b_dec"]


def test_training_is_invariant_to_scale_of_activations(trained):
    """Activations times a power of two give the trainer the same numbers; reconstructions scale with them."""
    settings, sae = trained
    large = train_sae(sparse(8192, 0, 1024.0), settings, 3, METADATA)
    x = sparse(512, 2)
    with torch.no_grad():
        assert torch.equal(large(1024 * x), 1024 * sae(x))


def test_too_few_activations_are_refused():
    with pytest.raises(ValueError, match=r"100 activations .*256"):
        train_sae(sparse(100, 0), TOPK, 3, METADATA)


def job(*overrides):
    return from_config(compose_config(["experiment=sae_transfer", "profile=smoke", *overrides]), ()).job


def test_sae_key_depends_on_sae_and_not_on_condition():
    first = sae_key(job())
    condition = (
        "gauge=permutation",
        "matcher=hungarian_raw",
        "route=endpoint",
        "task.target=finetuned",
        "task.plants=1",
    )
    for same in (condition, ("task.tokens=64", "measurement.tokens=64"), ("task.sae.l1=9",)):
        assert sae_key(job(*same)) == first, same
    for other in (
        "seed=1",
        "task.sae.k=4",
        "task.sae.architecture=standard",
        "training.run.steps=10",
        "model=qwen",
    ):
        assert sae_key(job(other)) != first, other


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("task.sae.architecture=gated", "architecture='gated'; allowed: topk, standard"),
        ("task.sae.k=65", "k=65 is more than the 64 latents"),
        ("task.sae.k=0", "k=0 must be a positive number"),
        ("task.sae.lr=fast", "lr='fast' must be a positive number"),
        ("task.sae.batch_size=5000", "batch_size=5000 is more than task.sae.activations=4096"),
        ("+task.sae.depth=2", "expected architecture, latents"),
    ],
)
def test_bad_setting_is_refused_with_allowed_values(override, message):
    with pytest.raises(ValueError, match=message):
        job(override)
