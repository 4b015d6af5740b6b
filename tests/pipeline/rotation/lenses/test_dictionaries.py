"""SAEs and transcoders at the sites of a small model, and the matching of their decoders."""

import pytest
import torch

from gaugeport.charts import fold_gains
from gaugeport.models.dyck import DyckConfig, DyckModel
from gaugeport.pipeline.rotation.lenses import dictionaries as d
from gaugeport.pipeline.rotation.lenses.decoder_matching import match_decoders
from gaugeport.pipeline.rotation.lenses.transcoders import train_transcoder
from gaugeport.pipeline.rotation.toy.components import run_graph
from gaugeport.pipeline.rotation.toy.sites import activations_at, sae_sites, value_at
from gaugeport.pipeline.rotation.toy.strings import draw_strings

SETTINGS = {
    "architecture": "standard",
    "latents": 1,  # replaced by the expansion
    "k": 4,
    "l1": 0.1,
    "lr": 5e-3,
    "batch_size": 128,
    "activations": 2048,
    "tokens": 20_000,
}
UNTRAINED = {**SETTINGS, "lr": 1e-12, "tokens": 128}


@pytest.fixture(scope="module")
def model():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = {
            "hidden_size": 16,
            "num_attention_heads": 2,
            "intermediate_size": 24,
            "max_position_embeddings": 20,
        }
        return fold_gains(DyckModel(DyckConfig(**config, initializer_range=0.4)).eval())


