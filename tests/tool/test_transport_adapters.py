"""``gaugeport transport lora`` reads the chart of the base, and not its weights."""

import warnings

import pytest
import torch
from safetensors.torch import load_file

import gaugeport as gp
from lora_adapters import adapt, tiny
from processes import printed
from tiny_folders import write_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("adapters")
    base = tiny("llama")
    adapted, _, _ = adapt(base)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adapted.save_pretrained(folder / "adapter")
    write_model(base, folder / "a")
    gp.SignedPermutation.random(32, torch.Generator().manual_seed(3)).save(folder / "g.safetensors")
    return folder


def test_adapter_moves_with_the_chart_of_its_base(folder, tmp_path, monkeypatch):
    expected = gp.transport_lora(
        folder / "adapter", gp.load_gauge(folder / "g.safetensors"), gp.load_model(folder / "a")
    )
    monkeypatch.setattr(gp, "load_model", None)
    out = tmp_path / "moved"
    out.mkdir()
    (out / "notes.txt").write_text("older")
    command = ["transport", "lora", str(folder / "adapter"), "--model", str(folder / "a"), "--out", str(out)]
    command += ["--gauge", str(folder / "g.safetensors")]
    assert "exists already" in printed(command, tmp_path, code=2)
    printed([*command, "--force"], tmp_path)
    moved = load_file(out / "adapter_model.safetensors")
    assert moved.keys() == expected.keys() and all(torch.equal(moved[k], expected[k]) for k in moved)


def test_damaged_base_is_refused(folder, tmp_path):
    base, out = tmp_path / "base", tmp_path / "moved"
    write_model(tiny("llama"), base)
    (base / "quantize_config.json").write_text("{}")
    command = [
        "transport",
        "lora",
        str(folder / "adapter"),
        "--model",
        str(base),
        "--out",
        str(tmp_path / "o"),
    ]
    text = printed([*command, "--gauge", str(folder / "g.safetensors")], tmp_path, code=2)
    assert "holds quantized weights" in text and not out.exists()
