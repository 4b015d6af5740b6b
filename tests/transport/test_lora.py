"""LoRA adapters through the real peft: base and adapter moved together are the same function; either alone is not."""

import copy
import json
import warnings

import pytest
import torch
from safetensors import safe_open

from gaugeport.charts import chart_of, fold_gains
from gaugeport.charts.measure import logits_of, norms_in_float64, random_tokens, relative_change
from gaugeport.groups import GROUPS, AffineGauge, GlobalSignPermutation, Orthogonal, SignedPermutation
from gaugeport.tasks.gauge_groups import MODEL_TYPES, tiny_model
from gaugeport.transport import transport_model
from gaugeport.transport.lora import ROLES, fold_lora, transport_lora

peft = pytest.importorskip("peft")
pytestmark = pytest.mark.filterwarnings("ignore")

D = 32
POST_NORM = ("gemma2", "gemma3_text", "olmo2")
families = pytest.mark.parametrize("family", MODEL_TYPES)
foldable = pytest.mark.parametrize("family", [t for t in MODEL_TYPES if t not in POST_NORM])

KINDS = {
    "plain": {},
    "dora": {"use_dora": True},
    "biased": {"bias": "all", "use_rslora": True},
    "whole": {"modules_to_save": ["embed_tokens", "embed_in", "wte", "lm_head", "norm", "final_layer_norm", "ln_f"]},
}


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def tiny(family, seed=0, **config):
    return tiny_model(family, generator(seed), **{"tie_word_embeddings": False} | config)


def signed(model, seed=1):
    cls = GlobalSignPermutation if chart_of(model).norm == "layer" else SignedPermutation
    return cls.random(D, generator(seed))


def matrices(model, *roles):
    chart = chart_of(model)
    return [n.removesuffix(".weight") for role in roles or ROLES for n in chart.names(role)]


def attach(model, config):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return peft.get_peft_model(copy.deepcopy(model), peft.LoraConfig(**config)).eval()


@torch.no_grad()
def adapt(model, seed=5, **config):
    """An adapter of random tensors that matter, as ``(adapted model, state dict, config)``."""
    if "modules_to_save" in config:  # those of this family, and no LoRA on them
        names = {n.rsplit(".", 1)[-1] for n, _ in model.named_modules()}
        config["modules_to_save"] = [m for m in config["modules_to_save"] if m in names]
        config["target_modules"] = matrices(model, "read", "write")
    config = {"r": 3, "lora_alpha": 3, "target_modules": matrices(model)} | config
    adapted, noise = attach(model, config), generator(seed)
    for name, p in adapted.named_parameters():
        if not p.requires_grad:
            continue
        draw = torch.randn(p.shape, generator=noise, dtype=p.dtype)
        if "lora_magnitude" in name:
            p.mul_(1 + 0.5 * torch.rand(p.shape, generator=noise, dtype=p.dtype))
        elif "lora_" in name and p.dim() == 2:
            p.copy_(draw * (2.0 / p.shape[1 if "lora_A" in name or "embedding_B" in name else 0]) ** 0.5)
        else:
            p.add_(0.3 * draw)
    return adapted, peft.get_peft_model_state_dict(adapted, save_embedding_layers=False), config


def with_adapter(model, tensors, config):
    adapted = attach(model, config)
    result = peft.set_peft_model_state_dict(adapted, tensors)
    assert not result.unexpected_keys
    return adapted


def logits(model, tokens):
    with norms_in_float64(model) if next(model.parameters()).dtype == torch.float64 else warnings.catch_warnings():
        return logits_of(model, tokens)


def as_dict(config):
    return peft.LoraConfig(**config).to_dict()


@families
@pytest.mark.parametrize("kind", KINDS)
def test_base_and_adapter_moved_together_are_the_same_function(family, kind):
    model = tiny(family).double()
    g, tokens = signed(model), random_tokens(model, generator())
    adapted, tensors, config = adapt(model, **KINDS[kind])
    before = logits(adapted, tokens)
    assert relative_change(logits(model, tokens), before) > 1e-1  # the adapter does something
    base, moved = transport_model(model, g), transport_lora(tensors, g, model, config=as_dict(config))
    assert relative_change(before, logits(with_adapter(base, moved, config), tokens)) <= 1e-12
    assert relative_change(before, logits(with_adapter(base, tensors, config), tokens)) > 1e-1  # not moved
    assert relative_change(before, logits(with_adapter(model, moved, config), tokens)) > 1e-1  # on the old base


