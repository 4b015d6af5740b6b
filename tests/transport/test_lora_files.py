"""Test adapter folders against the real peft, and that what cannot be moved is named."""

import copy
import json

import peft
import pytest
import torch
from safetensors import safe_open

from gaugeport.charts import chart_of, fold_gains
from gaugeport.charts.logit_change import random_tokens, relative_change
from gaugeport.groups import AffineGauge, Orthogonal, SignedPermutation
from gaugeport.transport import lora_files, transport_model
from gaugeport.transport.lora import fold_lora, transport_lora
from lora_adapters import D, adapt, as_dict, attach, generator, logits, signed, tiny

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_peft_loads_the_written_folder(tmp_path, dtype):
    model = tiny("llama").to(dtype)
    adapted, tensors, _ = adapt(model, use_dora=True)
    adapted.save_pretrained(tmp_path / "a")
    g, tokens = signed(model), random_tokens(model, generator())
    moved = transport_lora(tmp_path / "a", g, chart_of(model), tmp_path / "new" / "b", base_name="me/model-b")
    loaded = peft.PeftModel.from_pretrained(transport_model(model, g), tmp_path / "new" / "b").eval()
    loaded_tensors = peft.get_peft_model_state_dict(loaded)
    assert all(torch.equal(loaded_tensors[k], moved[k]) for k in tensors)
    if dtype == torch.float64:
        assert relative_change(logits(adapted, tokens), logits(loaded, tokens)) <= 1e-12
    config = json.loads((tmp_path / "new" / "b" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "me/model-b"
    assert config["use_dora"] and config["r"] == 3
    with safe_open(tmp_path / "new" / "b" / "adapter_model.safetensors", "pt") as f:
        assert json.loads(f.metadata()["gaugeport"]) == {"transport_lora": "signed_permutation"}
    back = transport_lora(tmp_path / "new" / "b", g.inverse(), model)
    assert all(torch.equal(back[k], tensors[k]) for k in tensors)
    with pytest.raises(FileExistsError, match="b exists already"):
        transport_lora(tmp_path / "a", g, model, tmp_path / "new" / "b")
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["b"]


def test_files_record_their_history_and_are_not_folded_twice(tmp_path):
    model = tiny("llama")
    adapted, _, _ = adapt(model)
    adapted.save_pretrained(tmp_path / "a")
    fold_lora(tmp_path / "a", model, tmp_path / "folded")
    with pytest.raises(ValueError, match="folded was folded already"):
        fold_lora(tmp_path / "folded", model)
    transport_lora(
        tmp_path / "folded", Orthogonal.random(D, generator()), fold_gains(model), tmp_path / "moved"
    )
    with safe_open(tmp_path / "moved" / "adapter_model.safetensors", "pt") as f:
        assert json.loads(f.metadata()["gaugeport"]) == {"fold_lora": "llama", "transport_lora": "orthogonal"}
    with pytest.raises(ValueError, match="moved was folded already"):
        fold_lora(tmp_path / "moved", model)


def test_a_failed_write_leaves_no_folder(tmp_path, monkeypatch):
    model = tiny("llama")
    adapt(model)[0].save_pretrained(tmp_path / "a")

    def fail_halfway(tensors, file, metadata):
        file.write_bytes(b"half")
        raise OSError("killed")

    monkeypatch.setattr(lora_files, "save_file", fail_halfway)
    with pytest.raises(OSError, match="killed"):
        transport_lora(tmp_path / "a", signed(model), model, tmp_path / "b")
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_errors_write_nothing(tmp_path):
    model = tiny("llama")
    adapted, _, _ = adapt(model, modules_to_save=["lm_head"])
    adapted.save_pretrained(tmp_path / "a")
    with pytest.raises(ValueError, match=r"'orthogonal' is not in the exact group"):
        transport_lora(tmp_path / "a", Orthogonal.random(D, generator()), model, tmp_path / "out" / "b")
    with pytest.raises(ValueError, match="module that this gpt_neox chart does not know"):
        transport_lora(tmp_path / "a", signed(tiny("gpt_neox")), tiny("gpt_neox"), tmp_path / "out" / "b")
    config = (tmp_path / "a" / "adapter_config.json").read_text()
    (tmp_path / "a" / "adapter_config.json").write_text(config[:40])
    with pytest.raises(ValueError, match=r"adapter_config.json is not readable JSON"):
        transport_lora(tmp_path / "a", signed(model), model, tmp_path / "out" / "b")
    (tmp_path / "a" / "adapter_config.json").write_text(config)
    (tmp_path / "a" / "adapter_model.safetensors").write_bytes(b"short")
    with pytest.raises(ValueError, match="truncated"):
        transport_lora(tmp_path / "a", signed(model), model, tmp_path / "out" / "b")
    (tmp_path / "a" / "adapter_model.safetensors").unlink()
    with pytest.raises(
        FileNotFoundError, match=r"no adapter_model.safetensors in .*found: .*adapter_config.json"
    ):
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
def test_other_kinds_of_adapters_are_refused(tmp_path, config, kind):
    model = tiny("llama")
    peft.get_peft_model(copy.deepcopy(model), config).save_pretrained(tmp_path / "a")
    with pytest.raises(ValueError, match=f"peft_type '{kind}' cannot be moved; allowed: LORA"):
        transport_lora(tmp_path / "a", signed(model), model)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"use_qalora": True}, "use_qalora=True cannot be moved: QA-LoRA pools"),
        ({"layer_replication": [[0, 1]]}, "replicated layers"),
        ({"init_lora_weights": "pissa_niter_4"}, "'pissa_niter_4' rewrites the base weights"),
        ({"init_lora_weights": "olora"}, "'olora' rewrites the base weights"),
        ({"peft_type": None}, "peft_type None"),
    ],
)
def test_options_that_cannot_be_moved_are_refused(change, message):
    model = tiny("llama")
    _, tensors, config = adapt(model)
    with pytest.raises(ValueError, match=message):
        transport_lora(tensors, signed(model), model, config=as_dict(config) | change)
    transport_lora(tensors, signed(model), model, config=as_dict(config) | {"init_lora_weights": "gaussian"})


