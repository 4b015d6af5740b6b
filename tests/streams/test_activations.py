"""Residual streams at sites: where they are read, which tokens count, and how a gauge changes them."""

import re

import pytest
import torch

from gaugeport.alignment.evidence import pair_moments
from gaugeport.charts import chart_of
from gaugeport.groups import GlobalSignPermutation, SignedPermutation
from gaugeport.pipeline.measures.gauge_groups import tiny_model
from gaugeport.streams.activations import all_sites, check_site, check_sites, streams_at
from gaugeport.streams.interventions import edited
from gaugeport.transport import transport_model

D = 32


def gen(seed):
    return torch.Generator().manual_seed(seed)


def batch(rows=6, length=10, seed=0):
    return {"input_ids": torch.randint(0, 64, (rows, length), generator=gen(seed))}


def hidden_states(model, inputs):
    with torch.no_grad():
        return model(**inputs, output_hidden_states=True).hidden_states


@pytest.mark.parametrize("family", ["llama", "gpt_neox", "gpt2", "gemma2"])
def test_sites_are_the_inputs_and_outputs_of_blocks(family):
    model = tiny_model(family, gen(0))
    chart = chart_of(model)
    streams = streams_at(model, chart, batch(), all_sites(2), skip_first=0)
    states = hidden_states(model, batch())
    for site, state in zip(("embed", "block0"), states, strict=False):
        rows = state.flatten(0, 1)
        if chart.norm == "layer":
            rows = rows - rows.mean(1, keepdim=True)
        assert torch.allclose(streams[site], rows, atol=1e-5)
    last = streams["block1"]
    assert not torch.allclose(
        last, states[-1].flatten(0, 1), atol=1e-2
    )  # transformers' last state is after the final norm
    with torch.no_grad():
        normed = chart.final_norm(model)(last)
    assert torch.allclose(normed, states[-1].flatten(0, 1), atol=1e-4)


def test_first_tokens_and_padding_are_left_out():
    model = tiny_model("llama", gen(0))
    ids, chart = batch(3, 8)["input_ids"], chart_of(model)
    right = torch.tensor([[1] * 8, [1] * 5 + [0] * 3, [1] * 1 + [0] * 7])
    left = right.flip(1)
    for mask, kept in (
        (None, [range(1, 8)] * 3),
        (right, [range(1, 8), range(1, 5), []]),
        (left, [range(1, 8), range(4, 8), []]),
    ):
        inputs = {"input_ids": ids} if mask is None else {"input_ids": ids, "attention_mask": mask}
        rows = streams_at(model, chart, inputs, ["embed"])["embed"]
        expected = torch.cat(
            [model.model.embed_tokens(ids[i, list(k)]) for i, k in enumerate(kept) if len(k)]
        )
        assert torch.equal(rows, expected.detach())
    assert len(streams_at(model, chart, {"input_ids": ids}, ["embed"], skip_first=3)["embed"]) == 3 * 5
    assert len(streams_at(model, chart, {"input_ids": ids}, ["embed"], skip_first=0)["embed"]) == 3 * 8


@pytest.mark.parametrize("family", ["llama", "gpt_neox"])
def test_streams_follow_a_gauge_of_the_model(family):
    model = tiny_model(family, gen(0))
    g = (SignedPermutation if family == "llama" else GlobalSignPermutation).random(D, gen(1))
    moved, chart = transport_model(model, g), chart_of(model)
    a, b = (streams_at(m, chart, batch(), all_sites(2)) for m in (model, moved))
    for site in a:
        assert torch.allclose(b[site], g.act(a[site]), atol=1e-4)


def test_mean_over_coordinates_is_removed_on_layernorm_only():
    neox, llama = (tiny_model(f, gen(0)) for f in ("gpt_neox", "llama"))
    assert float(streams_at(neox, chart_of(neox), batch(), ["block0"])["block0"].mean(1).abs().max()) < 1e-6
    assert float(streams_at(llama, chart_of(llama), batch(), ["block0"])["block0"].mean(1).abs().max()) > 1e-2


def test_model_in_training_mode_is_measured_without_dropout():
    model = tiny_model("gpt2", gen(0), resid_pdrop=0.5, embd_pdrop=0.5)
    chart = chart_of(model)
    quiet = streams_at(model, chart, batch(), ["block1"])["block1"]
    model.train()
    model.transformer.h[0].eval()
    assert torch.equal(streams_at(model, chart, batch(), ["block1"])["block1"], quiet)
    assert model.training and model.transformer.h[1].training and not model.transformer.h[0].training


def test_sites_are_checked_by_name():
    assert all_sites(2) == ["embed", "block0", "block1"]
    assert check_sites("all", 2) == all_sites(2) and check_sites("block1", 2) == ["block1"]
    assert check_sites(("block1", "embed"), 2) == ["block1", "embed"]
    with pytest.raises(ValueError, match=r"unknown site \['block2'\]; allowed: all, embed, block0, block1"):
        check_sites(["embed", "block2"], 2)


