"""The graph computes what the model does, and a patch reaches all that reads the source."""

import pytest
import torch

from dyck_models import generic
from gaugeport.charts.logit_change import norms_in_float64
from gaugeport.models.dyck import DyckConfig, DyckModel
from gaugeport.pipeline.rotation.toy import components as c
from gaugeport.pipeline.rotation.toy.effects import component_edges
from gaugeport.pipeline.rotation.toy.strings import draw_strings

ROUNDING = 1e-12
"""Largest rounding error of float64, norms included, for quantities of order 1."""


@pytest.fixture(scope="module")
def rows():
    return draw_strings(12, (2, 18), 20, torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def model():
    """A model in float64 throughout: what should be equal is equal up to :data:`ROUNDING`."""
    model = generic(scale=0.4).double()
    with norms_in_float64(model):
        yield model


def test_the_papers_model_has_its_parameters_components_and_edges():
    model = DyckModel(DyckConfig())
    assert sum(p.numel() for p in model.parameters()) == 104_448
    layers = [[f"L{layer}H{h}" for h in range(4)] + [f"L{layer}M"] for layer in range(2)]
    assert c.components(model) == layers[0] + layers[1]
    # sources read by: each head of layer 0, its MLP, each head of layer 1, its MLP, the output
    assert len(c.edges(model)) == 4 * 2 + 6 + 4 * 7 + 11 + 12


def test_the_graph_computes_what_the_model_does(model, rows):
    with torch.no_grad():
        by_graph, by_model = c.run_graph(model, rows["input_ids"]).logits, model(rows["input_ids"]).logits
        of_other_rows = model(rows["input_ids"].flip(0)).logits
    assert (by_graph - by_model).abs().max() < ROUNDING < (of_other_rows - by_model).abs().max()


def test_patching_every_edge_of_a_source_is_patching_the_source(model, rows):
    ids = rows["input_ids"]
    with torch.no_grad():
        mean = c.mean_outputs(model, ids)
        for source in ("embed", "L0H1", "L0M", "L1H0"):
            whole = c.run_graph(model, ids, {(source, c.ALL): mean[source]}).logits
            each = {e: mean[source] for e in c.edges(model) if e[0] == source}
            edge_by_edge = c.run_graph(model, ids, each).logits
            first_edge = c.run_graph(model, ids, dict([next(iter(each.items()))])).logits
            error, without_others = (whole - edge_by_edge).abs().max(), (whole - first_edge).abs().max()
            assert error < ROUNDING < without_others, source


def test_taking_unaffected_sources_as_known_changes_nothing(model, rows):
    ids = rows["input_ids"]
    with torch.no_grad():
        clean, mean = c.run_graph(model, ids), c.mean_outputs(model, ids)
        for edge in [*c.edges(model), *component_edges(model)]:
            patch = {edge: mean[edge[0]]}
            known = c.unaffected_sources(model, clean.written, edge)
            computed = c.run_graph(model, ids, patch).logits
            shortened = c.run_graph(model, ids, patch, known).logits
            assert (computed - shortened).abs().max() < ROUNDING, edge


def test_attention_weights_are_those_of_the_heads(model, rows):
    ids = rows["input_ids"]
    with torch.no_grad():
        weights, written = c.attention_weights(model, ids)["L0H1"], c.run_graph(model, ids).written
        layer = model.model.layers[0]
        x = layer.input_layernorm(written["embed"] + written["position"])
        v = layer.self_attn.v_proj(x).unflatten(-1, (2, -1))[:, :, 1]
        out = layer.self_attn.o_proj.weight.unflatten(1, (2, -1))[:, 1]
    assert torch.allclose(weights.sum(-1), torch.ones_like(weights.sum(-1)))
    assert ((weights @ v) @ out.T - written["L0H1"]).abs().max() < ROUNDING


def test_an_edge_against_the_order_is_refused(model, rows):
    with pytest.raises(ValueError, match=r"no edge \('L1M', 'L0M'\).*allowed"):
        c.run_graph(model, rows["input_ids"], {("L1M", "L0M"): torch.zeros(16)})
