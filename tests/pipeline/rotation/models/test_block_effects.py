"""Ablating blocks of a language model: effects equal constant blocks, and predictors follow theory."""

import copy

import pytest
import torch
from torch import nn
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

from gaugeport.charts import chart_of
from gaugeport.pipeline.rotation.models import block_effects
from gaugeport.pipeline.rotation.models.block_effects import (
    ABLATED,
    attribution_patching,
    cross_entropy,
    integrated_gradients,
    mean_streams,
    measure_effects,
)

ROUNDING = 1e-9
SIZES = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 24, "max_position_embeddings": 32}


def neox(layers=3, scale=0.4):
    """Return a random GPT-NeoX in float64, with weights so large that the loss is far from linear."""
    config = GPTNeoXConfig(**SIZES, vocab_size=30, num_hidden_layers=layers, tie_word_embeddings=False)
    model, noise = GPTNeoXForCausalLM(config).eval().double(), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(scale * torch.randn(p.shape, generator=noise, dtype=p.dtype) + (p.dim() == 1) * p)
    return model


def batch(rows=3, length=10):
    return {"input_ids": torch.randint(30, (rows, length), generator=torch.Generator().manual_seed(1))}


@pytest.fixture(scope="module")
def model():
    return neox()


@pytest.mark.parametrize("ablated", ABLATED)
def test_completeness_grows_with_the_number_of_points(model, ablated):
    chart, seen = chart_of(model), [batch(), batch(2, 7)]
    mean = mean_streams(model, chart, seen)
    measured = measure_effects(model, chart, seen, mean, ablated)
    assert list(measured) == ["block0", "block1", "block2"]
    assert min(abs(v) for v in measured.values()) > 1e-2
    errors = []
    for points in (2, 32, 512):
        predicted = integrated_gradients(model, chart, seen, mean, ablated, points)
        errors.append(max(abs(predicted[k] - measured[k]) for k in measured))
    assert errors[0] > errors[1] > errors[2] and errors[2] <= 1e-3
    linear = attribution_patching(model, chart, seen, mean, ablated)
    assert max(abs(linear[k] - measured[k]) for k in measured) > 10 * errors[1]


def test_stacking_points_of_the_path_changes_nothing(model, monkeypatch):
    chart, seen = chart_of(model), [batch()]
    mean = mean_streams(model, chart, seen)
    together = integrated_gradients(model, chart, seen, mean, points=5)
    monkeypatch.setattr(block_effects, "TOKENS_PER_PASS", 1)
    assert integrated_gradients(model, chart, seen, mean, points=5) == pytest.approx(together, abs=ROUNDING)
    assert all(p.requires_grad and p.grad is None for p in model.parameters())


@pytest.mark.parametrize("ablated", ABLATED)
def test_predictors_are_exact_where_the_loss_is_linear(ablated):
    """The model is sure of one token, so its loss is linear; no final norm, and a silent last block."""
    model = neox(layers=2, scale=0.2)
    model.gpt_neox.final_layer_norm = nn.Identity()
    with torch.no_grad():
        model.gpt_neox.embed_in.weight *= 25
        model.gpt_neox.embed_in.weight[:, 0] = 60.0
        for n, layer in enumerate(model.gpt_neox.layers):
            for writer in (layer.attention.dense, layer.mlp.dense_4h_to_h):
                rows = slice(None) if n == 1 else 0  # the coordinate that is constant stays so
                writer.weight *= 10  # so that the update of block 0 matters beside the embedding
                writer.weight[rows] = 0
                writer.bias[rows] = 0
        head = model.get_output_embeddings().weight
        head[:, 0] = 0
        head[7, 0] = 2.0
    seen = [batch()]
    chart = chart_of(neox(layers=2))  # the chart of a model with its final norm
    mean = mean_streams(model, chart, seen)
    measured = measure_effects(model, chart, seen, mean, ablated)
    assert abs(measured["block0"]) > 1e-2
    for predictor in (attribution_patching, integrated_gradients):
        assert predictor(model, chart, seen, mean, ablated) == pytest.approx(measured, abs=ROUNDING)


