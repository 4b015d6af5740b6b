"""SAEs and transcoders learn what there is to learn, and their scores are those of the definition."""

import pytest
import torch

from gaugeport.pipeline.rotation.lenses import dictionaries as d
from gaugeport.pipeline.rotation.lenses.transcoders import train_transcoder

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
def sparse():
    """Activations of width 8 with 2 to 3 of 24 directions on: 2048 to train on and 952 held out."""
    gen = torch.Generator().manual_seed(2)
    directions = torch.nn.functional.normalize(torch.randn(24, 8, generator=gen), dim=1)
    latents = torch.rand(3000, 24, generator=gen) * (torch.rand(3000, 24, generator=gen) < 0.1)
    x = latents @ directions + 0.3
    return x[:2048], x[2048:]


def scores(dictionary, x, y=None):
    return {r["metric"]: r["value"] for r in d.dictionary_rows(dictionary, "here", x, y)}


@pytest.mark.parametrize("architecture", ["standard", "topk"])
def test_training_explains_more_than_no_training(sparse, architecture):
    train, held_out = sparse
    before, after = (
        scores(d.train_dictionary(train, {**s, "architecture": architecture}, 4, 0, "here"), held_out)
        for s in (UNTRAINED, SETTINGS)
    )
    assert after["explained_variance"] > 0.8 > before["explained_variance"] + 0.2
    assert after["width"] == 32 and (architecture != "topk" or after["l0"] <= 4)


def test_a_transcoder_learns_an_mlp_between_different_scales(sparse):
    from sae_lens import Transcoder

    gen = torch.Generator().manual_seed(4)
    w_in, w_out = torch.randn(8, 12, generator=gen), torch.randn(12, 5, generator=gen)
    train, held_out = ((7 * x, 0.01 * torch.relu(x @ w_in) @ w_out) for x in sparse)
    state = torch.get_rng_state()
    untrained, trained = (train_transcoder(*train, s, 4, 0) for s in (UNTRAINED, SETTINGS))
    assert torch.equal(state, torch.get_rng_state()), "the caller's random state is left alone"
    assert isinstance(trained, Transcoder)
    assert trained.W_dec.shape == (32, 5) and trained.W_enc.shape == (8, 32)
    before, after = scores(untrained, *held_out), scores(trained, *held_out)
    assert after["explained_variance"] > 0.8 > before["explained_variance"] + 0.2
    shuffled = held_out[1][torch.randperm(len(held_out[1]), generator=gen)]
    assert scores(trained, held_out[0], shuffled)["explained_variance"] < 0
    again, other = (train_transcoder(*train, UNTRAINED, 4, seed) for seed in (0, 1))
    assert torch.equal(again.W_enc, untrained.W_enc) and not torch.equal(other.W_enc, untrained.W_enc)


class Signs:
    """A dictionary with two latents for each of three coordinates, and one that nothing turns on."""

    device, cfg = "cpu", type("Cfg", (), {"d_sae": 7})

    def encode(self, x):
        return torch.cat([x.clamp(min=0), (-x).clamp(min=0), torch.zeros(len(x), 1)], 1)

    def decode(self, z):
        return z[:, :3] - z[:, 3:6]


def test_scores_of_a_dictionary_that_reconstructs_exactly():
    x = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
    exact = {"explained_variance": 1.0, "l0": 3.0, "dead_share": 1 / 7, "width": 7.0}
    assert scores(Signs(), x) == pytest.approx(exact)
    assert scores(Signs(), x, x + 1)["explained_variance"] < 1


def test_activations_without_variance_are_refused():
    with pytest.raises(ValueError, match="all 5 tokens are equal"):
        scores(Signs(), torch.ones(5, 3))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"architecture": "gated"}, "architecture='gated'; allowed: topk, standard"),
        ({"l1": 0}, "l1=0; allowed: positive"),
        ({"lr": "fast"}, "lr='fast'; allowed: positive"),
        ({"architecture": "topk", "k": 33}, "k=33; allowed: up to .* 32 latents"),
        ({"batch_size": 4096}, "2048 activations .* one batch of 4096"),
        ({"tokens": None}, "tokens=None; allowed: positive"),
    ],
)
def test_bad_settings_are_refused(sparse, changed, message):
    with pytest.raises(ValueError, match=message):
        d.train_dictionary(sparse[0], {**SETTINGS, **changed}, 4, 0, "here")


@pytest.mark.parametrize("expansion", [0, 1.5])
def test_an_expansion_that_is_not_a_whole_number_is_refused(expansion):
    with pytest.raises(ValueError, match=f"expansion={expansion}; allowed: whole numbers from 1"):
        d.settings_of_width(SETTINGS, 8, expansion)


def test_a_transcoder_with_topk_latents_is_refused(sparse):
    with pytest.raises(ValueError, match=r"architecture='topk'.*allowed: standard"):
        train_transcoder(sparse[0], sparse[0], {**SETTINGS, "architecture": "topk"}, 4, 0)
