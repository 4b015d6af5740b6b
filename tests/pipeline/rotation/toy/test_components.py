"""The model as a graph: it computes what the model computes, and gradients along a path add up to the ablation."""

import pytest
import torch

from dyck_models import generic
from gaugeport.charts import fold_gains
from gaugeport.charts.logit_change import norms_in_float64
from gaugeport.models.dyck import DyckConfig, DyckModel
from gaugeport.pipeline.rotation.toy import components as c
from gaugeport.pipeline.rotation.toy.effects import (
    attribution_patching,
    component_edges,
    integrated_gradients,
    measure_effects,
)
from gaugeport.pipeline.rotation.toy.strings import draw_strings


@pytest.fixture(scope="module")
def rows():
    return draw_strings(12, (2, 18), 20, torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def model():
    """In float64 throughout: what should be equal is, to :data:`ROUNDING`."""
    found = generic(scale=0.4).double()
    with norms_in_float64(found):
        yield found


ROUNDING = 1e-12
"""DESIGN's allowance for float64, norms included; quantities here are of order 1."""


def test_sizes_and_names():
    full = DyckModel(DyckConfig())
    assert sum(p.numel() for p in full.parameters()) == 104_448
    assert c.components(full) == [
        "L0H0",
        "L0H1",
        "L0H2",
        "L0H3",
        "L0M",
        "L1H0",
        "L1H1",
        "L1H2",
        "L1H3",
        "L1M",
    ]
    # 2 inputs: heads of layer 0 read 2 each, its MLP 6, heads of layer 1 read 7 each, its MLP 11, the output
    # 12
    assert len(c.edges(full)) == 4 * 2 + 6 + 4 * 7 + 11 + 12


def test_the_graph_computes_what_the_model_does(model, rows):
    with torch.no_grad():
        found, wanted = c.run_graph(model, rows["input_ids"]).logits, model(rows["input_ids"]).logits
        changed = model(rows["input_ids"].flip(0)).logits
    assert (found - wanted).abs().max() < ROUNDING < (changed - wanted).abs().max()


def test_training_in_groups_of_like_length_is_the_same_loss(model, rows):
    found = []
    for training in (False, True):
        model.train(training).zero_grad()
        loss = model(rows["input_ids"], rows["attention_mask"], rows["labels"]).loss
        loss.backward()
        found.append((loss.detach(), model.model.embed_tokens.weight.grad.clone()))
    model.eval().zero_grad()
    (whole, gradient), (grouped, other) = found
    assert abs(whole - grouped) < ROUNDING and (gradient - other).abs().max() < ROUNDING
    shifted = {**rows, "labels": rows["labels"].roll(1, 0)}
    assert abs(model(shifted["input_ids"], None, shifted["labels"]).loss - whole) > 1e-2


def test_patching_every_edge_of_a_source_is_patching_the_source(model, rows):
    ids = rows["input_ids"]
    with torch.no_grad():
        mean = c.mean_outputs(model, ids)
        for source in ("embed", "L0H1", "L0M", "L1H0"):
            whole = c.run_graph(model, ids, {(source, c.ALL): mean[source]}).logits
            each = {e: mean[source] for e in c.edges(model) if e[0] == source}
            apart = c.run_graph(model, ids, each).logits
            one = c.run_graph(model, ids, dict([next(iter(each.items()))])).logits
            assert (whole - apart).abs().max() < ROUNDING < (whole - one).abs().max(), source


def test_known_sources_change_nothing(model, rows):
    ids = rows["input_ids"]
    with torch.no_grad():
        clean, mean = c.run_graph(model, ids), c.mean_outputs(model, ids)
        for edge in [*c.edges(model), *component_edges(model)]:
            patch = {edge: mean[edge[0]]}
            whole = c.run_graph(model, ids, patch).logits
            short = c.run_graph(model, ids, patch, c.unaffected_sources(model, clean.written, edge)).logits
            assert (whole - short).abs().max() < ROUNDING, edge


def test_folding_leaves_outputs_and_effects_unchanged(model, rows):
    ids, labels = rows["input_ids"], rows["labels"]
    folded = fold_gains(model)
    patched = component_edges(model)
    with norms_in_float64(folded):
        with torch.no_grad():
            assert (folded(ids).logits - model(ids).logits).abs().max() < ROUNDING
        one = measure_effects(model, ids, labels, patched, c.mean_outputs(model, ids))
        two = measure_effects(folded, ids, labels, patched, c.mean_outputs(folded, ids))
    assert one == pytest.approx(two, abs=ROUNDING)


def test_completeness_grows_with_the_number_of_steps(model, rows):
    ids, labels, mean = rows["input_ids"], rows["labels"], c.mean_outputs(model, rows["input_ids"])
    patched = [*component_edges(model), ("L0M", "L1M"), ("embed", "L1H1"), ("position", c.OUTPUT)]
    real = measure_effects(model, ids, labels, patched, mean)
    errors = []
    for steps in (2, 32, 512):
        found = integrated_gradients(model, ids, labels, patched, mean, steps)
        errors.append(max(abs(found[e] - real[e]) for e in patched))
    assert errors[0] > errors[1] > errors[2] and errors[2] <= 1e-3
    worst = max(abs(attribution_patching(model, ids, labels, patched, mean)[e] - real[e]) for e in patched)
    assert worst > 10 * errors[1], "the clean gradient alone is no substitute on a generic model"


def test_both_predictors_are_exact_where_the_loss_is_linear(model, rows, monkeypatch):
    """A linear read-out: a loss linear in the logits, patched at edges to the output, the final norm taken away."""
    linear = generic(scale=0.4).double()
    monkeypatch.setattr(linear.model.norm, "forward", lambda x: x)
    weights = torch.randn(51, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    monkeypatch.setattr(
        "gaugeport.pipeline.rotation.toy.effects.mean_loss", lambda logits, labels: (logits @ weights).mean()
    )
    ids, labels, mean = rows["input_ids"], rows["labels"], c.mean_outputs(linear, rows["input_ids"])
    patched = [(s, c.OUTPUT) for s in c.components(linear)]
    real = measure_effects(linear, ids, labels, patched, mean)
    scale = max(abs(v) for v in real.values())
    for predictor in (attribution_patching, integrated_gradients):
        found = predictor(linear, ids, labels, patched, mean)
        assert max(abs(found[e] - real[e]) for e in patched) < ROUNDING * max(1, scale)


def test_attention_weights_are_those_of_the_heads(model, rows):
    ids = rows["input_ids"]
    with torch.no_grad():
        weights, written = c.attention_weights(model, ids), c.run_graph(model, ids).written
        layer = model.model.layers[0]
        x = layer.input_layernorm(written["embed"] + written["position"])
        v = layer.self_attn.v_proj(x).unflatten(-1, (2, -1))[:, :, 1]
        out = layer.self_attn.o_proj.weight.unflatten(1, (2, -1))[:, 1]
    assert torch.allclose(weights["L0H1"].sum(-1), torch.ones_like(weights["L0H1"].sum(-1)))
    assert ((weights["L0H1"] @ v) @ out.T - written["L0H1"]).abs().max() < ROUNDING


def test_bad_input_is_refused(model, rows):
    with pytest.raises(ValueError, match=r"no edge.*L1M.*allowed"):
        c.run_graph(model, rows["input_ids"], {("L1M", "L0M"): torch.zeros(16)})
    with pytest.raises(ValueError, match="points=0; allowed: 1"):
        integrated_gradients(model, rows["input_ids"], rows["labels"], [], {}, 0)
