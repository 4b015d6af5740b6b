"""Importance scores: equal to independent computations, and exact under signs."""

import itertools

import pytest
import torch

from gaugeport.charts import chart_of
from gaugeport.charts.logit_change import norms_in_float64
from gaugeport.groups import GlobalSignPermutation, SignedPermutation
from gaugeport.pipeline.measures.gauge_groups import tiny_model
from gaugeport.pipeline.measures.importance import LISTS
from gaugeport.streams.interventions import edited
from gaugeport.transport import transport_model
from gaugeport.transport.directions import transport_direction, transport_magnitude
from importance_models import FAMILIES, D, batches_of, gen, plant_of, scores, wide


def moved(score, name, g):
    return (transport_direction if LISTS[name].signed else transport_magnitude)(score, g)


def apart(x, y):
    return float((x - y).abs().max() / y.abs().max())


# the scores


def test_activations_and_gradients_against_hidden_states():
    """Compare with the ``hidden_states`` of transformers and a backward pass through the whole model."""
    model, (batch,) = wide("llama"), batches_of(1)
    ids = batch["input_ids"]
    out = model(ids, output_hidden_states=True, use_cache=False)
    x = out.hidden_states[1]  # the output of block 0
    loss = torch.nn.functional.cross_entropy(
        out.logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten(), reduction="sum"
    )
    (slope,) = torch.autograd.grad(loss, x)
    x, slope = x[:, 1:].flatten(0, 1).detach(), slope[:, 1:].flatten(0, 1)
    found = scores(model, [batch])
    assert torch.allclose(found["activation"], x.abs().mean(0), atol=1e-12)
    assert torch.allclose(found["mean_activation"], x.mean(0), atol=1e-12)
    assert torch.allclose(found["mean_gradient"], slope.mean(0), atol=1e-12)
    assert torch.allclose(found["gradient_activation"], (x * slope).abs().mean(0), atol=1e-12)
    everything = scores(model, [batch], skip_first=0)
    assert apart(everything["activation"], found["activation"]) > 1e-2, "the first token was left out"


def test_massive_tokens_are_left_out_of_every_score():
    model, (batch,) = wide("llama"), batches_of(1)
    ids = batch["input_ids"].clamp_(max=60)
    ids[1, 5] = ids[2, 0] = ids[3, 0] = 63
    with torch.no_grad():
        model.model.embed_tokens.weight[63] *= 1000
        x = model(ids, output_hidden_states=True).hidden_states[1]
    found, kept = (scores(model, [batch], skip_first=0, massive=m) for m in ("leave_out", "keep"))
    assert torch.allclose(found["activation"], x[ids != 63].abs().mean(0), atol=1e-12)
    for name in LISTS:
        assert apart(kept[name], found[name]) > 1e-2, name
    masked = scores(model, [{"input_ids": ids}], skip_first=1)
    assert apart(masked["activation"], found["activation"]) < 1, "the middle one is left out by its norm"


def test_neurons_against_the_mlp():
    model, (batch,) = wide("llama"), batches_of(1)
    mlp, seen = model.model.layers[1].mlp, []
    handle = mlp.register_forward_pre_hook(lambda m, args: seen.append(args[0]))
    with torch.no_grad():
        model(batch["input_ids"])
        handle.remove()
        hidden = mlp.act_fn(mlp.gate_proj(seen[0])) * mlp.up_proj(seen[0])
    found = scores(model, [batch], "block1")["neuron_activation"]
    assert torch.allclose(found, hidden[:, 1:].abs().mean((0, 1)), atol=1e-12)
    assert apart(scores(model, [batch], "block0")["neuron_activation"], found) > 0.1, (
        "of the block that ends there"
    )


