"""Check the strict matcher: every parameter and buffer fits one rule, and errors name those that do not."""

import dataclasses

import pytest
import torch
from torch import nn
from transformers import BertConfig, BertLMHeadModel

from gaugeport.charts import Chart, chart_of
from gaugeport.charts.chart import FAMILIES
from gaugeport.charts.rules import Rule, matches
from gaugeport.pipeline.measures.gauge_groups import MODEL_TYPES, tiny_model

RMS_RAW = {t: "signed_permutation" for t in MODEL_TYPES} | {
    "gpt_neox": "global_sign_permutation",
    "gpt2": "global_sign_permutation",
}


def tiny(family, seed=0, **config):
    return tiny_model(family, torch.Generator().manual_seed(seed), **config)


@pytest.mark.parametrize("family", MODEL_TYPES)
def test_every_tensor_has_a_rule_and_the_group_follows(family):
    model = tiny(family)
    chart = chart_of(model)
    assert isinstance(chart, Chart)
    names = {n for n, _ in model.named_parameters()} | {n for n, _ in model.named_buffers()}
    assert set(chart.rules) == names
    assert (chart.width, chart.folded, chart.group) == (32, False, RMS_RAW[family])
    assert len(chart.blocks(model)) == 2
    assert chart.embedding(model) is model.get_input_embeddings()
    assert chart.unembedding(model) is model.get_output_embeddings()


@pytest.mark.parametrize("family", MODEL_TYPES)
def test_blocks_are_residual_blocks(family):
    """The output of the last block is the input of the final norm: the stream runs through ``blocks``."""
    model = tiny(family)
    chart, seen = chart_of(model), {}

    def keep(key):
        def hook(module, args, output=None):
            seen[key] = (
                args[0] if output is None else output[0] if isinstance(output, tuple) else output
            ).detach()

        return hook

    chart.blocks(model)[-1].register_forward_hook(keep("last"))
    chart.final_norm(model).register_forward_pre_hook(keep("norm"))
    model(torch.arange(8)[None])
    assert torch.equal(seen["last"], seen["norm"])


@pytest.mark.parametrize("family", MODEL_TYPES)
@pytest.mark.parametrize("tied", [False, True])
def test_matrices_have_one_stream_axis_and_a_tied_unembedding_once(family, tied):
    model = tiny(family, tie_word_embeddings=tied)
    chart = chart_of(model)
    assert chart.tied is tied
    roles = [role for _, role, _ in chart.matrices()]
    assert (roles.count("embed"), roles.count("unembed")) == (1, 0 if tied else 1)
    parameters = dict(model.named_parameters())
    for name, _, axis in chart.matrices():
        assert parameters[name].dim() == 2
        assert parameters[name].shape[axis] == chart.width
        assert [k == "vector" for k in chart.axes(name)] == [i == axis for i in range(2)]


@pytest.mark.parametrize("family", MODEL_TYPES)
def test_readers_name_a_norm_of_the_model(family):
    model = tiny(family)
    chart = chart_of(model)
    for name, rule in chart.rules.items():
        norm = rule.norm_of(name)
        if rule.role in ("gain", "norm_bias"):
            assert name.rpartition(".")[0] == norm
        if norm is not None:
            assert chart.rule(f"{norm}.weight").role == "gain"


def test_qk_norms_of_full_width_are_not_gains():
    model = tiny("olmo2")
    assert model.model.layers[0].self_attn.q_norm.weight.shape == (32,)
    assert chart_of(model).axes("model.layers.0.self_attn.q_norm.weight") == ("none",)


@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma2", "gemma3_text", "olmo2"])
def test_optional_biases_have_rules(family):
    extra = {"mlp_bias": True} if family == "llama" else {}
    chart = chart_of(tiny(family, attention_bias=True, **extra))
    assert chart.axes("model.layers.1.self_attn.o_proj.bias") == ("vector",)
    assert chart.axes("model.layers.1.self_attn.q_proj.bias") == ("none",)


