"""What moving a folder refuses: gauges, places, links and forms of weights."""

import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from gaugeport.groups import (
    AffineGauge,
    Orthogonal,
    Permutation,
    SignedPermutation,
)
from gaugeport.models.loading import load_model
from gaugeport.transport import transport_checkpoint, transport_model
from multimodal_models import save_gemma3
from saved_folders import element, read_bytes, saved, tiny

REFUSED = [
    ("llama", Orthogonal, r"'orthogonal' is not in the exact group .*fold_gains\(model\) the group"),
    ("gpt2", SignedPermutation, "only S_d × {±1}"),
    ("gemma2", Orthogonal, "post-norm"),
    ("llama", AffineGauge, r"linear gauge, got .*'affine'"),
]


@pytest.mark.parametrize(("family", "cls", "message"), REFUSED)
def test_gauges_outside_the_group_are_refused_as_by_transport_model(family, cls, message, tmp_path):
    model, g = tiny(family), element(cls)
    source = saved(model, tmp_path / "a")
    with pytest.raises(ValueError, match=message) as by_file:
        transport_checkpoint(source, g, tmp_path / "b")
    with pytest.raises(ValueError, match=message) as by_model:
        transport_model(model, g)
    assert str(by_file.value) == str(by_model.value)
    assert not (tmp_path / "b").exists()


def test_other_widths_and_objects_are_refused(tmp_path):
    source = saved(tiny("llama"), tmp_path / "a")
    with pytest.raises(ValueError, match="width 31"):
        transport_checkpoint(source, element(SignedPermutation, d=31), tmp_path / "b")
    with pytest.raises(TypeError, match="expected a gauge element, got list"):
        transport_checkpoint(source, [1], tmp_path / "b")


def test_output_in_or_around_the_source_is_refused(tmp_path):
    source, g = saved(tiny("llama"), tmp_path / "a" / "model"), element(Permutation)
    (tmp_path / "link").symlink_to(source)
    before = read_bytes(source)
    again = tmp_path / "a" / "x" / ".." / "model"
    for out in (source, source / "b", tmp_path / "a", tmp_path / "link", again):
        with pytest.raises(ValueError, match="expected a place apart from it"):
            transport_checkpoint(source, g, out, force=True)
    (tmp_path / "file").write_text("")
    with pytest.raises(FileExistsError, match="is a file; name a new folder"):
        transport_checkpoint(source, g, tmp_path / "file")
    assert read_bytes(source) == before


def test_a_folder_that_holds_something_is_refused_unless_forced(tmp_path):
    source, g, out = saved(tiny("llama"), tmp_path / "a"), element(SignedPermutation), tmp_path / "b"
    saved(tiny("qwen2"), out, max_shard_size="10KB")
    (out / "notes.txt").write_text("mine")
    before = read_bytes(out)
    with pytest.raises(FileExistsError, match=r"b is not empty: it holds config\.json.*force=True"):
        transport_checkpoint(source, g, out)
    assert read_bytes(out) == before
    transport_checkpoint(source, g, out, force=True)
    assert (out / "notes.txt").read_text() == "mine"
    assert {p.name for p in out.glob("model*")} == {"model.safetensors"}
    assert load_model(out).config.model_type == "llama"
    with pytest.raises(FileExistsError, match="it holds the transport of another source and gauge"):
        transport_checkpoint(source, element(SignedPermutation, seed=2), out)
    with pytest.raises(FileExistsError, match="it holds the transport of this source and gauge"):
        transport_checkpoint(source, g, out)
    (out / "adapter_config.json").write_text("{}")
    with pytest.raises(ValueError, match=r"holds adapter_config\.json, which may not lie beside a model"):
        transport_checkpoint(source, g, out, force=True)


def test_links_out_of_the_source_are_refused_and_those_of_a_hub_cache_followed(tmp_path):
    g = element(SignedPermutation)
    blobs, snapshot = (tmp_path / "models--a--b" / name for name in ("blobs", "snapshots/0f1e"))
    plain = saved(tiny("llama"), tmp_path / "plain")
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for k, path in enumerate(plain.iterdir()):
        shutil.copy(path, blobs / str(k))
        (snapshot / path.name).symlink_to(f"../../blobs/{k}")
    transport_checkpoint(snapshot, g, tmp_path / "b")
    assert not any(p.is_symlink() for p in (tmp_path / "b").iterdir())
    for name in ("model.safetensors", "config.json"):
        path = plain / name
        path.rename(tmp_path / name)
        path.symlink_to(tmp_path / name)
        with pytest.raises(ValueError, match=rf"{name} is a link out of the folder, to {tmp_path / name}"):
            transport_checkpoint(plain, g, tmp_path / "c")
        path.unlink()
        (tmp_path / name).rename(path)
    (plain / "again.json").symlink_to("config.json")
    (tmp_path / "secret").write_text("not of the model")
    (plain / "notes.txt").symlink_to(tmp_path / "secret")
    report = transport_checkpoint(plain, g, tmp_path / "c")
    assert "again.json" in report.copied
    assert report.left_out == {"notes.txt": f"a link out of the folder, to {tmp_path / 'secret'}"}


def test_nothing_is_written_through_links_in_the_output_folder(tmp_path):
    source, g = saved(tiny("llama"), tmp_path / "a"), element(SignedPermutation)
    (source / "additional_chat_templates").mkdir()
    (source / "additional_chat_templates" / "tool.jinja").write_text("new")
    out, elsewhere = tmp_path / "b", tmp_path / "elsewhere"
    out.mkdir()
    elsewhere.mkdir()
    for name in ("config.json", "model.safetensors", "tool.jinja"):
        (elsewhere / name).write_text("old")
        (out / name).symlink_to(elsewhere / name)
    (out / "additional_chat_templates").symlink_to(elsewhere)
    with pytest.raises(ValueError, match=rf"_templates is a link out of {out}, to {elsewhere}"):
        transport_checkpoint(source, g, out, force=True)
    (out / "additional_chat_templates").unlink()
    transport_checkpoint(source, g, out, force=True)
    assert all(p.read_text() == "old" for p in elsewhere.iterdir())
    assert load_model(out) is not None


def test_weights_in_other_forms_are_refused(tmp_path):
    g = element(SignedPermutation)
    with pytest.raises(ValueError, match=r"multimodal model, whose other parts .*save_pretrained"):
        save_gemma3(tmp_path / "multimodal")
        transport_checkpoint(tmp_path / "multimodal", g, tmp_path / "b")
    model = tiny("llama")
    source = saved(model, tmp_path / "a")
    tensors = load_file(source / "model.safetensors")
    name = "model.layers.0.mlp.up_proj.weight"
    tensors[name] = tensors[name].to(torch.float8_e4m3fn)
    save_file(tensors, source / "model.safetensors")
    with pytest.raises(ValueError, match=rf"1 parameters are quantized, the first \['{name} \(F8_E4M3\)'\]"):
        transport_checkpoint(source, g, tmp_path / "b")
    (source / "model.safetensors").unlink()
    torch.save(model.state_dict(), source / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"keeps its weights in pytorch_model\.bin; .*save_pretrained"):
        transport_checkpoint(source, g, tmp_path / "b")
    with pytest.raises(ValueError, match="expected a local folder, got 'owner/name'"):
        transport_checkpoint("owner/name", g, tmp_path / "b")
    assert not (tmp_path / "b").exists()
