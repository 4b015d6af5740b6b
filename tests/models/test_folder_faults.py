"""Check that folders with more or less than one plain model are refused, with the folder and the cause."""

import json
import shutil
import struct

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, Qwen2_5_VLConfig

from gaugeport.charts import chart_of
from gaugeport.models.configs import causal_config
from gaugeport.models.folders import check_folder
from gaugeport.models.loading import load_model, load_tokenizer
from gaugeport.models.safetensors_files import read_header
from gaugeport.pipeline.measures.gauge_groups import tiny_model

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:{}\nsize 269060552\n".format("4d" * 32)
CHECKS = pytest.mark.parametrize("check", [check_folder, load_model])


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    model = tiny_model("llama", torch.Generator().manual_seed(0))
    model.save_pretrained(folder / "whole")
    model.save_pretrained(folder / "sharded", max_shard_size="30KB")
    return folder


@pytest.fixture
def whole(saved, tmp_path):
    return shutil.copytree(saved / "whole", tmp_path / "whole")


@pytest.fixture
def sharded(saved, tmp_path):
    return shutil.copytree(saved / "sharded", tmp_path / "sharded")


def change_json(path, **entries):
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))


@CHECKS
def test_leftover_adapter_config_is_refused(whole, check):
    check(whole)  # control
    (whole / "adapter_config.json").write_text('{"peft_type": "LORA", "base_model_name_or_path": "a/b"}')
    with pytest.raises(ValueError, match=rf"{whole} holds a model and an adapter_config\.json.*move .* away"):
        check(whole)


@CHECKS
def test_adapter_without_a_model_is_refused(whole, check):
    (whole / "config.json").unlink()
    (whole / "adapter_config.json").write_text('{"peft_type": "LORA", "base_model_name_or_path": "a/b"}')
    with pytest.raises(FileNotFoundError, match=rf"{whole} holds an adapter.*load its base 'a/b'"):
        check(whole)


@CHECKS
@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json", "tokenizer.model"])
def test_git_lfs_pointers_are_refused(whole, check, name):
    (whole / name).write_text(POINTER)
    with pytest.raises(ValueError, match=rf"{whole / name} is a git-lfs pointer.*git lfs pull"):
        check(whole)


def test_git_lfs_pointer_of_a_shard_or_a_tokenizer_is_refused(sharded):
    shard = sorted(sharded.glob("model-*.safetensors"))[2]
    shard.write_text(POINTER)
    with pytest.raises(ValueError, match=rf"{shard} is a git-lfs pointer"):
        load_model(sharded)
    (sharded / "tokenizer.json").write_text(POINTER)
    with pytest.raises(ValueError, match=r"tokenizer\.json is a git-lfs pointer"):
        load_tokenizer(sharded)


@CHECKS
@pytest.mark.parametrize("method", ["gptq", "awq", "bitsandbytes", None])
def test_quantized_weights_are_refused(whole, check, method):
    change_json(whole / "config.json", quantization_config=None)
    check(whole)  # control: null is no quantization
    change_json(whole / "config.json", quantization_config={"bits": 4, "quant_method": method})
    with pytest.raises(ValueError, match=rf"{whole} holds quantized weights .*quant_method={method!r}"):
        check(whole)


@CHECKS
def test_quantized_text_parts_and_files_beside_are_refused(whole, check):
    (whole / "quantize_config.json").write_text("{}")
    with pytest.raises(ValueError, match=r"holds quantized weights \(quantize_config\.json\)"):
        check(whole)
    (whole / "quantize_config.json").unlink()
    change_json(whole / "config.json", text_config={"quantization_config": {"quant_method": "awq"}})
    with pytest.raises(ValueError, match="quant_method='awq'"):
        check(whole)


@CHECKS
@pytest.mark.parametrize(
    ("entries", "message"),
    [
        (
            {"model_type": "never_heard_of"},
            "'never_heard_of', which transformers .* does not know",
        ),
        (
            {"model_type": "mine", "auto_map": {"AutoConfig": "c.C"}},
            "does not know; the code that comes with it is never run",
        ),
        ({"model_type": None}, "names no architecture: expected a name as model_type, got None"),
        ({"hidden_size": "wide"}, "is not a valid config of 'llama'.*hidden_size"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers=1000000000, but its weights hold only 21 tensors"),
    ],
)
def test_configs_that_are_not_valid_are_refused(whole, check, entries, message):
    change_json(whole / "config.json", **entries)
    with pytest.raises(ValueError, match=rf"{whole}.*{message}"):
        check(whole)


def test_a_config_that_no_model_can_be_built_from_is_refused(whole):
    change_json(whole / "config.json", num_attention_heads=0)
    with pytest.raises(ValueError, match=str(whole)):
        load_model(whole)


def rewrite_header(path, change):
    """Change the header of a safetensors file, and leave the bytes of the tensors as they are."""
    content = path.read_bytes()
    length = struct.unpack("<Q", content[:8])[0]
    text = change(json.loads(content[8 : 8 + length]))
    text = (text if isinstance(text, str) else json.dumps(text)).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + content[8 + length :])


