"""Test what ``transport_sae`` refuses, and that it leaves SAEs on heads and neurons as they are."""

import warnings

import pytest
import torch
from sae_lens import (
    SAE,
    SkipTranscoder,
    SkipTranscoderConfig,
    StandardSAE,
    StandardSAEConfig,
    TemporalSAE,
    TemporalSAEConfig,
)
from sae_lens.saes.sae import SAEMetadata
from torch import nn

from gaugeport.groups import (
    AffineGauge,
    GlobalSignPermutation,
    MeanPreservingOrthogonal,
    Orthogonal,
    Permutation,
    SignedPermutation,
)
from gaugeport.groups import load as load_gauge
from gaugeport.transport.sae import transport_sae
from gaugeport.transport.sae_description import gauge_digest

D, N = 16, 64


def standard(d=D, **config):
    return StandardSAE(StandardSAEConfig(d_in=d, d_sae=N, **config))


def on_hook(hook, d=D, **config):
    return standard(d, metadata=SAEMetadata(hook_name=hook), **config)


def element(cls=SignedPermutation, seed=1, d=D):
    return cls.random(d, torch.Generator().manual_seed(seed))


def transcoder(hook, hook_out, d_in=D, d_out=D):
    metadata = SAEMetadata(hook_name=hook, hook_name_out=hook_out)
    sizes = {"d_in": d_in, "d_sae": N, "d_out": d_out, "dtype": "float64"}
    sae = SkipTranscoder(SkipTranscoderConfig(apply_b_dec_to_input=False, metadata=metadata, **sizes))
    for p in sae.parameters():
        nn.init.normal_(p, generator=torch.Generator().manual_seed(p.numel()))
    return sae


