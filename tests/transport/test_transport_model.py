"""Test that ``transport_model`` moves every tensor once, what it keeps, and what it refuses."""

import copy

import pytest
import torch
from torch import nn

from gaugeport.charts import chart_of, fold_gains
from gaugeport.groups import (
    AffineGauge,
    GlobalSignPermutation,
    MeanPreservingOrthogonal,
    Orthogonal,
    Permutation,
    SignedPermutation,
)
from gaugeport.pipeline.measures.gauge_groups import MODEL_TYPES, tiny_model
from gaugeport.transport import transport_model


def tiny(family, **config):
    return tiny_model(family, torch.Generator().manual_seed(0), **config)


def element(cls, seed=1, d=32):
    return cls.random(d, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("family", MODEL_TYPES)
def test_every_tensor_is_moved_as_its_axes_say(family):
    model = tiny(family)
    chart, g = chart_of(model), element(SignedPermutation)
    moved = transport_model(model, g, strict=False)
    before, after = dict(model.named_parameters()), dict(moved.named_parameters())
    assert list(before) == list(after)
    for name, p in before.items():
        expected = p.detach()
        for axis, kind in enumerate(chart.axes(name)):
            expected = {"vector": g.act, "gain": g.act_gain, "none": lambda x, _: x}[kind](expected, axis)
        assert torch.equal(after[name], expected), name


@pytest.mark.parametrize("family", MODEL_TYPES)
def test_tied_weights_are_moved_once_and_stay_tied(family):
    model = tiny(family, tie_word_embeddings=True)
    g = element(GlobalSignPermutation)
    moved = transport_model(model, g)
    assert moved.get_output_embeddings().weight is moved.get_input_embeddings().weight
    assert torch.equal(moved.get_input_embeddings().weight, g.act(model.get_input_embeddings().weight))


def test_model_is_copied_unless_in_place():
    model = tiny("llama")
    before, pointers = copy.deepcopy(model.state_dict()), [p.data_ptr() for p in model.parameters()]
    g = element(SignedPermutation)
    copied = transport_model(model, g)
    assert copied is not model
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert transport_model(model, g, inplace=True) is model
    assert [p.data_ptr() for p in model.parameters()] == pointers
    assert all(torch.equal(v, copied.state_dict()[k]) for k, v in model.state_dict().items())


def test_gradients_are_dropped_and_flags_kept():
    model = tiny("llama")
    model.model.norm.weight.requires_grad_(False)
    model(torch.arange(5)[None], labels=torch.arange(5)[None]).loss.backward()
    moved = transport_model(model, element(SignedPermutation))
    assert all(p.grad is None for p in moved.parameters())
    assert [p.requires_grad for p in moved.parameters()] == [p.requires_grad for p in model.parameters()]
    assert model.lm_head.weight.grad is not None


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_dtype_is_kept(dtype):
    moved = transport_model(tiny("llama").to(dtype), element(SignedPermutation))
    assert {p.dtype for p in moved.parameters()} == {dtype}


@pytest.mark.parametrize("family", ["gpt_neox", "gpt2"])
@pytest.mark.parametrize("folded", [False, True])
def test_layernorm_families_refuse_signed_permutations(family, folded):
    model = fold_gains(tiny(family)) if folded else tiny(family)
    group = chart_of(model).group
    with pytest.raises(ValueError, match=rf"'signed_permutation' is not .* '{group}'.*only S_d × {{±1}}"):
        transport_model(model, element(SignedPermutation))
    transport_model(model, element(GlobalSignPermutation))
    transport_model(model, element(Permutation))


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("folded", [False, True])
def test_layernorm_families_accept_a_signed_permutation_whose_signs_agree(sign, folded):
    """Membership is by value, not by class; one sign that differs makes another function."""
    model = fold_gains(tiny("gpt_neox")) if folded else tiny("gpt_neox")
    perm, signs = element(Permutation).perm, torch.full((32,), sign)
    moved = transport_model(model, SignedPermutation(perm, signs))
    expected = transport_model(model, GlobalSignPermutation(perm, sign))
    assert all(torch.equal(p, q) for p, q in zip(moved.parameters(), expected.parameters(), strict=True))
    signs[3] = -sign
    with pytest.raises(ValueError, match=r"'signed_permutation' is not .* only S_d × {±1}"):
        transport_model(model, SignedPermutation(perm, signs))


@pytest.mark.parametrize("cls", [Orthogonal, MeanPreservingOrthogonal])
def test_rotations_on_unfolded_charts_are_refused_with_advice(cls):
    with pytest.raises(ValueError, match=r"fold_gains\(model\) the group is 'orthogonal'"):
        transport_model(tiny("llama"), element(cls))
    with pytest.raises(ValueError, match=r"fold_gains\(model\) the group is 'mean_preserving_orthogonal'"):
        transport_model(tiny("gpt2"), element(cls))
    with pytest.raises(ValueError, match="post-norm"):
        transport_model(tiny("gemma2"), element(cls))


def test_folded_layernorm_refuses_rotations_that_move_the_mean():
    with pytest.raises(ValueError, match="all-ones direction"):
        transport_model(fold_gains(tiny("gpt2")), element(Orthogonal))


@pytest.mark.parametrize("strict", [True, False])
def test_errors_leave_the_model_unchanged(strict):
    model = tiny("llama")
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match="width 31"):
        transport_model(model, element(SignedPermutation, d=31), inplace=True, strict=strict)
    with pytest.raises(ValueError, match=r"linear gauge, got .*'affine'"):
        transport_model(model, AffineGauge.random(32), inplace=True, strict=strict)
    model.extra = nn.Parameter(torch.zeros(2))
    with pytest.raises(ValueError, match="extra matches no rule"):
        transport_model(model, element(SignedPermutation), inplace=True, strict=strict)
    del model.extra
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_rotations_leave_gains_if_not_strict():
    model = tiny("llama")
    moved = transport_model(model, element(Orthogonal), strict=False)
    for name in chart_of(model).names("gain"):
        assert torch.equal(moved.get_parameter(name), model.get_parameter(name))


def test_wide_matrices_through_the_kernels_equal_act():
    """The matrices are wide enough for blocks and threads."""
    model = tiny_model("llama", torch.Generator().manual_seed(0), 256, intermediate_size=300, vocab_size=500)
    g = element(SignedPermutation, d=256)
    moved = transport_model(model.bfloat16(), g)
    assert torch.equal(moved.lm_head.weight, g.act(model.lm_head.weight))
    down, was = moved.model.layers[0].mlp.down_proj.weight, model.model.layers[0].mlp.down_proj.weight
    assert torch.equal(down, g.act(was, 0))