def with_entry(name, **entries):
    return lambda header: header | {name: header[name] | entries}


MIDDLE, NORM = "model.layers.1.input_layernorm.weight", "model.norm.weight"  # 32 float32 each


@CHECKS
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (with_entry(NORM, dtype="F99"), "has dtype 'F99'; known: BOOL"),
        (with_entry(NORM, shape=[31]), r"128 bytes, which is not shape \[31\] in F32"),
        (with_entry(NORM, shape=[-32]), r"has shape \[-32\]"),
        (with_entry(MIDDLE, data_offsets=[0, 128]), "overlaps another tensor"),
        (with_entry(NORM, data_offsets=[0]), r"data_offsets \[0\], expected two"),
        (lambda h: {k: v for k, v in h.items() if k != MIDDLE}, "leaves a hole before it"),
        (lambda h: {k: v for k, v in h.items() if k != NORM}, "truncated or damaged: expected 80"),
        (lambda h: h | {NORM: 3}, "expected a JSON object, got 3"),
        (lambda h: json.dumps(h)[:-1] + f', "{NORM}": {json.dumps(h[NORM])}}}', "stands there twice"),
        (lambda h: "[" * 100_000, "cannot read its safetensors header"),
        (lambda h: "[1]", "expected a JSON object, got a list"),
    ],
)
def test_damaged_headers_are_refused(whole, check, change, message):
    path = whole / "model.safetensors"
    rewrite_header(path, lambda header: header)
    check(whole)  # control
    rewrite_header(path, change)
    with pytest.raises(ValueError, match=rf"{path} is .*({message})"):
        check(whole)


def test_a_header_says_where_each_tensor_lies(whole):
    path = whole / "model.safetensors"
    content, tensors = path.read_bytes(), read_header(path).tensors
    for name, expected in load_file(path).items():
        t = tensors[name]
        assert t.dtype == "F32" and t.shape == tuple(expected.shape)
        assert content[t.start : t.start + t.nbytes] == expected.numpy().tobytes()


@CHECKS
@pytest.mark.parametrize("shard", ["../model-00001-of-00009.safetensors", "/etc/passwd", "", "a\0b"])
def test_an_index_that_leads_out_of_the_folder_is_refused(sharded, check, shard):
    index = sharded / "model.safetensors.index.json"
    weight_map = json.loads(index.read_text())["weight_map"]
    change_json(index, weight_map=weight_map | {NORM: shard})
    with pytest.raises(ValueError, match=rf"{index} names the shard .* no file of this folder"):
        check(sharded)


@CHECKS
@pytest.mark.parametrize("weight_map", [[], {NORM: 3}, "x"])
def test_damaged_weight_maps_are_refused(sharded, check, weight_map):
    index = sharded / "model.safetensors.index.json"
    change_json(index, weight_map=weight_map)
    with pytest.raises(ValueError, match=rf"{index} is damaged: its weight_map"):
        check(sharded)


@CHECKS
def test_a_tensor_in_two_shards_is_refused(sharded, check):
    first, second = sorted(sharded.glob("model-*.safetensors"))[:2]
    name, tensor = next(iter(load_file(first).items()))
    save_file(load_file(second) | {name: tensor}, second, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=rf"{name} is in two files: {first} and {second}"):
        check(sharded)


def test_the_language_model_of_a_multimodal_checkpoint_is_loaded(multimodal, tmp_path):
    model, folder = multimodal
    with pytest.warns(UserWarning, match=r"multimodal gemma3: its language model .* is loaded"):
        text = load_model(folder)
    tokens = torch.tensor([[2, 5, 7, 9]])
    with torch.no_grad():
        expected = model(tokens).logits
        assert torch.equal(text(tokens).logits, expected)
        assert chart_of(text).model_type == "gemma3_text"
        text.save_pretrained(tmp_path)
        assert torch.equal(AutoModelForCausalLM.from_pretrained(tmp_path)(tokens).logits, expected)


def test_a_multimodal_model_without_a_causal_language_model_is_refused():
    with pytest.raises(ValueError, match=r"x is a multimodal model \(model_type='qwen2_5_vl'\).*save its"):
        causal_config("x", Qwen2_5_VLConfig())