@families
@pytest.mark.parametrize("kind", KINDS)
def test_sign_only_elements_leave_the_logits_bit_equal(family, kind):
    model = tiny(family)
    g = type(signed(model))(torch.arange(D), signed(model, 2).sign if chart_of(model).norm == "rms" else -1)
    adapted, tensors, config = adapt(model, **KINDS[kind])
    moved = transport_lora(tensors, g, model, config=as_dict(config))
    tokens = random_tokens(model, generator())
    assert torch.equal(
        logits_of(with_adapter(transport_model(model, g), moved, config), tokens), logits_of(adapted, tokens)
    )


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_tensor_has_to_move(family, kind):
    """Control, tensor kind by tensor kind: the whole adapter moved but for one kind breaks."""
    model = tiny(family)
    g, tokens = signed(model), random_tokens(model, generator())
    adapted, tensors, config = adapt(model, **KINDS[kind])
    base, moved = transport_model(model, g), transport_lora(tensors, g, model, config=as_dict(config))

    def kind_of(key):
        module, part = key.removesuffix(".weight").rsplit(".", 1)
        return part if part.startswith("lora_") else f"{module.rsplit('.', 1)[-1]}.{part}"

    touched = {kind_of(k) for k in tensors if not torch.equal(tensors[k], moved[k])}
    assert len(touched) >= 3
    for which in touched:
        partly = {k: tensors[k] if kind_of(k) == which else moved[k] for k in tensors}
        after = logits_of(with_adapter(base, partly, config), tokens)
        assert relative_change(logits_of(adapted, tokens), after) > 1e-1, which


def test_which_tensors_move_and_how():
    model = tiny("llama")
    g, (_, tensors, config) = signed(model), adapt(model, use_dora=True)
    moved = transport_lora(tensors, g, model, config=as_dict(config))
    assert list(moved) == list(tensors)
    for key, t in tensors.items():
        writes = any(m in key for m in ("o_proj", "down_proj"))
        wanted = t
        if "lora_A" in key and not writes:
            wanted = t[:, g.perm] * g.sign
        elif ("lora_B" in key and writes) or "embedding_B" in key:
            wanted = t[g.perm] * g.sign[:, None]
        elif "magnitude" in key and (writes or "embed_tokens" in key):
            wanted = t[g.perm]
        assert torch.equal(moved[key], wanted), key


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_trained_tokens_and_lora_biases(family):
    model = tiny(family, attention_bias=True, mlp_bias=True) if family == "llama" else tiny(family)
    g, tokens = signed(model), random_tokens(model, generator())
    writers = matrices(model, "write")
    adapted, tensors, config = adapt(
        model.double(), target_modules=writers, lora_bias=True, trainable_token_indices=tokens[0, :8].unique().tolist()
    )
    assert {"bias", "trainable_tokens_delta"} <= {k.rsplit(".", 1)[-1] for k in tensors}
    before, base = logits(adapted, tokens), transport_model(model, g)
    moved = transport_lora(tensors, g, model, config=as_dict(config))
    assert relative_change(before, logits(with_adapter(base, moved, config), tokens)) <= 1e-12
    for part in ("lora_B.bias", "trainable_tokens_delta"):
        partly = {k: tensors[k] if k.endswith(part) else moved[k] for k in tensors}
        assert relative_change(before, logits(with_adapter(base, partly, config), tokens)) > 1e-1


@foldable
@pytest.mark.parametrize("kind", ["plain", "biased"])
def test_folded_bases_want_folded_adapters_and_then_allow_rotations(family, kind):
    model = tiny(family).double()
    adapted, tensors, config = adapt(model, **KINDS[kind])
    tokens, folded = random_tokens(model, generator()), fold_gains(model)
    before, fitted = logits(adapted, tokens), fold_lora(tensors, model, config=as_dict(config))
    assert relative_change(before, logits(with_adapter(folded, fitted, config), tokens)) <= 1e-12
    assert relative_change(before, logits(with_adapter(folded, tensors, config), tokens)) > 1e-1  # not folded
    q = GROUPS[chart_of(folded).group].random(D, generator(1))
    moved = transport_lora(fitted, q, folded, config=as_dict(config))
    base = transport_model(folded, q)
    assert relative_change(before, logits(with_adapter(base, moved, config), tokens)) <= 1e-12
    assert relative_change(before, logits(with_adapter(base, fitted, config), tokens)) > 1e-1


@pytest.mark.parametrize("saved", [None, ["lm_head"], ["embed_tokens"]])
def test_tied_bases(saved):
    """LoRA on either name of a tied tensor, and copies of it trained whole, before and after folding unties it."""
    model = tiny("qwen2", tie_word_embeddings=True).double()
    assert chart_of(model).tied
    targets = ["q_proj", "o_proj"] + ([] if saved else ["embed_tokens", "lm_head"])
    adapted, tensors, config = adapt_named(model, targets, saved)
    tokens, g = random_tokens(model, generator()), signed(model)
    before = logits(adapted, tokens)
    moved = transport_lora(tensors, g, model, config=as_dict(config))
    assert relative_change(before, logits(with_adapter(transport_model(model, g), moved, config), tokens)) <= 1e-12
    fitted = fold_lora(tensors, model, config=as_dict(config))
    assert relative_change(before, logits(with_adapter(fold_gains(model), fitted, config), tokens)) <= 1e-12


