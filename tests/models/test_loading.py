"""Check that complete folders load, and that incomplete or damaged ones raise and name what is wrong."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoTokenizer

import places
from gaugeport.charts import certify
from gaugeport.groups import SignedPermutation
from gaugeport.models.folders import local_folder
from gaugeport.models.loading import as_dtype, load_model, load_tokenizer
from gaugeport.models.safetensors_files import check_safetensors
from gaugeport.pipeline.measures.gauge_groups import tiny_model
from gaugeport.transport import transport_model

REAL = places.REAL / "models" / "stories260K"
SMOLLM2 = places.fetched_smollm2()


@pytest.fixture
def model():
    return tiny_model("llama", torch.Generator().manual_seed(0))


@pytest.fixture
def whole(model, tmp_path):
    model.save_pretrained(tmp_path / "whole")
    return tmp_path / "whole"


@pytest.fixture
def sharded(model, tmp_path):
    model.save_pretrained(tmp_path / "sharded", max_shard_size="30KB")
    assert len(list((tmp_path / "sharded").glob("model-*.safetensors"))) > 2
    return tmp_path / "sharded"


def test_folder_loads_as_it_was_saved(model, whole, sharded):
    for folder in (whole, str(sharded)):
        loaded = load_model(folder)
        assert not loaded.training
        for p, q in zip(loaded.parameters(), model.parameters(), strict=True):
            assert torch.equal(p, q)


def test_dtype_device_and_attention_are_passed_on(whole):
    loaded = load_model(whole, dtype="bfloat16", device="cpu", attn_implementation="eager")
    assert loaded.dtype == torch.bfloat16 and loaded.config._attn_implementation == "eager"
    assert as_dtype("torch.float16") is as_dtype(torch.float16) is torch.float16
    with pytest.raises(ValueError, match=r"'int8'; allowed: auto, float64, float32"):
        load_model(whole, dtype="int8")


def test_offloaded_parts_are_placed_by_the_device_map_and_compute_the_same(model, whole):
    parts = ("embed_tokens", "rotary_emb", "norm", "layers.0", "layers.1")
    places_of = {f"model.{part}": "cpu" for part in parts} | {"lm_head": "cpu", "model.layers.1": "disk"}
    loaded = load_model(whole, device_map=places_of)
    assert {p.is_meta for p in loaded.model.layers[1].parameters()} == {True}
    assert not any(p.is_meta for p in loaded.model.layers[0].parameters())
    ids = torch.arange(12).view(2, 6)
    assert torch.equal(loaded(ids).logits, model.eval()(ids).logits)


def test_device_map_goes_with_no_device_and_no_gguf_file_and_names_places(whole):
    with pytest.raises(ValueError, match=r"device_map='auto' cannot go with device='cpu'"):
        load_model(whole, device="cpu", device_map="auto")
    with pytest.raises(ValueError, match=r"device_map='auto' cannot go with a \.gguf file"):
        load_model(whole / "model.gguf", device_map="auto")
    with pytest.raises(ValueError, match=r"cannot load the weights from .*nowhere"):
        load_model(whole, device_map="nowhere")


def test_missing_folder_and_file_raise(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"does not exist: .*nowhere"):
        load_model(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"does not exist: nowhere"):
        local_folder("./nowhere")
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="is a file"):
        load_model(tmp_path / "file")
    assert local_folder("owner/name") is None


def test_folder_without_config_or_weights_raises(whole):
    (whole / "model.safetensors").unlink()
    with pytest.raises(
        FileNotFoundError, match=r"no weights in .*expected one of model\.safetensors.*got config\.json"
    ):
        load_model(whole)
    (whole / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config\.json is not readable JSON"):
        load_model(whole)
    (whole / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"no config\.json in .*got generation_config\.json"):
        load_model(whole)


def test_unknown_architecture_in_the_config_raises(whole):
    config = json.loads((whole / "config.json").read_text())
    (whole / "config.json").write_text(json.dumps(config | {"model_type": "never_heard_of"}))
    with pytest.raises(ValueError, match="never_heard_of"):
        load_model(whole)


@pytest.mark.parametrize("keep", [-1, -300, 60, 8, 3, 0])
def test_truncated_shard_raises_with_its_length(sharded, keep):
    shard = sorted(sharded.glob("model-*.safetensors"))[1]
    shard.write_bytes(shard.read_bytes()[:keep] if keep else b"")
    with pytest.raises(ValueError, match=rf"{shard.name} is truncated.*{shard.stat().st_size} bytes"):
        load_model(sharded)


def test_damaged_header_raises(whole):
    path = whole / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[8:12] = b"\xff\xff\xff\xff"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"model\.safetensors is damaged"):
        load_model(whole)


def test_missing_shard_raises(sharded):
    shard = sorted(sharded.glob("model-*.safetensors"))[1]
    shard.unlink()
    with pytest.raises(FileNotFoundError, match=rf"these are missing: {shard.name}"):
        load_model(sharded)


def test_shard_without_a_tensor_of_the_index_raises(sharded):
    shard = sorted(sharded.glob("model-*.safetensors"))[0]
    tensors = load_file(shard)
    name = sorted(tensors)[0]
    tensors["something.else"] = tensors.pop(name)
    save_file(tensors, shard, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=rf"missing tensors that the index.*: {name}"):
        load_model(sharded)


def test_missing_parameters_and_other_shapes_raise(whole):
    path, name = whole / "model.safetensors", "model.layers.1.mlp.up_proj.weight"
    tensors = load_file(path)
    kept = tensors.pop(name)
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=rf"missing parameters {name}"):
        load_model(whole)
    save_file(tensors | {name: kept[:5].clone()}, path, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=rf"another shape for .*{name}"):
        load_model(whole)


def test_unused_weights_warn(whole):
    path = whole / "model.safetensors"
    save_file(load_file(path) | {"model.extra.weight": torch.zeros(2)}, path, metadata={"format": "pt"})
    with pytest.warns(UserWarning, match=r"does not use: model\.extra\.weight"):
        load_model(whole)


def test_unreachable_hub_error_names_the_file_and_the_way_out(monkeypatch):
    def unreachable(*args, **kwargs):
        raise OSError("We couldn't connect to 'https://huggingface.co'\nsecond line")

    for loader in (AutoConfig, AutoTokenizer):
        monkeypatch.setattr(loader, "from_pretrained", unreachable)
    with pytest.raises(ValueError, match=r"config\.json of 'owner/name'.*model\.path=DIR.*couldn't connect"):
        load_model("owner/name")
    with pytest.raises(ValueError, match=r"the tokenizer of 'owner/name'.*model\.path=DIR"):
        load_tokenizer("owner/name")


def test_folder_without_a_tokenizer_raises(whole):
    with pytest.raises(FileNotFoundError, match=r"no tokenizer in .*expected tokenizer\.json"):
        load_tokenizer(whole)


def test_check_safetensors_returns_the_names(whole):
    assert "model.norm.weight" in check_safetensors(whole / "model.safetensors")


@pytest.mark.real
@pytest.mark.skipif(not REAL.is_dir(), reason=f"{REAL} is absent")
def test_real_pretrained_model_loads_and_is_certified():
    model, tokenizer = load_model(REAL), load_tokenizer(REAL)
    tokens = tokenizer("Once upon a time, there was a little girl", return_tensors="pt").input_ids
    certificate = certify(model, tokens=tokens)
    assert certificate.group == "signed_permutation"
    assert certificate.exact and certificate.outside_breaks and certificate.degenerate == ()


@pytest.mark.real
@pytest.mark.skipif(SMOLLM2 is None, reason="./run.sh fetch smollm2 was not run in this checkout")
def test_smollm2_answers_alike_in_other_coordinates():
    model, tokenizer = load_model(SMOLLM2), load_tokenizer(SMOLLM2)
    question = [{"role": "user", "content": "What is the capital of France?"}]
    prompt = tokenizer.apply_chat_template(
        question, add_generation_prompt=True, return_dict=True, return_tensors="pt"
    )
    gauge = SignedPermutation.random(model.config.hidden_size, torch.Generator().manual_seed(0))
    for coordinates in (model, transport_model(model, gauge)):
        tokens = coordinates.generate(**prompt, max_new_tokens=7, do_sample=False)
        answer = tokenizer.decode(tokens[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True)
        assert answer == "The capital of France is Paris."
