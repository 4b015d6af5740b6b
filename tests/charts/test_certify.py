"""Check certificates: the chart's group is exact, the next one is not, and the model is left unchanged."""

import copy
import dataclasses

import pytest
import torch

from gaugeport.charts import Certificate, certify, chart_of, fold_gains
from gaugeport.charts.certificate import degenerate_sets
from gaugeport.charts.logit_change import random_tokens
from gaugeport.pipeline.measures.gauge_groups import MODEL_TYPES, tiny_model, with_unit_gains


def tiny(family, **config):
    return tiny_model(family, torch.Generator().manual_seed(0), **config)


@pytest.mark.parametrize("family", MODEL_TYPES)
def test_group_is_exact_with_gains_in_place(family):
    c = certify(tiny(family))
    assert isinstance(c, Certificate)
    assert c.exact and c.outside_breaks and c.degenerate == ()
    assert c.outside_kind == ("half_signs_flipped" if c.norm == "layer" else "haar_rotation")


def test_autocast_does_not_change_the_verdict():
    good, bad = tiny("llama"), tiny("llama")
    shift = 3 * torch.randn(32, generator=torch.Generator().manual_seed(8))
    bad.model.layers[0].register_forward_hook(lambda module, args, output: output + shift)
    for options in ({}, {"cache_enabled": False}):
        with torch.autocast("cpu", dtype=torch.bfloat16, **options):
            assert certify(good) == certify(tiny("llama")) and certify(good).exact
            assert not certify(bad).exact
    assert certify(good).exact


def test_large_change_is_not_exact_whatever_the_yardstick():
    certificate = certify(tiny("llama"))
    assert not dataclasses.replace(certificate, inside=5.0, yardstick=50.0).exact


@pytest.mark.parametrize("family", ["llama", "gpt_neox", "gpt2"])
def test_larger_group_is_exact_with_gains_folded(family):
    c = certify(fold_gains(tiny(family)))
    assert c.exact and c.folded
    if c.norm == "layer":
        assert c.outside_kind == "rotation_moving_the_mean" and c.outside_breaks
    else:
        assert c.outside is None and c.outside_breaks is None and "no larger linear group" in str(c)


def test_model_is_unchanged_and_dropout_is_off():
    model = tiny("gpt2", resid_pdrop=0.5, embd_pdrop=0.5, attn_pdrop=0.5)
    model.train()
    model.transformer.h[0].eval()
    before, modes = copy.deepcopy(model.state_dict()), [m.training for m in model.modules()]
    c = certify(model, torch.Generator().manual_seed(3))
    assert c.exact
    assert [m.training for m in model.modules()] == modes
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert c == certify(model, torch.Generator().manual_seed(3))


def test_coordinates_of_equal_gain_are_counted():
    model = tiny("llama")
    chart = chart_of(model)
    with torch.no_grad():
        for name in chart.names("gain"):
            p = model.get_parameter(name)
            p[[4, 9, 30]] = p[4].clone()
            p[5] = p[6].clone()
        model.model.norm.weight[2] = -model.model.norm.weight[1]
    assert degenerate_sets(chart, model) == ((4, 9, 30), (5, 6))
    c = certify(model)
    assert c.exact and c.outside_breaks
    assert "2 set(s) of coordinates, 5 of 32 in all" in str(c) and "larger than signed_permutation" in str(c)


def test_coordinates_of_opposite_gain_are_not_counted():
    model = tiny("llama")
    with torch.no_grad():
        for name in chart_of(model).names("gain"):
            p = model.get_parameter(name)
            p[1] = -p[0]
    assert certify(model).degenerate == ()


def test_note_says_that_unit_gains_of_a_post_norm_family_allow_more():
    c = certify(with_unit_gains(tiny("gemma2")))
    assert c.group == "signed_permutation" and c.outside_breaks is False
    assert c.degenerate == (tuple(range(32)),) and "see the note" in str(c)


def test_fewer_than_one_element_raises():
    with pytest.raises(ValueError, match="at least 1, got 0"):
        certify(tiny("llama"), elements=0)


def test_bfloat16_models_are_measured_in_float32():
    model = tiny("qwen2").bfloat16()
    c = certify(model)
    assert c == certify(tiny("qwen2").bfloat16().float()) and c.dtype == "float32"
    assert c.exact and c.outside_breaks and c.yardstick > 0
    assert next(model.parameters()).dtype == torch.bfloat16, "the model itself stays in bfloat16"


def test_package_exports_functions():
    import gaugeport.charts as charts

    assert callable(charts.certify) and callable(charts.fold_gains) and callable(charts.chart_of)
    with pytest.raises(AttributeError):
        _ = charts.nothing


def test_model_with_few_positions_is_certified_on_short_rows():
    model = tiny("gpt2", max_position_embeddings=10)
    tokens = random_tokens(model, torch.Generator().manual_seed(0))
    assert tokens.shape == (4, 10) and random_tokens(tiny("gpt2"), torch.Generator()).shape == (4, 16)
    assert certify(model).exact
    with pytest.raises(ValueError, match="rows of 11 tokens are longer than the model's 10 positions"):
        certify(model, tokens=torch.zeros(2, 11, dtype=torch.long))
    with pytest.raises(ValueError, match=r"token ids \[batch, length\], got a tensor of shape \(5,\)"):
        certify(model, tokens=torch.zeros(5, dtype=torch.long))
    with pytest.raises(ValueError, match="token id -1 is not in the model's vocabulary, 0 to 63"):
        certify(model, tokens=torch.full((2, 3), -1))