def adapt_named(model, targets, saved):
    config = {"r": 3, "lora_alpha": 3, "target_modules": targets, "modules_to_save": saved}
    adapted, noise = attach(model, config), generator(5)
    with torch.no_grad():
        for p in adapted.parameters():
            if p.requires_grad:
                p.add_(0.3 * torch.randn(p.shape, generator=noise, dtype=p.dtype))
    return adapted, peft.get_peft_model_state_dict(adapted, save_embedding_layers=False), config


def test_what_does_not_fold_by_itself_is_named():
    model, tied = tiny("llama"), tiny("llama", tie_word_embeddings=True)
    for base, options, key in (
        (model, {"use_dora": True}, "q_proj.lora_magnitude_vector"),
        (model, KINDS["whole"], "norm.weight"),
        (tied, {"target_modules": ["q_proj"], "trainable_token_indices": [1]}, "trainable_tokens_delta"),
    ):
        _, tensors, config = adapt(base, **options)
        with pytest.raises(ValueError, match=f"{key} does not fold by itself; merge the adapter"):
            fold_lora(tensors, base, config=as_dict(config))
    _, tensors, config = adapt(model, target_modules=["o_proj"], use_dora=True)
    assert all(torch.equal(t, tensors[k]) for k, t in fold_lora(tensors, model, config=as_dict(config)).items())
    _, tensors, config = adapt(tiny("gemma2"))
    with pytest.raises(ValueError, match=r"gemma2 cannot be folded \(post-norm\)"):
        fold_lora(tensors, tiny("gemma2"), config=as_dict(config))
    layer = tiny("gpt_neox")
    _, tensors, config = adapt(layer, bias="all")
    with torch.no_grad():
        layer.gpt_neox.layers[1].input_layernorm.weight[3] = 0
    with pytest.raises(ValueError, match=r"layers.1.input_layernorm has gains of exactly 0"):
        fold_lora(tensors, layer, config=as_dict(config))


def test_a_folded_model_needs_no_folding():
    model = fold_gains(tiny("llama"))
    _, tensors, config = adapt(model)
    assert all(torch.equal(t, tensors[k]) for k, t in fold_lora(tensors, model, config=as_dict(config)).items())


