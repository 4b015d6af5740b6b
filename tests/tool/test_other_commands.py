"""``gaugeport transport``, ``merge``, ``audit``, ``certify`` and ``chart draft`` on folders."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from gaugeport.models.loading import load_model
from gaugeport.transport import HeadGauge, NeuronGauge
from processes import printed
from tiny_folders import model, planted_pair, write_model, write_text


@pytest.fixture
def pair(tmp_path):
    gauge = planted_pair(tmp_path, noise=0.0)
    gauge.save(tmp_path / "g.safetensors")
    return tmp_path, gauge


def transport(folder, kind, source, out, *more, code=0):
    command = ["transport", kind, str(source), "--gauge", str(folder / "g.safetensors"), "--out", str(out)]
    return printed([*command, *more], folder, code)


def logits(folder):
    tokens = torch.arange(4, 20)[None]
    with torch.no_grad():
        return AutoModelForCausalLM.from_pretrained(folder).eval()(tokens).logits


def test_a_moved_model_is_the_same_function_in_other_coordinates(pair):
    folder, _ = pair
    transport(folder, "model", folder / "a", folder / "moved")
    before, after = logits(folder / "a"), logits(folder / "moved")
    assert float((before - after).abs().max()) < 1e-4 * float(before.std())
    ours, theirs = (load_file(folder / name / "model.safetensors") for name in ("moved", "b"))
    assert all(torch.equal(ours[k], theirs[k]) for k in theirs)
    theirs = load_file(folder / "a" / "model.safetensors")
    assert not torch.equal(ours["model.norm.weight"], theirs["model.norm.weight"])
    assert (folder / "moved" / "tokenizer.json").exists()


def test_a_direction_and_a_list_move(pair):
    folder, gauge = pair
    v = torch.randn(32, generator=torch.Generator().manual_seed(0))
    np.save(folder / "v.npy", v.numpy())
    transport(folder, "direction", folder / "v.npy", folder / "moved.npy")
    assert torch.equal(torch.from_numpy(np.load(folder / "moved.npy")), gauge.act(v))
    (folder / "top.json").write_text("[3, 17]")
    transport(folder, "indices", folder / "top.json", folder / "moved.json")
    moved = json.loads((folder / "moved.json").read_text())
    assert gauge.perm[moved["index"]].tolist() == [3, 17]


@pytest.mark.parametrize(
    ("kind", "message"),
    [("weights", "cannot transport 'weights'; allowed: model, sae"), ("lora", "pass --model DIR")],
)
def test_what_cannot_be_moved_is_refused(pair, kind, message):
    folder, _ = pair
    assert message in transport(folder, kind, folder / "a", folder / "moved", code=2)
    assert not (folder / "moved").exists()


@pytest.mark.parametrize("reordered", [False, True])
def test_a_model_merged_with_its_moved_copy_is_itself(pair, reordered):
    folder, _ = pair
    if reordered:
        b, generator = load_model(folder / "b"), torch.Generator().manual_seed(7)
        b = HeadGauge.random(b, generator).apply(NeuronGauge.random(b, generator).apply(b))
        write_model(b, folder / "b")
    printed(["merge", str(folder / "a"), str(folder / "b"), "--out", str(folder / "m")], folder)
    before, after = (
        load_file(folder / "a" / "model.safetensors"),
        load_file(folder / "m" / "model.safetensors"),
    )
    assert all(torch.allclose(before[k], after[k], atol=1e-6) for k in before)
    text = printed(["merge", str(folder / "a"), str(folder / "b"), "--out", str(folder / "m")], folder, 2)
    assert "exists already" in text and "--force" in text and "force=True" not in text


def test_an_audit_tells_what_a_gauge_restores(pair):
    folder, _ = pair
    save_file({"v": torch.randn(32)}, folder / "v.safetensors")
    (folder / "top.json").write_text("[3, 17, 5, 30]")
    data = json.loads(
        printed(
            ["audit", str(folder / "a"), "--text", str(folder / "text.txt"),
             "--indices", str(folder / "top.json"),
             "--direction", str(folder / "v.safetensors"), "--json"],
            folder,
        )
    )  # fmt: skip
    assert data["recovered"] == 1 and data["group"] == "signed_permutation"
    for row in data["audited"]:
        assert row["moved"] == pytest.approx(1, abs=1e-3), row
        assert row["as_it_is"] < 0.7, row


def test_certify_and_draft_answer_in_text_and_json(pair):
    folder, _ = pair
    assert "group    signed_permutation" in printed(["certify", str(folder / "a")], folder)
    assert json.loads(printed(["certify", str(folder / "a"), "--json"], folder))["exact"] is True
    text = printed(["chart", "draft", str(folder / "a")], folder)
    assert "Rule('model.layers.*.mlp.down_proj.weight', ('vector', 'none'), 'write')" in text
    assert "charts/llama.py declares this architecture already" in text
    namespace = {}
    exec(text, namespace)
    assert namespace["FAMILY"].norm == "rms"


def test_a_missing_model_is_one_line(tmp_path):
    write_model(model(), tmp_path / "a")
    write_text(tmp_path / "text.txt")
    for command in (["certify", "./nowhere"], ["audit", "./nowhere"], ["chart", "draft", "./nowhere"]):
        assert "path does not exist" in printed(command, tmp_path, 2)
