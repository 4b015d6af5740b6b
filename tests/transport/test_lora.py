"""Test with the real peft that moving base and adapter together, and only together, keeps the function."""

import pytest
import torch
from peft import LoraConfig

from gaugeport.charts import chart_of, fold_gains
from gaugeport.charts.logit_change import logits_of, random_tokens, relative_change
from gaugeport.groups import GROUPS, Orthogonal
from gaugeport.pipeline.measures.gauge_groups import MODEL_TYPES
from gaugeport.transport import transport_model
from gaugeport.transport.lora import fold_lora, transport_lora
from lora_adapters import (
    D,
    adapt,
    adapt_named,
    as_dict,
    generator,
    logits,
    matrices,
    signed,
    tiny,
    with_adapter,
)

pytestmark = pytest.mark.filterwarnings("ignore")

POST_NORM = ("gemma2", "gemma3_text", "olmo2")
families = pytest.mark.parametrize("family", MODEL_TYPES)
foldable = pytest.mark.parametrize("family", [t for t in MODEL_TYPES if t not in POST_NORM])

KINDS = {
    "plain": {},
    "dora": {"use_dora": True},
    "biased": {"bias": "all", "use_rslora": True},
    "whole": {
        "modules_to_save": ["embed_tokens", "embed_in", "wte", "lm_head", "norm", "final_layer_norm", "ln_f"]
    },
}


@families
@pytest.mark.parametrize("kind", KINDS)
def test_moving_base_and_adapter_together_keeps_the_function(family, kind):
    model = tiny(family).double()
    g, tokens = signed(model), random_tokens(model, generator())
    adapted, tensors, config = adapt(model, **KINDS[kind])
    before = logits(adapted, tokens)
    assert relative_change(logits(model, tokens), before) > 1e-1  # the adapter changes the function
    base, moved = transport_model(model, g), transport_lora(tensors, g, model, config=as_dict(config))
    assert relative_change(before, logits(with_adapter(base, moved, config), tokens)) <= 1e-12
    unmoved = logits(with_adapter(base, tensors, config), tokens)
    assert relative_change(before, unmoved) > 1e-1
    on_old_base = logits(with_adapter(model, moved, config), tokens)
    assert relative_change(before, on_old_base) > 1e-1


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
def test_leaving_one_kind_of_tensor_unmoved_changes_the_function(family, kind):
    model = tiny(family)
    g, tokens = signed(model), random_tokens(model, generator())
    adapted, tensors, config = adapt(model, **KINDS[kind])
    base, moved = transport_model(model, g), transport_lora(tensors, g, model, config=as_dict(config))

    def kind_of(key):
        module, part = key.removesuffix(".weight").rsplit(".", 1)
        return part if part.startswith("lora_") else f"{module.rsplit('.', 1)[-1]}.{part}"

    moved_kinds = {kind_of(k) for k in tensors if not torch.equal(tensors[k], moved[k])}
    assert len(moved_kinds) >= 3
    for which in moved_kinds:
        partly = {k: tensors[k] if kind_of(k) == which else moved[k] for k in tensors}
        after = logits_of(with_adapter(base, partly, config), tokens)
        assert relative_change(logits_of(adapted, tokens), after) > 1e-1, which