def test_modules_shapes_and_gauges_that_do_not_fit_are_refused():
    model = tiny("llama")
    _, tensors, config = adapt(model)
    g, settings = signed(model), as_dict(config)
    q_proj = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
    unknown_keys = (
        q_proj.replace("q_proj", "W_pack"),
        q_proj.replace("layers.0", "layers.7"),
        q_proj.replace("lora_A", "lora_A.default"),
        "base_model.model.score.weight",
        q_proj.replace("self_attn.q_proj", "input_layernorm"),
    )
    for key in unknown_keys:
        with pytest.raises(
            ValueError, match=rf"{key} belongs to a module .*known: .*model.layers.\*.self_attn.q_proj"
        ):
            transport_lora(tensors | {key: tensors[q_proj]}, g, model, config=settings)
    with pytest.raises(ValueError, match=r"lora_A.weight has shape \(3, 31\), expected axes"):
        transport_lora(tensors | {q_proj: torch.zeros(3, 31)}, g, model, config=settings)
    with pytest.raises(ValueError, match="needs its adapter's config"):
        transport_lora(tensors, g, model)
    with pytest.raises(ValueError, match="width 31"):
        transport_lora(tensors, SignedPermutation.identity(31), model, config=settings)
    with pytest.raises(ValueError, match=r"linear gauge, got .*'affine'"):
        transport_lora(tensors, AffineGauge.random(D, generator()), model, config=settings)
    with pytest.raises(ValueError, match="carries adapters of peft"):
        transport_lora(tensors, g, attach(model, config).base_model.model, config=settings)
    transport_lora(tensors, Orthogonal.random(D, generator()), model, config=settings, strict=False)
    eight_bits = tensors[q_proj].to(torch.float8_e4m3fn)
    with pytest.raises(ValueError, match=r"lora_A.weight is torch.float8_e4m3fn; expected floats of 16 bits"):
        transport_lora(tensors | {q_proj: eight_bits}, g, model, config=settings)
