"""Test SAEs behind the gain of a norm: under signed permutations, folding, and rotations after folding.

The sites are those of tiny models with random gains; their activations are taken by hooks of torch.
"""

import json

import pytest
import torch
from sae_lens.saes.sae import SAEMetadata
from transformer_lens.components import LayerNorm, LayerNormPre, RMSNorm, RMSNormPre
from transformer_lens.config import HookedTransformerConfig

from gaugeport.charts import chart_of, fold_gains
from gaugeport.charts.logit_change import norms_in_float64
from gaugeport.groups import GlobalSignPermutation, MeanPreservingOrthogonal, Orthogonal, SignedPermutation
from gaugeport.pipeline.measures.gauge_groups import tiny_model
from gaugeport.transport import fold_sae, fold_sae_file, transport_model, transport_sae, transport_sae_file
from gaugeport.transport.sae_sites import site_of
from stored_saes import SHAPES, forward, write
from tiny_saes import CASES, build, element, gap

D = 32
NORMS = {"llama": "model.layers.1.input_layernorm", "gpt_neox": "gpt_neox.layers.1.post_attention_layernorm"}
families = pytest.mark.parametrize("family", NORMS)
USING_THE_DECODER = ("matching_pursuit", "temporal")
FOLDABLE = [c for c in CASES if not c.startswith(USING_THE_DECODER) and "transcoder" not in c]


def setting(family):
    """Return a model in float64 with random gains, tokens (each once), and the gain of one of its norms."""
    generator = torch.Generator().manual_seed(0)
    model = tiny_model(family, generator, D).double()
    gain = model.get_submodule(NORMS[family]).weight.detach().clone()
    assert float(gain.std()) > 0.05
    return model, torch.randperm(64, generator=generator).view(4, 16), gain


@torch.no_grad()
def outputs(model, module, tokens):
    """Return the outputs of a module, with all norms computed in float64."""
    taken = []
    with norms_in_float64(model):
        handle = model.get_submodule(module).register_forward_hook(lambda *args: taken.append(args[-1]))
        model(tokens)
        handle.remove()
    return taken[0]


def on(hook, case="standard", hook_out=None, **config):
    metadata = SAEMetadata(hook_name=hook, hook_name_out=hook_out)
    return build(case, d_in=D, metadata=metadata, **config)


def element_of(model, seed=3):
    cls = GlobalSignPermutation if chart_of(model).norm == "layer" else SignedPermutation
    return element(cls, seed, D)


@families
def test_signed_permutations_act_behind_a_gain_as_on_the_stream(family):
    model, tokens, _ = setting(family)
    sae, g = on(NORMS[family]), element_of(model)
    before, after = (outputs(m, NORMS[family], tokens) for m in (model, transport_model(model, g)))
    assert gap(after, g.act(before)) <= 1e-12
    moved = transport_sae(sae, g)
    with torch.no_grad():
        assert gap(moved.encode(after), sae.encode(before)) <= 1e-12
        assert gap(moved(after), g.act(sae(before))) <= 1e-12
        assert gap(sae.encode(after), sae.encode(before)) > 1e-1


@families
@pytest.mark.parametrize("case", FOLDABLE)
def test_a_folded_sae_has_the_same_latents_on_the_folded_model(family, case):
    model, tokens, gain = setting(family)
    rescales = {"rescale_acts_by_decoder_norm": False} if "topk" in case else {}
    sae = on(NORMS[family], case, **rescales)
    before, after = (outputs(m, NORMS[family], tokens) for m in (model, fold_gains(model)))
    folded = fold_sae(sae, gain)
    with torch.no_grad():
        assert gap(folded.encode(after), sae.encode(before)) <= 1e-12
        assert gap(folded(after), sae(before) / gain) <= 1e-12
        assert gap(sae.encode(after), sae.encode(before)) > 1e-2  # control: the SAE as it was
        assert gap(fold_sae(sae, 1 / gain).encode(after), sae.encode(before)) > 1e-2
    assert type(folded) is type(sae) and folded.dtype == sae.dtype