@pytest.mark.parametrize("token", [-100, -1, 64, 1000])
def test_token_ids_outside_the_vocabulary_are_named(token):
    model = tiny_model("llama", gen(0))
    ids = batch()["input_ids"]
    ids[2, 3] = token
    with pytest.raises(ValueError, match=rf"token id {token} is not in the model's vocabulary, 0 to 63"):
        streams_at(model, chart_of(model), {"input_ids": ids}, ["block0"])
    ids[2, 3] = 63
    streams_at(model, chart_of(model), {"input_ids": ids}, ["block0"])


def test_rows_longer_than_the_positions_are_refused_before_the_model_runs():
    model = tiny_model("gpt2", gen(0), max_position_embeddings=10)
    ran = []
    model.transformer.wte.register_forward_hook(lambda *_: ran.append(1))
    with pytest.raises(ValueError, match=r"rows of 11 tokens are longer than the model's 10 positions"):
        streams_at(model, chart_of(model), batch(length=11), ["block0"])
    assert ran == []
    streams_at(model, chart_of(model), batch(length=10), ["block0"])
    rotary = tiny_model("llama", gen(0), max_position_embeddings=10)
    assert len(streams_at(rotary, chart_of(rotary), batch(length=16), ["block0"])["block0"]) == 6 * 15


NAMES = {
    "embed": "embed",
    "block1": "block1",
    "model.layers.0": "block0",
    "blocks.0.hook_resid_pre": "embed",
    "blocks.1.hook_resid_pre": "block0",
    "blocks.1.hook_resid_post": "block1",
    "hook_embed": "embed",
}
"""Names of sites of a Llama with two blocks -> ours."""


@pytest.mark.parametrize("name", NAMES)
def test_names_of_modules_and_hooks_are_sites(name):
    model = tiny_model("llama", gen(0))
    chart = chart_of(model)
    assert check_sites(name, 2, chart) == check_sites([name], 2, chart) == [NAMES[name]]
    stream, ours = (streams_at(model, chart, batch(), [site])[site] for site in (name, NAMES[name]))
    assert torch.equal(stream, ours)
    with edited(model, chart, name, lambda x: 0 * x):
        changed = streams_at(model, chart, batch(), [NAMES[name]], skip_first=0)
    if NAMES[name] != "embed":  # hooks on what enters the first block see it before it is edited
        assert not changed[NAMES[name]].any()
    moments = pair_moments({"a": model}, [("a", "a")], [batch()], [name])["a", "a"]
    assert list(moments) == [NAMES[name]]


def test_each_site_counts_once_however_it_is_named():
    chart = chart_of(tiny_model("llama", gen(0)))
    names = ["block1", "model.layers.1", "hook_embed", "blocks.1.hook_resid_post", "block0"]
    assert check_sites(names, 2, chart) == ["block1", "embed", "block0"]


@pytest.mark.parametrize("family", ["llama", "gpt_neox", "gpt2", "gemma2"])
def test_the_module_name_of_a_block_outputs_its_site(family):
    model = tiny_model(family, gen(0))
    chart = chart_of(model)
    module = {id(m): name for name, m in model.named_modules()}[id(chart.blocks(model)[1])]
    assert check_sites(module, 2, chart) == ["block1"]


@pytest.mark.parametrize(
    "name",
    [
        "block2", "block-1", "block01", "", "model.layers.2", "model.layers.-1", "model.layers.1.mlp",
        "transformer.h.1", "blocks.2.hook_resid_post", "blocks.2.hook_resid_pre.x", "blocks.3.hook_resid_pre",
        "blocks.1.hook_mlp_out", "blocks.-1.hook_resid_post", 1, None, ["block0"], 1.5,
    ],
)  # fmt: skip
def test_other_names_are_refused_with_what_is_allowed(name):
    chart = chart_of(tiny_model("llama", gen(0)))
    allowed = r"allowed: all, embed, block0, block1; for block K also model\.layers\.K, blocks\.K\.hook_resid"
    with pytest.raises(ValueError, match=rf"unknown site .*{re.escape(str(name))}.*{allowed}"):
        check_sites(["block0", name], 2, chart)
    with pytest.raises(ValueError, match="unknown site"):
        check_sites("model.layers.1", 2)  # without a chart no module is known


def test_token_embedding_of_a_model_that_adds_positions_is_no_site():
    """In GPT-2 what enters the first block is not ``hook_embed``: positions are added in between."""
    chart = chart_of(tiny_model("gpt2", gen(0)))
    assert check_sites("blocks.0.hook_resid_pre", 2, chart) == ["embed"]
    with pytest.raises(ValueError, match=r"unknown site \['hook_embed'\].*hook_resid_pre$"):
        check_sites("hook_embed", 2, chart)


def test_one_site_is_not_all_of_them():
    assert check_site("blocks.1.hook_resid_post", 2) == "block1"
    with pytest.raises(ValueError, match="expected one site, got 'all'; allowed: embed, block0, block1"):
        check_site("all", 2)