@pytest.fixture(scope="module")
def rows():
    return draw_strings(300, (2, 18), 20, torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def sparse():
    """Tokens with 2 to 3 of 24 directions on, in 8 dimensions: train and held out."""
    gen = torch.Generator().manual_seed(2)
    directions = torch.nn.functional.normalize(torch.randn(24, 8, generator=gen), dim=1)
    latents = torch.rand(3000, 24, generator=gen) * (torch.rand(3000, 24, generator=gen) < 0.1)
    x = latents @ directions + 0.3
    return x[:2048], x[2048:]


def explained(dictionary, x, y=None):
    return {r["metric"]: r["value"] for r in d.dictionary_rows(dictionary, "here", x, y)}


def test_sites_hold_what_the_model_computes(model, rows):
    seen, layer = {}, model.model.layers[1]
    hooks = {
        "resid_pre_1": (layer.input_layernorm, 0),
        "resid_mid_1": (layer.post_attention_layernorm, 0),
        "resid_post_1": (model.model.norm, 0),
        "attn_out_1": (layer.self_attn, 1),
        "mlp_in_1": (layer.mlp, 0),
        "mlp_out_1": (layer.mlp, 1),
        "mlp_pre_1": (layer.mlp.up_proj, 1),
        "mlp_post_1": (layer.mlp.down_proj, 0),
    }

    def keep(site, which):
        return lambda module, args, out: seen.update({site: (args[0], out)[which]})

    handles = [module.register_forward_hook(keep(site, which)) for site, (module, which) in hooks.items()]
    with torch.no_grad():
        model(rows["input_ids"])
    for handle in handles:
        handle.remove()
    kept = rows["attention_mask"] == 1
    for site, wanted in seen.items():
        found = activations_at(model, rows, site)
        assert found.shape == (int(kept.sum()), 24 if site[:5] in ("mlp_p",) else 16), site
        assert torch.allclose(found, wanted[kept], atol=1e-5), site
    assert not torch.allclose(
        activations_at(model, rows, "resid_pre_1"), seen["resid_post_1"][kept], atol=1e-2
    )
    assert len(sae_sites(2)) == 12 and set(sae_sites(2)) > set(hooks) - {"mlp_in_1", "mlp_out_1"}
    written = run_graph(model, rows["input_ids"]).written
    for bad in ("resid_pre_2", "resid_pre", "logits_0", "resid_pre_-1"):
        with pytest.raises(ValueError, match="unknown site"):
            value_at(model, written, bad)


@pytest.mark.parametrize("architecture", ["standard", "topk"])
def test_training_explains_more_than_no_training(sparse, architecture):
    train, held = sparse
    settings = {"architecture": architecture}
    before, after = (
        explained(d.train_dictionary(train, {**s, **settings}, 4, 0, "here"), held)
        for s in (UNTRAINED, SETTINGS)
    )
    assert after["explained_variance"] > 0.8 > before["explained_variance"] + 0.2
    assert after["width"] == 32 and (architecture != "topk" or after["l0"] <= 4)


def test_a_transcoder_learns_a_mlp_between_scales_of_its_own(sparse):
    from sae_lens import Transcoder

    gen = torch.Generator().manual_seed(4)
    w_in, w_out = torch.randn(8, 12, generator=gen), torch.randn(12, 5, generator=gen)
    pairs = [(7 * x, 0.01 * torch.relu(x @ w_in) @ w_out) for x in sparse]
    (train, held), state = pairs, torch.get_rng_state()
    untrained = train_transcoder(*train, UNTRAINED, 4, 0)
    found = train_transcoder(*train, SETTINGS, 4, 0)
    assert torch.equal(state, torch.get_rng_state()), "the caller's random state is left alone"
    assert isinstance(found, Transcoder) and found.W_dec.shape == (32, 5) and found.W_enc.shape == (8, 32)
    before, after = explained(untrained, *held), explained(found, *held)
    assert after["explained_variance"] > 0.8 > before["explained_variance"] + 0.2
    shuffled = held[1][torch.randperm(len(held[1]), generator=gen)]
    assert explained(found, held[0], shuffled)["explained_variance"] < 0
    again, other = (train_transcoder(*train, UNTRAINED, 4, seed) for seed in (0, 1))
    assert torch.equal(again.W_enc, untrained.W_enc) and not torch.equal(other.W_enc, untrained.W_enc)


def test_scores_of_a_dictionary_that_knows_the_answer():
    class Signs:
        """Two latents per coordinate, and one that nothing turns on."""

        device, cfg = "cpu", type("Cfg", (), {"d_sae": 7})

        def encode(self, x):
            return torch.cat([x.clamp(min=0), (-x).clamp(min=0), torch.zeros(len(x), 1)], 1)

        def decode(self, z):
            return z[:, :3] - z[:, 3:6]

    x = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
    exact = {"explained_variance": 1.0, "l0": 3.0, "dead_share": 1 / 7, "width": 7.0}
    assert explained(Signs(), x) == pytest.approx(exact)
    assert explained(Signs(), x, x + 1)["explained_variance"] < 1
    with pytest.raises(ValueError, match="all 5 tokens are equal"):
        explained(Signs(), torch.ones(5, 3))


def test_matching_finds_a_planted_permutation_and_none_in_noise():
    gen = torch.Generator().manual_seed(5)
    a, noise = torch.randn(60, 16, generator=gen), torch.randn(60, 16, generator=gen)
    perm = torch.randperm(60, generator=gen)
    b = torch.empty_like(a)
    b[perm] = a * (torch.rand(60, 1, generator=gen) + 0.5) + 0.05 * torch.randn(60, 16, generator=gen)
    found, control, flipped = match_decoders(a, b), match_decoders(a, noise), match_decoders(a, -b)
    assert torch.equal(found.columns, perm)
    assert found.values(0.9)["matched_above"] == found.values(0.9)["max_above"] == 1
    assert control.values(0.9)["max_above"] == 0 and control.values(0.9)["mean_max_cosine"] < 0.8
    assert flipped.values(0.9)["max_above"] == 0, "a latent's direction has a sign"
    assert (control.best >= control.matched).all()
    dead = a.clone()
    dead[0] = 0
    assert float(match_decoders(dead, b).matched[0]) == 0
    for bad in (0, 1, -0.5):
        with pytest.raises(ValueError, match="threshold"):
            found.values(bad)
    with pytest.raises(ValueError, match=r"\(60, 16\) and \(5, 16\); expected the same"):
        match_decoders(a, b[:5])


def test_bad_settings_are_named(sparse):
    train, _ = sparse
    cases = [
        ({"architecture": "gated"}, "architecture='gated'; allowed"),
        ({"l1": 0}, "l1=0"),
        ({"lr": "fast"}, "lr='fast'"),
        ({"architecture": "topk", "k": 33}, "k=33; allowed: up to .* 32 latents"),
        ({"batch_size": 4096}, "do not fill one batch"),
        ({"tokens": None}, "tokens=None"),
    ]
    for changed, message in cases:
        with pytest.raises(ValueError, match=message):
            d.train_dictionary(train, {**SETTINGS, **changed}, 4, 0, "here")
    for expansion in (0, 1.5):
        with pytest.raises(ValueError, match="expansion"):
            d.settings_of_width(SETTINGS, 8, expansion)
    with pytest.raises(ValueError, match="allowed: standard"):
        train_transcoder(train, train, {**SETTINGS, "architecture": "topk"}, 4, 0)