def test_unit_gains_look_folded():
    for family in MODEL_TYPES:
        model = tiny(family)
        chart = chart_of(model)
        with torch.no_grad():
            for name in chart.names("gain"):
                model.get_parameter(name).fill_(1 - chart.family.gain_offset)
        fresh = chart_of(model)
        assert fresh.folded
        larger = {"rms": "orthogonal", "layer": "mean_preserving_orthogonal"}[fresh.norm]
        assert fresh.group == ("signed_permutation" if fresh.family.post_norm else larger)


def test_error_names_all_unmatched_parameters_and_buffers():
    model = tiny("llama")
    model.model.layers[0].extra = nn.Parameter(torch.zeros(3))
    model.model.register_buffer("mean_of_stream", torch.zeros(32))
    with pytest.raises(
        ValueError, match=r"(?s)model\.layers\.0\.extra matches no rule.*mean_of_stream matches no rule"
    ):
        chart_of(model)


def test_wrong_shape_raises():
    model = tiny("llama")
    model.model.norm.weight = nn.Parameter(torch.ones(31))
    with pytest.raises(ValueError, match=r"model\.norm\.weight has shape \(31,\), expected axes"):
        chart_of(model)
    model = tiny("gpt2")
    block = model.transformer.h[0].attn
    block.c_attn.weight = nn.Parameter(block.c_attn.weight.T.contiguous())
    with pytest.raises(ValueError, match=r"c_attn\.weight has shape \(96, 32\)"):
        chart_of(model)


def test_tensor_shared_between_different_axes_raises():
    model = tiny("llama", head_dim=8)
    model.model.layers[0].self_attn.o_proj.weight = model.model.layers[0].self_attn.q_proj.weight
    with pytest.raises(ValueError, match=r"o_proj\.weight shares its tensor with .*q_proj\.weight"):
        chart_of(model)


def test_unknown_architecture_raises_and_names_the_known_ones():
    bert = BertLMHeadModel(BertConfig(vocab_size=9, hidden_size=8, num_hidden_layers=1, num_attention_heads=1,
                                      intermediate_size=8, is_decoder=True))  # fmt: skip
    with pytest.raises(ValueError, match=r"'bert'.*llama, mistral.*gpt2.*new file in gaugeport/charts/"):
        chart_of(bert)
    with pytest.raises(ValueError, match=r"Linear has no config\.model_type"):
        chart_of(nn.Linear(2, 2))


def test_name_that_matches_two_rules_raises(monkeypatch):
    model, llama = tiny("llama"), FAMILIES[0]
    overlapping = Rule("model.{norm,other}.weight", ("gain",), "gain")
    family = dataclasses.replace(llama, rules=(*llama.rules, overlapping))
    monkeypatch.setattr("gaugeport.charts.chart.FAMILIES", (family,))
    with pytest.raises(ValueError, match=r"model\.norm\.weight matches 2 rules"):
        chart_of(model)


def test_patterns_match_block_numbers_and_alternatives():
    assert matches("h.*.{q,k}_proj.{weight,bias}", "h.12.k_proj.bias")
    assert not matches("h.*.{q,k}_proj.weight", "h.12.v_proj.weight")
    assert not matches("h.*.weight", "h.x.weight") and not matches("a.b", "axb")
    with pytest.raises(ValueError, match="at most one block number"):
        matches("h.*.e.*.weight", "h.1.e.2.weight")
    rule = Rule("h.*.q.weight", ("none", "vector"), "read", norm="h.*.ln")
    assert (rule.match("h.3.q.weight"), rule.norm_of("h.3.q.weight"), rule.stream_axis) == ("3", "h.3.ln", 1)


def test_unknown_parameter_name_raises():
    with pytest.raises(KeyError, match=r"no parameter or buffer 'model\.norm\.bias'"):
        chart_of(tiny("llama")).axes("model.norm.bias")