class Clamped(nn.Module):
    """Return a constant stream, or add a constant to the stream."""

    def __init__(self, stream=None, update=None):
        super().__init__()
        self.stream, self.update = stream, update

    def forward(self, x, *args, **kwargs):
        return self.stream.expand_as(x) if self.update is None else x + self.update


def test_effect_equals_a_model_with_a_constant_in_the_blocks_place(model):
    chart, seen = chart_of(model), batch()
    ids = seen["input_ids"]
    with torch.no_grad():
        # the last of the hidden states is behind the final norm and is not used
        streams = model(ids, output_hidden_states=True).hidden_states
        flat = [x.flatten(0, 1).mean(0) for x in streams]
        before = float(model(ids, labels=ids).loss)
        expected = {}
        for ablated, block in (
            ("stream", Clamped(stream=flat[2])),
            ("update", Clamped(update=flat[2] - flat[1])),
        ):
            other = copy.deepcopy(model)
            other.gpt_neox.layers[1] = block
            expected[ablated] = float(other(ids, labels=ids).loss) - before
    mean = mean_streams(model, chart, [seen])
    assert torch.allclose(mean["embed"], flat[0]) and torch.allclose(mean["block1"], flat[2])
    assert cross_entropy(model, [seen]) == pytest.approx(before, abs=1e-6)  # transformers' is in float32
    for ablated, rise in expected.items():
        assert measure_effects(model, chart, [seen], mean, ablated)["block1"] == pytest.approx(rise, abs=1e-6)


@pytest.mark.parametrize("side", ["right", "left"])
def test_padding_does_not_count(model, side):
    chart = chart_of(model)
    rows = [batch(1, n) for n in (10, 6)]
    short, junk = rows[1]["input_ids"], torch.full((1, 4), 3)
    padded = torch.cat([short, junk] if side == "right" else [junk, short], 1)
    mask = torch.ones(2, 10, dtype=torch.int64)
    mask[1, slice(6, 10) if side == "right" else slice(0, 4)] = 0
    near = ROUNDING if side == "right" else 1e-6  # rotary angles of shifted positions are in float32
    together = [{"input_ids": torch.cat([rows[0]["input_ids"], padded]), "attention_mask": mask}]
    one, two = mean_streams(model, chart, rows), mean_streams(model, chart, together)
    assert all(torch.allclose(one[site], two[site], atol=near) for site in one)
    assert cross_entropy(model, together) == pytest.approx(cross_entropy(model, rows), abs=near)
    for ablated in ABLATED:
        for effect in (measure_effects, attribution_patching, integrated_gradients):
            apart = effect(model, chart, rows, one, ablated)
            assert effect(model, chart, together, two, ablated) == pytest.approx(apart, abs=near)


def test_bfloat16_effects_are_near_those_of_float64(model):
    chart, seen = chart_of(model), [batch(8, 16)]
    small = copy.deepcopy(model).to(torch.bfloat16)
    for ablated in ABLATED:
        exact = measure_effects(model, chart, seen, mean_streams(model, chart, seen), ablated)
        mean = mean_streams(small, chart, seen)
        assert mean["block0"].dtype == torch.float64
        measured = measure_effects(small, chart, seen, mean, ablated)
        predicted = integrated_gradients(small, chart, seen, mean, ablated)
        tolerance = 0.1 * max(map(abs, exact.values()))
        assert measured == pytest.approx(exact, abs=tolerance)
        assert predicted == pytest.approx(exact, abs=tolerance)


def test_bad_input_is_refused(model):
    chart, seen = chart_of(model), [batch()]
    mean = mean_streams(model, chart, seen)
    with pytest.raises(ValueError, match="ablated='head'; allowed: stream, update"):
        measure_effects(model, chart, seen, mean, "head")
    with pytest.raises(ValueError, match="points=0; allowed: 1 or more"):
        integrated_gradients(model, chart, seen, mean, points=0)
    with pytest.raises(ValueError, match="no tokens to take means over"):
        mean_streams(model, chart, [])
    for effect in (measure_effects, attribution_patching):
        with pytest.raises(ValueError, match="no tokens to predict; allowed: rows of two tokens"):
            effect(model, chart, [batch(2, 1)], mean)
    model.train()
    try:
        with pytest.raises(ValueError, match=r"training mode.*allowed: model.eval"):
            cross_entropy(model, seen)
    finally:
        model.eval()
