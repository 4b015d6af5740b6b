"""A model folder of the user's own is checked before anything is built or trained."""

import shutil

import pytest

from processes import built, printed
from tiny_folders import model, planted_pair, write_model

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:{}\nsize 269060552\n".format("4d" * 32)


def adapter(folder):
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "a/b"}')


def pointer(folder):
    (folder / "model.safetensors").write_text(POINTER)


def no_tokenizer(folder):
    for file in folder.glob("token*"):
        file.unlink()


def unknown(folder):
    (folder / "config.json").write_text('{"model_type": "bert"}')


DAMAGES = [
    (adapter, "holds a model and an adapter_config.json"),
    (pointer, "is a git-lfs pointer"),
    (no_tokenizer, "no tokenizer in"),
    (unknown, "unknown architecture 'bert'; known model types: llama"),
]


@pytest.fixture
def folder(tmp_path):
    return write_model(model(), tmp_path / "own")


@pytest.mark.parametrize(("damage", "message"), DAMAGES)
def test_run_and_headline_refuse_before_anything_is_built(folder, tmp_path, damage, message):
    damage(folder)
    outputs = tmp_path / "outputs"
    for command in (
        ["run", "profile=smoke", f"model.path={folder}", "task=sae", "task.target=finetuned"],
        ["run", "-m", "profile=smoke", f"model.path={folder}", "task=sae,refusal"],
        ["run", "--dry-run", f"model.path={folder}"],
        ["tables", "a9", "--profile=smoke", "--set", f"model.path={folder}"],
        ["headline", "--model", str(folder)],
    ):
        text = printed(command, outputs, code=2)
        assert text.count("error: ") == 1 and message in text and "Traceback" not in text
    assert built(outputs) == [] and not list(outputs.rglob("*.json"))


def test_gauge_that_the_model_does_not_have_is_refused_before_it_is_trained(tmp_path):
    folder = write_model(model("gpt_neox"), tmp_path / "own")
    for task in ("recovery", "merge", "refusal"):
        job = ["run", "profile=smoke", f"model.path={folder}", f"task={task}", "gauge=signed_permutation"]
        text = printed(job, tmp_path / "outputs", code=2)
        assert "signed_permutation is larger than this model's exact gauge group" in text
    assert built(tmp_path / "outputs") == []


def test_rows_beyond_the_positions_are_refused_before_it_is_trained(tmp_path):
    folder = write_model(model("gpt2"), tmp_path / "own")
    job = ["run", "profile=smoke", f"model.path={folder}", "task=sae", "task.target=finetuned"]
    job += ["gauge=global_sign_permutation", "matcher=hungarian_raw", "--dry-run"]
    text = printed(job, tmp_path / "outputs", code=2)
    assert "data.length=256: rows are longer than the 64 positions" in text
    assert "allowed: data.length=64 or less" in text
    assert "1 job, 1 to run" in printed([*job, "data.length=64"], tmp_path / "outputs")


@pytest.mark.parametrize(("damage", "message"), DAMAGES[:2])
def test_commands_refuse_the_second_model_before_the_first_is_loaded(tmp_path, monkeypatch, damage, message):
    planted_pair(tmp_path)
    damage(tmp_path / "b")
    shutil.copytree(tmp_path / "a", tmp_path / "run" / "checkpoint-1")
    shutil.copytree(tmp_path / "b", tmp_path / "bad" / "checkpoint-1")

    def load(*_, **__):
        raise AssertionError("a model was loaded")

    for place in ("gaugeport.load_model", "gaugeport.tool.opening.load_model"):
        monkeypatch.setattr(place, load)
    a, b, out = (str(tmp_path / name) for name in ("a", "b", "out"))
    text = ["--text", str(tmp_path / "text.txt")]
    for command in (
        ["align", a, b, "--out", out, *text],
        ["align", a, a, "--out", out, *text, "--along", str(tmp_path / "run"), str(tmp_path / "bad")],
        ["align", a, a, "--out", out, *text, "--base", b],
        ["merge", a, b, "--out", out],
        ["audit", b, *text],
    ):
        assert message in printed(command, tmp_path, code=2)
    assert not (tmp_path / "out").exists()