def test_magnitudes_and_gains_refuse_rotations():
    model = fold_gains(tiny("llama"))
    q = Orthogonal.random(D, generator(1))
    for options, key in (
        ({"use_dora": True, "target_modules": ["o_proj"]}, "o_proj.lora_magnitude_vector"),
        (KINDS["whole"], "norm.weight"),
    ):
        _, tensors, config = adapt(model, **options)
        with pytest.raises(ValueError, match=rf"{key} holds a magnitude.*'orthogonal'.*signed_permutation"):
            transport_lora(tensors, q, model, config=as_dict(config))
    _, tensors, config = adapt(model, use_dora=True, target_modules=["q_proj"])  # a reader's rows keep their norms
    transport_lora(tensors, q, model, config=as_dict(config))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_folders_are_peft_folders(tmp_path, dtype):
    model = tiny("llama").to(dtype)
    adapted, tensors, _ = adapt(model, use_dora=True)
    adapted.save_pretrained(tmp_path / "a")
    g, tokens = signed(model), random_tokens(model, generator())
    moved = transport_lora(tmp_path / "a", g, chart_of(model), tmp_path / "new" / "b", base_name="me/model-b")
    loaded = peft.PeftModel.from_pretrained(transport_model(model, g), tmp_path / "new" / "b").eval()
    again = peft.get_peft_model_state_dict(loaded)
    assert all(torch.equal(again[k], moved[k]) for k in tensors)
    if dtype == torch.float64:
        assert relative_change(logits(adapted, tokens), logits(loaded, tokens)) <= 1e-12
    config = json.loads((tmp_path / "new" / "b" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "me/model-b"
    assert config["use_dora"] and config["r"] == 3
    with safe_open(tmp_path / "new" / "b" / "adapter_model.safetensors", "pt") as f:
        assert json.loads(f.metadata()["gaugeport"]) == {"transport_lora": "signed_permutation"}
    back = transport_lora(tmp_path / "new" / "b", g.inverse(), model)
    assert all(torch.equal(back[k], tensors[k]) for k in tensors)
    with pytest.raises(FileExistsError, match="b exists"):
        transport_lora(tmp_path / "a", g, model, tmp_path / "new" / "b")
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["b"]


def test_nothing_is_written_on_errors(tmp_path):
    model = tiny("llama")
    adapted, _, _ = adapt(model, modules_to_save=["lm_head"])
    adapted.save_pretrained(tmp_path / "a")
    with pytest.raises(ValueError, match=r"'orthogonal' is not in the exact group"):
        transport_lora(tmp_path / "a", Orthogonal.random(D, generator()), model, tmp_path / "out" / "b")
    with pytest.raises(ValueError, match="on no module that this gpt_neox chart knows"):
        transport_lora(tmp_path / "a", signed(tiny("gpt_neox")), tiny("gpt_neox"), tmp_path / "out" / "b")
    config = (tmp_path / "a" / "adapter_config.json").read_text()
    (tmp_path / "a" / "adapter_config.json").write_text(config[:40])
    with pytest.raises(ValueError, match=r"adapter_config.json is no readable JSON"):
        transport_lora(tmp_path / "a", signed(model), model, tmp_path / "out" / "b")
    (tmp_path / "a" / "adapter_config.json").write_text(config)
    (tmp_path / "a" / "adapter_model.safetensors").write_bytes(b"short")
    with pytest.raises(ValueError, match="truncated"):
        transport_lora(tmp_path / "a", signed(model), model, tmp_path / "out" / "b")
    (tmp_path / "a" / "adapter_model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"no adapter_model.safetensors in .*found: .*adapter_config.json"):
        transport_lora(tmp_path / "a", signed(model), model, tmp_path / "out" / "b")
    with pytest.raises(FileNotFoundError, match="no such folder"):
        transport_lora(tmp_path / "nowhere", signed(model), model, tmp_path / "out" / "b")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("config", "kind"),
    [
        (peft.VeraConfig(target_modules=["q_proj"], r=4), "VERA"),
        (peft.IA3Config(target_modules=["q_proj"], feedforward_modules=[]), "IA3"),
        (peft.LoHaConfig(target_modules=["q_proj"], r=2), "LOHA"),
        (peft.LoKrConfig(target_modules=["q_proj"], r=2), "LOKR"),
    ],
)
def test_other_adapters_are_refused_by_name(tmp_path, config, kind):
    model = tiny("llama")
    peft.get_peft_model(copy.deepcopy(model), config).save_pretrained(tmp_path / "a")
    with pytest.raises(ValueError, match=f"peft_type '{kind}' is not carried; allowed: LORA"):
        transport_lora(tmp_path / "a", signed(model), model)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"use_qalora": True}, "use_qalora=True is not carried: QA-LoRA pools"),
        ({"layer_replication": [[0, 1]]}, "replicated layers"),
        ({"init_lora_weights": "pissa_niter_4"}, "'pissa_niter_4' rewrites the base weights"),
        ({"init_lora_weights": "olora"}, "'olora' rewrites the base weights"),
        ({"peft_type": None}, "peft_type None"),
    ],
)
def test_options_that_are_not_carried(change, message):
    model = tiny("llama")
    _, tensors, config = adapt(model)
    with pytest.raises(ValueError, match=message):
        transport_lora(tensors, signed(model), model, config=as_dict(config) | change)
    transport_lora(tensors, signed(model), model, config=as_dict(config) | {"init_lora_weights": "gaussian"})


def test_modules_shapes_and_gauges_that_do_not_fit():
    model = tiny("llama")
    _, tensors, config = adapt(model)
    g, settings = signed(model), as_dict(config)
    q_proj = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
    for key in (q_proj.replace("q_proj", "W_pack"), q_proj.replace("layers.0", "layers.7"), q_proj.replace(
            "lora_A", "lora_A.default"), "base_model.model.score.weight", q_proj.replace("self_attn.q_proj", "input_layernorm")):  # fmt: skip
        with pytest.raises(ValueError, match=rf"{key} is on no module.*known: .*model.layers.\*.self_attn.q_proj"):
            transport_lora(tensors | {key: tensors[q_proj]}, g, model, config=settings)
    with pytest.raises(ValueError, match=r"lora_A.weight has shape \(3, 31\), expected axes"):
        transport_lora(tensors | {q_proj: torch.zeros(3, 31)}, g, model, config=settings)
    with pytest.raises(ValueError, match="wants the adapter's config"):
        transport_lora(tensors, g, model)
    with pytest.raises(ValueError, match="width 31"):
        transport_lora(tensors, SignedPermutation.identity(31), model, config=settings)
    with pytest.raises(ValueError, match="linear gauges only"):
        transport_lora(tensors, AffineGauge.random(D, generator()), model, config=settings)
    with pytest.raises(ValueError, match="without adapters"):
        transport_lora(tensors, g, attach(model, config).base_model.model, config=settings)
    transport_lora(tensors, Orthogonal.random(D, generator()), model, config=settings, strict=False)
