"""A folder moved file by file is the moved model, and what is copied with it."""

import json
import shutil

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from gaugeport.charts import fold_gains
from gaugeport.groups import (
    GlobalSignPermutation,
    MeanPreservingOrthogonal,
    Orthogonal,
    SignedPermutation,
)
from gaugeport.pipeline.measures.gauge_groups import MODEL_TYPES
from gaugeport.transport import checkpoint_moves, transport_checkpoint, transport_model
from saved_folders import D, assert_same_bits, element, read_bytes, saved, tensors_of, tiny


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("family", MODEL_TYPES)
def test_files_are_those_of_the_moved_model(family, tied, tmp_path):
    model = tiny(family, tie_word_embeddings=tied).bfloat16()
    source = saved(model, tmp_path / "a", max_shard_size="10KB" if tied else "1GB")
    before = read_bytes(source)
    g = element(GlobalSignPermutation if family in ("gpt2", "gpt_neox") else SignedPermutation)
    report = transport_checkpoint(source, g, tmp_path / "b", workers=2)
    expected = tensors_of(saved(transport_model(model, g), tmp_path / "expected"))
    assert_same_bits(tensors_of(tmp_path / "b"), expected)
    assert read_bytes(source) == before
    assert len(report.written) == len(list(source.glob("*.safetensors"))) and report.kept == ()
    assert report.tensors == len(expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("width", [24, 256])
def test_blocks_and_kernels_change_nothing(dtype, width, tmp_path, monkeypatch):
    """Width 256 goes through the kernels; rows of 24 and 25 do not end at words of 8 bytes."""
    monkeypatch.setattr(checkpoint_moves, "BLOCK_BYTES", 1 << 18 if width == 256 else 1000)
    monkeypatch.setattr(checkpoint_moves, "PIECE_BYTES", 1 << 19 if width == 256 else 3000)
    monkeypatch.setattr(checkpoint_moves, "MAX_VECTORS", 16)
    sizes = {"intermediate_size": 25, "vocab_size": 65} if width == 24 else {"vocab_size": 1500}
    model, g = tiny("llama", width, **sizes).to(dtype), element(SignedPermutation, d=width)
    transport_checkpoint(saved(model, tmp_path / "a"), g, tmp_path / "b", workers=3)
    assert_same_bits(
        tensors_of(tmp_path / "b"), tensors_of(saved(transport_model(model, g), tmp_path / "expected"))
    )


def test_the_inverse_gives_the_same_files_back(tmp_path):
    source = saved(tiny("qwen2").bfloat16(), tmp_path / "a", max_shard_size="10KB")
    g = element(SignedPermutation)
    transport_checkpoint(source, g, tmp_path / "b")
    transport_checkpoint(tmp_path / "b", g.inverse(), tmp_path / "c")
    back = read_bytes(tmp_path / "c")
    back.pop("gaugeport_transport.json")
    assert back == read_bytes(source)
    moved = read_bytes(tmp_path / "b")
    assert any(moved[name] != content for name, content in back.items())  # control


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("family", "cls"),
    [("llama", Orthogonal), ("gpt2", MeanPreservingOrthogonal), ("llama", SignedPermutation)],
)
def test_folded_charts_are_rotated_with_the_rounding_of_transport_model(family, cls, dtype, tmp_path):
    model, g = fold_gains(tiny(family)).to(dtype), element(cls)
    source = saved(model, tmp_path / "a")
    transport_checkpoint(source, g, tmp_path / "b")
    expected = tensors_of(saved(transport_model(model, g), tmp_path / "expected"))
    assert_same_bits(tensors_of(tmp_path / "b"), expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_rotations_in_blocks_differ_by_one_rounding_at_most(dtype, tmp_path, monkeypatch):
    """Other blocks may sum in another order: float64 products differ by 1e-16, and are rounded once."""
    monkeypatch.setattr(checkpoint_moves, "ELEMENTS_PER_ROTATION_BLOCK", 7 * D)
    model, g = fold_gains(tiny("llama")).to(dtype), element(Orthogonal)
    transport_checkpoint(saved(model, tmp_path / "a"), g, tmp_path / "b")
    moved, expected = tensors_of(tmp_path / "b"), tensors_of(saved(transport_model(model, g), tmp_path / "e"))
    for name, t in moved.items():
        assert torch.allclose(t, expected[name], rtol=torch.finfo(dtype).eps, atol=1e-12), name
    other = transport_model(model, element(Orthogonal, seed=2))
    assert not torch.allclose(other.lm_head.weight, moved["lm_head.weight"], rtol=0.1, atol=0.1)  # control


def test_headers_metadata_and_mixed_dtypes_are_kept(tmp_path):
    model = tiny("llama")
    source = saved(model, tmp_path / "a")
    path = source / "model.safetensors"
    mixed = {k: t if "norm" in k else t.half() for k, t in load_file(path).items()}
    save_file(mixed, path, metadata={"format": "pt", "by": "someone else", "note": "ä"})
    transport_checkpoint(source, element(SignedPermutation), tmp_path / "b")
    before, after = path.read_bytes(), (tmp_path / "b" / "model.safetensors").read_bytes()
    length = 8 + int.from_bytes(before[:8], "little")
    assert after[:length] == before[:length] and after != before
    with safe_open(tmp_path / "b" / "model.safetensors", "pt") as f:
        assert f.metadata()["note"] == "ä"


def test_both_names_of_a_tied_tensor_are_moved_alike(tmp_path):
    source = saved(tiny("qwen2", tie_word_embeddings=True), tmp_path / "a")
    tensors = load_file(source / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    save_file(tensors, source / "model.safetensors", metadata={"format": "pt"})
    g = element(SignedPermutation)
    transport_checkpoint(source, g, tmp_path / "b")
    moved = tensors_of(tmp_path / "b")
    for name in ("lm_head.weight", "model.embed_tokens.weight"):
        assert torch.equal(moved[name], g.act(tensors[name]))


def test_other_files_are_copied_byte_for_byte_or_left_out_with_a_reason(tmp_path):
    source = saved(tiny("llama"), tmp_path / "a", max_shard_size="30KB")
    copied = {
        "tokenizer.json": b'{"a":\r\n 1}\n', "chat_template.jinja": b"{{ x }}", "LICENSE": b"free",
        "merges.txt": b"a b", "additional_chat_templates/tool.jinja": b"t",
    }  # fmt: skip
    left_out = ("optimizer.pt", "training_args.bin", "pytorch_model.bin", "pytorch_model.bin.index.json",
                "consolidated.safetensors", "model.gguf", "model.onnx", "onnx/model.onnx")  # fmt: skip
    for name in (*copied, *left_out):
        (source / name).parent.mkdir(exist_ok=True)
        (source / name).write_bytes(copied.get(name, b"old coordinates"))
    report = transport_checkpoint(source, element(SignedPermutation), tmp_path / "b")
    moved = read_bytes(tmp_path / "b")
    for name in (*copied, "config.json", "generation_config.json", "model.safetensors.index.json"):
        assert moved[name] == (source / name).read_bytes() and name in report.copied
    assert not moved.keys() & set(left_out)
    assert report.left_out.keys() == {name.split("/")[0] for name in left_out}
    assert "transport_optimizer" in report.left_out["optimizer.pt"]
    assert "left out: optimizer.pt" in str(report) and "moved by a signed_permutation" in str(report)


def test_the_index_is_copied_only_with_its_shards(tmp_path):
    source = saved(tiny("llama"), tmp_path / "a", max_shard_size="30KB")
    saved(tiny("llama"), tmp_path / "whole")
    shutil.copy(tmp_path / "whole" / "model.safetensors", source)
    report = transport_checkpoint(source, element(SignedPermutation), tmp_path / "b")
    assert {p.name for p in (tmp_path / "b").glob("model*")} == {"model.safetensors"}
    assert "model.safetensors.index.json" in report.left_out


@pytest.mark.parametrize("workers", [1, 3])
def test_a_shard_of_empty_tensors_is_written_too(workers, tmp_path):
    source = saved(tiny("llama"), tmp_path / "a", max_shard_size="30KB")
    name, file = "model.layers.0.self_attn.rotary_emb.inv_freq", "model-00004-of-00004.safetensors"
    save_file({name: torch.zeros(0)}, source / file, metadata={"format": "pt"})
    index = json.loads((source / "model.safetensors.index.json").read_text())
    index["weight_map"][name] = file
    (source / "model.safetensors.index.json").write_text(json.dumps(index))
    report = transport_checkpoint(source, element(SignedPermutation), tmp_path / "b", workers=workers)
    assert file in report.written
    assert (tmp_path / "b" / file).read_bytes() == (source / file).read_bytes()


def test_progress_counts_every_byte_and_workers_change_nothing(tmp_path):
    source, seen = saved(tiny("llama"), tmp_path / "a", max_shard_size="10KB"), []
    g = element(SignedPermutation)
    transport_checkpoint(source, g, tmp_path / "b", workers=1, progress=lambda *now: seen.append(now))
    total = sum(t.numel() * t.element_size() for t in tensors_of(source).values())
    assert seen[-1] == (total, total, "weights") and seen == sorted(seen)
    transport_checkpoint(source, g, tmp_path / "c", workers=4)
    assert read_bytes(tmp_path / "b") == read_bytes(tmp_path / "c")
    with pytest.raises(ValueError, match="workers must be at least 1, got 0"):
        transport_checkpoint(source, g, tmp_path / "d", workers=0)
    assert torch.get_num_threads() == 1


def test_the_record_says_what_was_moved_by_what(tmp_path):
    source, g = saved(tiny("llama"), tmp_path / "a"), element(SignedPermutation)
    transport_checkpoint(source, g, tmp_path / "b")
    record = json.loads((tmp_path / "b" / "gaugeport_transport.json").read_text())
    assert record["complete"] and record["gauge"]["group"] == "signed_permutation"
    assert record["sources"]["model.safetensors"]["bytes"] == (source / "model.safetensors").stat().st_size
    assert record["done"].keys() == {"model.safetensors"}