@families
def test_rotations_are_refused_behind_a_gain_until_it_is_folded(family):
    model, tokens, gain = setting(family)
    sae, g = on(NORMS[family]), element(MeanPreservingOrthogonal, 3, D)
    for rotation in (g, Orthogonal(g.matrix)):
        with pytest.raises(
            ValueError, match=r"behind the gain of a norm, where a rotation .*fold_gains.*fold_sae"
        ):
            transport_sae(sae, rotation)
    moved_model = transport_model(fold_gains(model), g)
    before, after = outputs(model, NORMS[family], tokens), outputs(moved_model, NORMS[family], tokens)
    moved = transport_sae(fold_sae(sae, gain), g)
    with torch.no_grad():
        assert gap(moved.encode(after), sae.encode(before)) <= 1e-12
        # control: moved without folding, by the same rules
        unfolded = on(None)
        unfolded.load_state_dict(sae.state_dict())
        assert gap(transport_sae(unfolded, g).encode(after), sae.encode(before)) > 1e-2
    records = moved.cfg.metadata["gaugeport"]
    assert records[0]["folded"] == ["b_dec", "W_dec", "W_enc"] and records[1]["group"] == g.group


@families
@pytest.mark.parametrize("case", ["skip_transcoder", "jumprelu_skip_transcoder"])
def test_a_transcoder_that_reads_behind_a_gain_has_only_its_input_folded(family, case):
    model, tokens, gain = setting(family)
    out = NORMS[family].rsplit(".", 1)[0] + ".mlp"
    sae, before = on(NORMS[family], case, out), outputs(model, NORMS[family], tokens)
    after = outputs(fold_gains(model), NORMS[family], tokens)
    folded = fold_sae(sae, gain)
    with torch.no_grad():
        assert gap(folded(after), sae(before)) <= 1e-12
        assert gap(sae(after), sae(before)) > 1e-2
    assert folded.cfg.metadata["gaugeport"][0]["folded"] == ["W_enc", "W_skip"]


def test_a_gain_of_ones_only_records_that_the_model_was_folded():
    sae = on("model.norm")
    folded = fold_sae(sae, torch.ones(D))
    assert all(torch.equal(t, sae.state_dict()[n]) for n, t in folded.state_dict().items())
    transport_sae(folded, element(Orthogonal, 3, D))
    with pytest.raises(ValueError, match="was folded already"):
        fold_sae(folded, torch.ones(D))


def test_what_cannot_be_folded_is_refused():
    gain = torch.rand(D) + 0.5
    zero = gain.clone()
    zero[[2, 7]] = 0
    hook = "model.layers.1.input_layernorm"
    for sae, given, message in (
        (on("blocks.1.hook_resid_post"), gain, "neither side .* is behind the gain"),
        (on("blocks.1.ln1.hook_normalized"), gain, "neither side .* is behind the gain"),
        (on(hook), zero, r"gains of 0 cannot be divided by; coordinates at 0: \[2, 7\], 2 in all"),
        (on(hook), gain[:-1], "gain: expected 32 entries, .* got 31"),
        (on(hook), gain[None], r"gain: expected one finite number per coordinate, got shape \(1, 32\)"),
        (on(hook), gain * float("nan"), "gain: expected one finite number"),
        (on(hook, normalize_activations="layer_norm"), gain, "'layer_norm' measures the input"),
        (on(hook, normalize_activations="expected_average_only_in"), gain, "measures the input"),
        (on(hook, "topk-training"), gain, "rescale_acts_by_decoder_norm"),
        (on(hook, "topk", rescale_acts_by_decoder_norm=True), gain, "rescale_acts_by_decoder_norm"),
        (on(hook, "matching_pursuit"), gain, "its encoder is the decoder"),
        (on(hook, "temporal"), gain, "projects on what the decoder predicts"),
        (on(hook, "transcoder", "model.norm"), gain, "writes behind a gain of its own"),
        (on(hook, dtype=torch.float16), torch.full((D,), 1e6), "exceeds what torch.float16 holds"),
    ):
        with pytest.raises(ValueError, match=message):
            fold_sae(sae, given)
    for given in (1.5, torch.ones(D, dtype=torch.int64)):
        with pytest.raises(TypeError, match="gain: expected a tensor of floats"):
            fold_sae(on(hook), given)


# files


