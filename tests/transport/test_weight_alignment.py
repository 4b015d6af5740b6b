"""Weights place every coordinate, neuron and head, in whatever order neurons and heads are."""

import pytest
import torch

from gaugeport.alignment.align import align
from gaugeport.charts import chart_of
from gaugeport.groups import GROUPS
from gaugeport.pipeline.measures.gauge_groups import tiny_model
from gaugeport.transport import HeadGauge, NeuronGauge, transport_model
from gaugeport.transport.weight_alignment import align_weights


def disordered(model_type, noise=0.05, seed=1):
    """Return a model, and a noisy copy with a planted gauge and its neurons and heads in another order."""
    generator = torch.Generator().manual_seed(seed)
    model = tiny_model(model_type, generator).float()
    gauge = GROUPS[chart_of(model).group].random(chart_of(model).width, generator)
    neurons, heads = NeuronGauge.random(model, generator), HeadGauge.random(model, generator)
    copy = transport_model(heads.apply(neurons.apply(model)), gauge)
    with torch.no_grad():
        for p in copy.parameters():
            if p.dim() == 2:
                p += noise * p.std() * torch.randn(p.shape, generator=generator)
    return model, copy, gauge, neurons, heads


@pytest.mark.parametrize("model_type", ["llama", "qwen2", "gemma2", "olmo2", "phi3", "gpt_neox", "gpt2"])
def test_gauge_neurons_and_heads_are_found_in_any_order(model_type):
    a, b, gauge, neurons, heads = disordered(model_type)
    found = align_weights(a, b)
    assert found.gauge == gauge and found.neurons == neurons and found.heads == heads
    assert found.settled and len(found.objectives) >= 1


def test_row_by_row_evidence_loses_what_an_order_hides():
    """The control: with a small vocabulary of evidence, matrices compared row by row mislead."""
    a, b, gauge, _, _ = disordered("llama", noise=0.3)
    few = torch.arange(6)
    row_by_row = align(a, b, evidence="weights", token_ids=few).gauge
    found = align_weights(a, b, token_ids=few).gauge
    right = [
        float(((g.perm == gauge.perm) & (g.sign == gauge.sign)).double().mean()) for g in (row_by_row, found)
    ]
    assert right[1] == 1 and right[0] < 0.9


def test_a_rotation_of_folded_models_is_found_too():
    from gaugeport.charts import fold_gains
    from gaugeport.groups import Orthogonal

    generator = torch.Generator().manual_seed(2)
    a = fold_gains(tiny_model("llama", generator).float())
    rotation = Orthogonal.random(32, generator)
    b = transport_model(NeuronGauge.random(a, generator).apply(a), rotation)
    found = align_weights(a, b)
    torch.testing.assert_close(found.gauge.matrix, rotation.matrix, rtol=0, atol=1e-4)


def test_an_unknown_group_is_refused():
    model = tiny_model("llama", torch.Generator().manual_seed(0))
    with pytest.raises(ValueError, match="unknown gauge group 'u'; allowed: permutation"):
        align_weights(model, model, group="u")