def test_affine_gauge_with_a_scale_is_refused_and_the_way_round_it_works():
    sae, g = standard(dtype="float64"), AffineGauge(element(Orthogonal), torch.ones(D), 2.0)
    with pytest.raises(ValueError, match=r"scale 2 would change.*g\.shift / g\.scale.*divided by g\.scale"):
        transport_sae(sae, g)
    moved = transport_sae(sae, AffineGauge(g.linear, g.shift / g.scale))
    x = torch.randn(5, D, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    torch.testing.assert_close(moved.encode(g.act(x) / g.scale), sae.encode(x))


@pytest.mark.parametrize("g", [element(d=31), element(Orthogonal, d=31), element(AffineGauge, d=31)])
def test_gauges_of_another_width_are_refused(g):
    with pytest.raises(ValueError, match=r"width 31; this standard SAE has d_in=16"):
        transport_sae(standard(), g)


def test_another_output_width_is_refused():
    with pytest.raises(ValueError, match=r"width 16; this skip_transcoder SAE has d_out=20"):
        transport_sae(transcoder(None, None, d_out=20), element())


@pytest.mark.parametrize("group", [SignedPermutation, Orthogonal, AffineGauge])
def test_layer_norm_refuses_gauges_outside_its_group(group):
    with pytest.raises(
        ValueError, match=rf"'layer_norm'.*'mean_preserving_orthogonal'.*'permutation'.*'{group.group}'"
    ):
        transport_sae(standard(normalize_activations="layer_norm"), element(group))


@pytest.mark.parametrize("group", [Permutation, SignedPermutation, Orthogonal])
def test_unfolded_whitening_is_refused(group):
    sae = standard(normalize_activations="covariance_whitening")
    with pytest.raises(ValueError, match=r"'covariance_whitening'.*fold_activation_whitening.*'orthogonal'"):
        transport_sae(sae, element(group))
    sae.fold_activation_whitening(torch.zeros(D), torch.eye(D), torch.eye(D))
    transport_sae(sae, element(group))


@pytest.mark.parametrize("mode", ["expected_average_only_in", "constant_norm_rescale"])
def test_affine_gauges_do_not_commute_with_rescaling(mode):
    with pytest.raises(ValueError, match=rf"{mode}.*covariant under 'orthogonal'.*'affine'"):
        transport_sae(standard(normalize_activations=mode), element(AffineGauge))
    config = TemporalSAEConfig(
        d_in=D, d_sae=N, n_heads=2, bottleneck_factor=8, normalize_activations="constant_scalar_rescale"
    )
    with pytest.raises(ValueError, match="constant_scalar_rescale"):
        transport_sae(TemporalSAE(config), element(AffineGauge))


def test_affine_gauges_need_an_encoder_that_subtracts_b_dec():
    with pytest.raises(ValueError, match=r"apply_b_dec_to_input=False"):
        transport_sae(standard(apply_b_dec_to_input=False), element(AffineGauge))
    with pytest.raises(ValueError, match=r"apply_b_dec_to_input=False"):
        transport_sae(transcoder(None, None), element(AffineGauge))


def test_unknown_normalisations_are_refused():
    sae = standard()
    sae.cfg.normalize_activations = "batch_norm"
    with pytest.raises(ValueError, match="'batch_norm'; allowed: none, expected_average_only_in"):
        transport_sae(sae, element())


def test_parameters_outside_the_rules_are_refused():
    sae = standard()
    sae.W_extra = nn.Parameter(torch.zeros(D))
    with pytest.raises(
        ValueError, match="W_extra matches no rule of the standard SAE; known: W_enc, W_dec, b_dec"
    ):
        transport_sae(sae, element())
    del sae.W_extra
    sae.register_buffer("running_mean", torch.zeros(D))
    with pytest.raises(ValueError, match="running_mean matches no rule"):
        transport_sae(sae, element())
    del sae.running_mean, sae.b_dec
    with pytest.raises(ValueError, match="has no b_dec; it holds"):
        transport_sae(sae, element())


def test_parameters_of_another_shape_are_refused():
    sae = standard()
    sae.W_enc = nn.Parameter(sae.W_enc.T.clone())
    with pytest.raises(ValueError, match=r"W_enc has shape \(64, 16\); its axes are \('in', 'latent'\)"):
        transport_sae(sae, element())


def test_unknown_architectures_are_refused():
    class Config(StandardSAEConfig):
        @classmethod
        def architecture(cls):
            return "crosscoder"

    with pytest.raises(ValueError, match="'crosscoder'; known: standard, gated"):
        transport_sae(StandardSAE(Config(d_in=D, d_sae=N)), element())


def test_quantised_weights_are_refused():
    sae = standard()
    sae.W_dec = nn.Parameter(torch.zeros(N, D, dtype=torch.int8), requires_grad=False)
    with pytest.raises(ValueError, match=r"W_dec is torch.int8; allowed: float16"):
        transport_sae(sae, element())


def test_provenance_other_than_json_is_refused():
    with pytest.raises(ValueError, match="provenance: expected JSON"):
        transport_sae(standard(), element(), {"gauge": torch.zeros(2)})


def test_an_out_that_does_not_fit_is_refused():
    sae = standard()
    with pytest.raises(
        ValueError, match=r"out has no W_dec of shape \(64, 16\)|out has no b_dec of shape \(16,\)"
    ):
        transport_sae(sae, element(), out=standard(d=20))
    with pytest.raises(ValueError, match=r"torch\.float32"):
        transport_sae(sae, element(), out=standard(dtype="bfloat16"))
    with pytest.raises(ValueError, match="shares its memory"):
        transport_sae(sae, element(), out=sae)


ON_STREAM_HOOKS = (
    "blocks.3.hook_resid_post blocks.0.hook_resid_pre blocks.3.hook_mlp_out blocks.3.hook_attn_out "
    "blocks.1.hook_mlp_in blocks.3.ln2.hook_normalized ln_final.hook_normalized blocks.3.mlp.hook_in "
    "blocks.2.hook_out hook_embed blocks.2.attn.hook_result blocks.2.hook_q_input model.layers.5 "
    "model.layers.5.mlp transformer.h.3 model.norm model.embed_tokens gpt_neox.layers.2.attention "
    "gpt_neox.layers.2.mlp.dense_4h_to_h transformer.h.3.attn.c_proj model.layers.5.self_attn.o_proj "
    "model.layers.5.post_attention_layernorm embed block2"
).split()
OFF_STREAM_HOOKS = (
    "blocks.3.attn.hook_z blocks.3.attn.hook_q blocks.3.attn.hook_k blocks.3.attn.hook_v "
    "blocks.3.attn.hook_rot_q blocks.3.mlp.hook_post blocks.3.mlp.hook_pre blocks.3.mlp.hook_pre_linear "
    "blocks.3.mlp.ln.hook_normalized model.layers.5.self_attn.q_proj model.layers.5.mlp.up_proj "
    "model.layers.5.mlp.act_fn transformer.h.3.mlp.c_fc gpt_neox.layers.2.attention.query_key_value "
    "model.layers.5.self_attn.q_norm"
).split()


@pytest.mark.parametrize("hook", [None, *ON_STREAM_HOOKS])
def test_hooks_on_the_residual_stream_are_moved(hook):
    sae, g = on_hook(hook), element()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        moved = transport_sae(sae, g)
    assert torch.equal(moved.W_dec, g.act(sae.W_dec)) and not torch.equal(moved.W_dec, sae.W_dec)
    assert "note" not in moved.cfg.metadata["gaugeport"][0]


@pytest.mark.parametrize("d", [D, 24])
@pytest.mark.parametrize("hook", OFF_STREAM_HOOKS)
def test_hooks_on_heads_and_neurons_are_invariant(hook, d):
    sae = on_hook(hook, d, normalize_activations="layer_norm")
    with pytest.warns(UserWarning, match="heads or neurons.*left as it is"):
        moved = transport_sae(sae, element(Orthogonal))
    assert moved is not sae and type(moved) is StandardSAE
    assert all(torch.equal(v, sae.state_dict()[k]) for k, v in moved.state_dict().items())
    (record,) = moved.cfg.metadata["gaugeport"]
    assert (
        record["moved"] == []
        and "input and output on heads or neurons" in record["note"]
        and hook in record["note"]
    )


@pytest.mark.parametrize(
    "named", [{"reshape_activations": "hook_z"}, {"metadata": SAEMetadata(hook_head_index=1)}]
)
def test_heads_without_a_hook_name_are_invariant(named, tmp_path):
    sae, x = standard(**named), torch.randn(5, 4, 4, generator=torch.Generator().manual_seed(0))
    with pytest.warns(UserWarning, match="heads or neurons"):
        moved = transport_sae(sae, element())
    assert all(torch.equal(v, sae.state_dict()[k]) for k, v in moved.state_dict().items())
    moved.save_model(tmp_path)
    if "reshape_activations" in named:
        with torch.no_grad():
            assert torch.equal(moved(x), sae(x)) and moved(x).shape == x.shape
        assert "note" in SAE.load_from_disk(tmp_path).cfg.metadata["gaugeport"][0]


@pytest.mark.parametrize(
    "hook", ["blocks.3.hook_scale", "blocks.3.ln1.hook_scale", "my_hook", "blocks.1.attn.hook_resid"]
)
def test_unknown_hooks_are_refused(hook):
    with pytest.raises(ValueError, match=rf"cannot tell whether hook_name '{hook}'.*metadata.hook_name"):
        transport_sae(on_hook(hook), element())
    with pytest.raises(ValueError, match=rf"cannot tell whether hook_name_out '{hook}'"):
        transport_sae(transcoder("blocks.3.ln2.hook_normalized", hook), element())


@pytest.mark.parametrize(
    ("hooks", "moved_axes"),
    [
        (("blocks.1.ln2.hook_normalized", "blocks.1.hook_mlp_out"), {"W_enc": 0, "W_dec": 1, "b_dec": 0}),
        (("blocks.1.hook_mlp_in", "blocks.1.mlp.hook_post"), {"W_enc": 0}),
        (("blocks.1.mlp.hook_pre", "blocks.1.hook_mlp_out"), {"W_dec": 1, "b_dec": 0}),
    ],
)
def test_transcoders_move_the_sides_on_the_stream(hooks, moved_axes):
    reads, writes = "W_enc" in moved_axes, "W_dec" in moved_axes
    sae, g = transcoder(*hooks, d_in=D if reads else 40, d_out=D if writes else 40), element()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        moved = transport_sae(sae, g)
    assert len(caught) == (0 if reads and writes else 1)
    for name in ("W_enc", "W_dec", "b_dec", "b_enc"):
        before = getattr(sae, name)
        assert torch.equal(
            getattr(moved, name), g.act(before, moved_axes[name]) if name in moved_axes else before
        ), name
    x = torch.randn(9, sae.cfg.d_in, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    with torch.no_grad():
        output = moved(g.act(x) if reads else x)
        expected = g.act(sae(x)) if writes else sae(x)
    assert float((output - expected).norm() / expected.norm()) <= 1e-12


def test_digests_differ_exactly_where_the_content_differs(tmp_path):
    g = element(Orthogonal)
    assert gauge_digest(load_gauge(g.save(tmp_path / "g.safetensors"))) == gauge_digest(g)
    perm = torch.arange(4)
    plain, signed = Permutation(perm), SignedPermutation(perm, torch.tensor([1, 1, 1, -1]))
    others = [plain, signed, GlobalSignPermutation(perm, -1), element(), element(seed=2), g]
    others += [
        element(MeanPreservingOrthogonal),
        AffineGauge(g, torch.zeros(D)),
        AffineGauge(g, torch.ones(D)),
    ]
    assert len({gauge_digest(e) for e in others}) == len(others)
    assert gauge_digest(Orthogonal(torch.eye(4))) == gauge_digest(
        Orthogonal(torch.eye(4).where(torch.eye(4) > 0, -0.0))
    )