@pytest.mark.parametrize(
    ("library", "kind"),
    [
        ("sparsify", "sae"),
        *(
            ("dictionary_learning", kind)
            for kind in SHAPES
            if kind not in ("GatedAutoEncoder", "JumpReluAutoEncoder")
        ),
    ],
)
def test_saes_in_folders_are_folded_and_then_rotated(library, kind, tmp_path):
    source = write(library, kind, tmp_path / "a")
    generator = torch.Generator().manual_seed(4)
    gain = 0.5 + torch.rand(16, generator=generator, dtype=torch.float64)
    y, g = torch.randn(9, 16, generator=generator, dtype=torch.float64), element(Orthogonal, d=16)
    hook = "model.layers.3.input_layernorm"
    with pytest.raises(ValueError, match="behind the gain"):
        transport_sae_file(source, g, tmp_path / "c", hook=hook)
    record = fold_sae_file(source, gain, tmp_path / "b", hook=hook)
    transport_sae_file(tmp_path / "b", g, tmp_path / "c", hook=hook)
    latents, recon = forward(source, y)
    for folder, at, expected in (("b", y / gain, recon / gain), ("c", g.act(y / gain), g.act(recon / gain))):
        moved, moved_recon = forward(tmp_path / folder, at)
        assert gap(moved, latents) <= 1e-12 and gap(moved_recon, expected) <= 1e-12
    assert gap(forward(source, y / gain)[0], latents) > 1e-2
    config = json.loads(
        (tmp_path / "c" / ("cfg.json" if library == "sparsify" else "config.json")).read_text()
    )
    assert config["gaugeport"][0] == record and len(config["gaugeport"]) == 2
    with pytest.raises(ValueError, match=r"b: this .* was folded already"):
        fold_sae_file(tmp_path / "b", gain, tmp_path / "d", hook=hook)


def test_a_transcoder_whose_encoder_subtracts_the_outputs_bias_is_not_folded(tmp_path):
    source = write("dictionary_learning", "AutoEncoder", tmp_path / "a", submodule_name="mlp_out_layer_3")
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps(config | {"buffer": {"io": "in_and_out"}}))
    with pytest.raises(ValueError, match=r"subtracts bias, which is not behind the gain"):
        fold_sae_file(source, torch.ones(16), tmp_path / "b")


@pytest.mark.parametrize("kind", ["GatedAutoEncoder", "JumpReluAutoEncoder"])
def test_classes_that_scale_latents_by_the_decoder_are_not_folded(kind, tmp_path):
    source = write("dictionary_learning", kind, tmp_path / "a")
    with pytest.raises(ValueError, match="they are scaled by its norms"):
        fold_sae_file(source, torch.full((16,), 2.0), tmp_path / "b", hook="model.norm")
    for out in (source, source / "b"):
        with pytest.raises(ValueError, match="expected a place apart"):
            fold_sae_file(source, torch.ones(16), out)


# TransformerLens


@pytest.mark.parametrize("cls", [RMSNorm, RMSNormPre, LayerNorm, LayerNormPre])
def test_hook_normalized_of_transformer_lens_is_before_the_gain(cls):
    """So rotations (for LayerNorm those that keep the mean) act there as on the stream, unlike behind it."""
    config = HookedTransformerConfig(
        n_layers=1, d_model=D, n_ctx=4, d_head=4, attn_only=True, dtype=torch.float64
    )
    norm, taken = cls(config), []
    norm.hook_normalized.add_hook(lambda value, hook: taken.append(value))
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(1, 9, D, generator=generator, dtype=torch.float64)
    g = element(MeanPreservingOrthogonal if "Layer" in cls.__name__ else Orthogonal, d=D)
    with torch.no_grad():
        for p in norm.parameters():
            p.copy_(torch.rand(D, generator=generator, dtype=torch.float64) + 0.5)
        outputs = [norm(x), norm(g.act(x))]
    assert gap(taken[1], g.act(taken[0])) <= 1e-12
    if cls.__name__.endswith("Pre"):  # as TransformerLens loads models: folded
        assert torch.equal(outputs[0], taken[0])
    else:
        bias = norm.b if cls is LayerNorm else 0
        assert torch.equal(outputs[0], taken[0] * norm.w + bias)
        assert gap(outputs[1], g.act(outputs[0])) > 1e-1


@pytest.mark.parametrize(
    ("site", "hooks"),
    [
        (
            "stream",
            "blocks.3.ln1.hook_normalized ln_final.hook_normalized blocks.3.ln2.hook_in blocks.3.hook_out",
        ),
        (
            "stream",
            "blocks.3.mlp.hook_out model.layers.3.mlp.down_proj blocks.3.ln1_post.hook_normalized block3",
        ),
        (
            "gain",
            "blocks.3.ln1.hook_out ln_final.hook_out blocks.3.mlp.hook_in blocks.3.attn.hook_in model.norm",
        ),
        ("gain", "model.layers.5.post_attention_layernorm transformer.ln_f transformer.h.3.ln_1 norm"),
        ("off", "blocks.3.attn.hook_z model.layers.5.self_attn.q_norm blocks.3.mlp.ln.hook_normalized"),
        (None, "blocks.3.ln1.hook_scale my_hook"),
    ],
)
def test_hooks_before_and_behind_a_gain_are_told_apart(site, hooks):
    assert {site_of(hook) for hook in hooks.split()} == {site}