def test_each_tensor_moves_as_declared():
    model = tiny("llama")
    g, (_, tensors, config) = signed(model), adapt(model, use_dora=True)
    moved = transport_lora(tensors, g, model, config=as_dict(config))
    assert list(moved) == list(tensors)
    for key, t in tensors.items():
        writes = any(m in key for m in ("o_proj", "down_proj"))
        expected = t
        if "lora_A" in key and not writes:
            expected = t[:, g.perm] * g.sign
        elif ("lora_B" in key and writes) or "embedding_B" in key:
            expected = t[g.perm] * g.sign[:, None]
        elif "magnitude" in key and (writes or "embed_tokens" in key):
            expected = t[g.perm]
        assert torch.equal(moved[key], expected), key


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_trained_tokens_and_lora_biases_move(family):
    model = tiny(family, attention_bias=True, mlp_bias=True) if family == "llama" else tiny(family)
    g, tokens = signed(model), random_tokens(model, generator())
    writers = matrices(model, "write")
    adapted, tensors, config = adapt(
        model.double(),
        target_modules=writers,
        lora_bias=True,
        trainable_token_indices=tokens[0, :8].unique().tolist(),
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
def test_folded_adapters_fit_folded_bases_and_allow_rotations(family, kind):
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
def test_adapters_of_tied_bases_move_and_fold(saved):
    """LoRA on either name of a tied tensor and full copies of it, before folding unties it and after."""
    model = tiny("qwen2", tie_word_embeddings=True).double()
    assert chart_of(model).tied
    targets = ["q_proj", "o_proj"] + ([] if saved else ["embed_tokens", "lm_head"])
    adapted, tensors, config = adapt_named(model, targets, saved)
    tokens, g = random_tokens(model, generator()), signed(model)
    before = logits(adapted, tokens)
    moved = transport_lora(tensors, g, model, config=as_dict(config))
    assert (
        relative_change(before, logits(with_adapter(transport_model(model, g), moved, config), tokens))
        <= 1e-12
    )
    fitted = fold_lora(tensors, model, config=as_dict(config))
    assert relative_change(before, logits(with_adapter(fold_gains(model), fitted, config), tokens)) <= 1e-12


def test_tensors_that_do_not_fold_are_named():
    model, tied = tiny("llama"), tiny("llama", tie_word_embeddings=True)
    for base, options, key in (
        (model, {"use_dora": True}, "q_proj.lora_magnitude_vector"),
        (model, KINDS["whole"], "norm.weight"),
        (tied, {"target_modules": ["q_proj"], "trainable_token_indices": [1]}, "trainable_tokens_delta"),
    ):
        _, tensors, config = adapt(base, **options)
        with pytest.raises(ValueError, match=f"{key} does not fold by itself"):
            fold_lora(tensors, base, config=as_dict(config))
    _, tensors, config = adapt(model, target_modules=["o_proj"], use_dora=True)
    assert all(
        torch.equal(t, tensors[k]) for k, t in fold_lora(tensors, model, config=as_dict(config)).items()
    )
    _, tensors, config = adapt(tiny("gemma2"))
    with pytest.raises(ValueError, match=r"gemma2 cannot be folded \(post-norm\)"):
        fold_lora(tensors, tiny("gemma2"), config=as_dict(config))
    layer = tiny("gpt_neox")
    _, tensors, config = adapt(layer, bias="all")
    with torch.no_grad():
        layer.gpt_neox.layers[1].input_layernorm.weight[3] = 0
    with pytest.raises(ValueError, match=r"layers.1.input_layernorm has gains of exactly 0"):
        fold_lora(tensors, layer, config=as_dict(config))


def test_folding_into_a_folded_model_is_refused():
    model = fold_gains(tiny("llama"))
    _, tensors, config = adapt(model)
    with pytest.raises(ValueError, match=r"all gains of this model are 1.*before fold_gains"):
        fold_lora(tensors, model, config=as_dict(config))


def test_folding_beyond_the_range_of_float16_is_refused():
    model = tiny("llama")
    _, tensors, config = adapt(model)
    model.model.layers[0].input_layernorm.weight.data.fill_(1e6)
    half = {k: t.half() for k, t in tensors.items()}
    with pytest.raises(ValueError, match=r"layers\.0\.self_attn.*exceeds what torch\.float16 holds"):
        fold_lora(half, model, config=LoraConfig(**config))  # peft's own config object


def test_rotations_cannot_move_magnitudes_and_gains():
    model = fold_gains(tiny("llama"))
    q = Orthogonal.random(D, generator(1))
    for options, key in (
        ({"use_dora": True, "target_modules": ["o_proj"]}, "o_proj.lora_magnitude_vector"),
        (KINDS["whole"], "norm.weight"),
    ):
        _, tensors, config = adapt(model, **options)
        with pytest.raises(ValueError, match=rf"{key} holds a magnitude.*'orthogonal'.*signed_permutation"):
            transport_lora(tensors, q, model, config=as_dict(config))
    _, tensors, config = adapt(
        model, use_dora=True, target_modules=["q_proj"]
    )  # a reader's rows keep their norms
    transport_lora(tensors, q, model, config=as_dict(config))
