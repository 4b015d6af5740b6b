"""Check that folding keeps the function, sets gains to 1, unties embeddings, and raises where it cannot."""

import copy

import pytest
import torch
from transformers import AutoModelForCausalLM

from gaugeport.charts import chart_of, fold_gains
from gaugeport.charts.logit_change import (
    logits_of,
    neuron_yardstick,
    norms_in_float64,
    random_tokens,
    relative_change,
)
from gaugeport.pipeline.measures.gauge_groups import MODEL_TYPES, tiny_model

POST_NORM = ("gemma2", "gemma3_text", "olmo2")
FOLDABLE = tuple(t for t in MODEL_TYPES if t not in POST_NORM)


def model_and_tokens(family, seed=0, **config):
    generator = torch.Generator().manual_seed(seed)
    model = tiny_model(family, generator, **config)
    return model, random_tokens(model, generator), generator


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("family", FOLDABLE)
def test_logits_change_by_rounding_only(family, tied):
    model, tokens, generator = model_and_tokens(family, tie_word_embeddings=tied)
    before = copy.deepcopy(model.state_dict())
    folded = fold_gains(model)
    chart = chart_of(folded)
    assert chart.folded and not chart.tied and folded.config.tie_word_embeddings is False
    assert chart.group == {"rms": "orthogonal", "layer": "mean_preserving_orthogonal"}[chart.norm]
    yardstick = neuron_yardstick(chart_of(model), model, copy.deepcopy(model), tokens, generator)
    assert relative_change(logits_of(model, tokens), logits_of(folded, tokens)) <= yardstick
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert chart_of(model).tied is tied


def test_float16_overflow_raises_before_anything_changes():
    model, tokens, _ = model_and_tokens("gpt_neox")
    norm = model.gpt_neox.layers[0].input_layernorm
    norm.weight.data[3], norm.bias.data[3] = 2e-6, 0.3
    half = copy.deepcopy(model).half()
    before = copy.deepcopy(half.state_dict())
    with pytest.raises(
        ValueError, match=r"overflows float16.*layers\.0\.input_layernorm\.bias \(1\).*float32"
    ):
        fold_gains(half, inplace=True)
    assert all(torch.equal(v, before[k]) for k, v in half.state_dict().items())
    assert bool(torch.isfinite(logits_of(fold_gains(model), tokens)).all())


def test_float16_overflow_of_a_tied_unembedding_raises():
    model = model_and_tokens("llama", tie_word_embeddings=True)[0].half()
    model.model.norm.weight.data[:] = 6e4
    model.model.embed_tokens.weight.data[0, 0] = 3.0
    with pytest.raises(ValueError, match=r"overflows float16.*: lm_head\.weight"):
        fold_gains(model)


@pytest.mark.parametrize("family", FOLDABLE)
def test_float64_folding_is_exact_to_rounding(family):
    model, tokens, _ = model_and_tokens(family)
    model = model.double()
    folded = fold_gains(model)
    with norms_in_float64(model), norms_in_float64(folded):
        assert relative_change(logits_of(model, tokens), logits_of(folded, tokens)) <= 1e-12


@pytest.mark.parametrize("family", ["qwen2", "gpt2"])
def test_folding_in_bfloat16_rounds_each_weight_once(family):
    model, _, _ = model_and_tokens(family)
    wide, half = fold_gains(model.bfloat16().float()), fold_gains(model.bfloat16())
    expected = dict(wide.named_parameters())
    for name, p in half.named_parameters():
        assert p.dtype == torch.bfloat16
        assert torch.equal(p, expected[name].bfloat16()), name


@pytest.mark.parametrize("family", ["qwen2", "gpt2"])
def test_untied_model_saves_and_loads(family, tmp_path):
    model, tokens, _ = model_and_tokens(family, tie_word_embeddings=True)
    folded = fold_gains(model)
    folded.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(logits_of(loaded, tokens), logits_of(folded, tokens))


def test_folding_in_place_and_folding_twice():
    model, _, _ = model_and_tokens("llama")
    assert fold_gains(model, inplace=True) is model
    again = fold_gains(model)
    assert again is not model
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), model.parameters(), strict=True))


@pytest.mark.parametrize("family", POST_NORM)
def test_post_norm_families_raise(family):
    model, _, _ = model_and_tokens(family)
    with pytest.raises(ValueError, match=r"post-norm.*writer's output"):
        fold_gains(model)


def test_zero_layernorm_gain_raises_before_anything_changes():
    model, _, _ = model_and_tokens("gpt2")
    with torch.no_grad():
        model.transformer.h[1].ln_2.weight[3] = 0
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match=r"exactly 0.*transformer\.h\.1\.ln_2\.weight \(1\)"):
        fold_gains(model, inplace=True)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_zero_rmsnorm_gain_is_folded():
    model, tokens, generator = model_and_tokens("llama")
    with torch.no_grad():
        model.model.norm.weight[3] = 0
    yardstick = neuron_yardstick(chart_of(model), model, copy.deepcopy(model), tokens, generator)
    assert relative_change(logits_of(model, tokens), logits_of(fold_gains(model), tokens)) <= yardstick