@pytest.mark.parametrize("baseline", ["mean", "zero"])
def test_integrated_gradients_against_finite_differences(baseline):
    """Compute every partial derivative on the path by central differences of the loss."""
    model, steps, eps = wide("llama"), 3, 1e-4
    ids = batches_of(1, rows=1, length=4)[0]["input_ids"]
    chart, slopes = chart_of(model), torch.zeros(3, D, dtype=torch.float64)
    with norms_in_float64(model), torch.no_grad():
        x = model(ids, output_hidden_states=True, use_cache=False).hidden_states[1]
        start = x[:, 1:].mean((0, 1)) if baseline == "mean" else torch.zeros(D, dtype=torch.float64)
        for step in range(steps):
            point = x.clone()
            point[:, 1:] = start + (step + 0.5) / steps * (x[:, 1:] - start)
            many = point.repeat(2 * 3 * D, 1, 1)
            for row, (sign, token, i) in enumerate(itertools.product((1, -1), range(3), range(D))):
                many[row, 1 + token, i] += sign * eps
            with edited(model, chart, "block0", lambda stream, many=many: many):
                logits = model(ids.expand(len(many), -1), use_cache=False).logits[:, :-1]
            targets = ids[:, 1:].expand(len(many), -1)
            losses = torch.nn.functional.cross_entropy(logits.transpose(1, 2), targets, reduction="none").sum(
                1
            )
            slopes += (losses[: 3 * D] - losses[3 * D :]).view(3, D) / (2 * eps) / steps
        expected = ((x[0, 1:] - start) * slopes).abs().mean(0)
        found = scores(model, [{"input_ids": ids}], ig_steps=steps, baseline=baseline)
    # the float32 softmax of eager attention rounds a loss by 1e-7, divided by 2e-4; central differences err
    # by about eps²
    assert apart(found["integrated_gradients"], expected) < 5e-3
    assert apart(found["gradient_activation"], expected) > 0.1, (
        "the gradient at the end differs from the mean on the path"
    )


def test_scores_do_not_depend_on_batches_and_padding():
    model, rows = wide("llama"), torch.cat([b["input_ids"] for b in batches_of()])
    whole = scores(model, [{"input_ids": rows}])
    padded = torch.cat([rows, torch.zeros(8, 3, dtype=torch.long)], 1)
    mask = (torch.arange(13) < 10).long().expand(8, -1)
    for other in ([{"input_ids": r} for r in rows.split(3)], [{"input_ids": padded, "attention_mask": mask}]):
        again = scores(model, other)
        assert all(apart(again[name], whole[name]) < 1e-6 for name in LISTS)
    unmasked = scores(model, [{"input_ids": padded}])
    assert all(apart(unmasked[name], whole[name]) > 1e-3 for name in LISTS)


def test_model_is_left_unchanged():
    model = tiny_model("llama", gen(0)).train()
    model.lm_head.weight.requires_grad_(False)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    scores(model)
    assert all(m.training for m in model.modules()) and not model.lm_head.weight.requires_grad
    assert model.model.embed_tokens.weight.requires_grad
    assert all(p.grad is None for p in model.parameters())
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


# exactness under gauges


@pytest.mark.parametrize("family", FAMILIES)
def test_signs_move_scores_exactly(family):
    model = tiny_model(family, gen(0))
    cls = GlobalSignPermutation if chart_of(model).norm == "layer" else SignedPermutation
    sign = torch.tensor(-1) if cls is GlobalSignPermutation else plant_of(model, 5).sign
    g = cls(torch.arange(D), sign)
    here, there = scores(model), scores(transport_model(model, g))
    for name in LISTS:
        kept = LISTS[name].space == "neuron"
        assert torch.equal(there[name], here[name] if kept else moved(here[name], name, g)), name
    assert apart(there["mean_activation"], here["mean_activation"]) > 0.1, "the sign counts"


# bad input


def test_bad_input():
    model = tiny_model("llama", gen(0))
    with pytest.raises(ValueError, match="unknown site"):
        scores(model, site="block7")
    with pytest.raises(ValueError, match=r"site=embed.*allowed: the output of a block"):
        scores(model, site="embed")
    with pytest.raises(ValueError, match=r"baseline='median'.*allowed: .*mean, zero"):
        scores(model, baseline="median")
    with pytest.raises(ValueError, match="ig_steps=0"):
        scores(model, ig_steps=0)
    with pytest.raises(ValueError, match="no tokens to score"):
        scores(model, batches_of(length=1))
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight[0, 0] = float("nan")
    with pytest.raises(ValueError, match="scores at block0 are not finite"):
        scores(model)
