"""``gaugeport align`` on folders: what it writes, what it concludes, and what it refuses."""

import json
import warnings

import pytest
import torch
from PIL import Image

from gaugeport.charts import fold_gains
from gaugeport.groups import load
from gaugeport.models.loading import load_model
from gaugeport.tool import opening
from gaugeport.tool.walk import checkpoints_of
from processes import printed
from tiny_folders import model, noisy, planted_pair, write_model, write_text


def run(folder, *arguments, code=0):
    command = [
        "align",
        str(folder / "a"),
        str(folder / "b"),
        "--out",
        str(folder / "g.safetensors"),
        *arguments,
    ]
    return printed(command, folder, code)


@pytest.fixture
def pair(tmp_path):
    return tmp_path, planted_pair(tmp_path)


def test_planted_gauge_is_found_and_reported(pair):
    folder, gauge = pair
    text = run(folder, "--text", str(folder / "text.txt"))
    assert load(folder / "g.safetensors") == gauge
    assert "one base: use this gauge" in text and "100 % of the coordinates are ahead" in text
    for group in ("no gauge", "S_d", "B_d", "O(d)"):
        assert group in text
    with Image.open(folder / "g.png") as figure:
        assert figure.width > figure.height


def test_json_has_what_the_text_says(pair):
    folder, _ = pair
    data = json.loads(run(folder, "--text", str(folder / "text.txt"), "--json", "--sites", "block1"))
    assert data["certain"] == 1 and data["exit"] == 0 and data["sites"] == ["block1"]
    explained = data["explained"]
    assert explained["signed_permutation"] > 0.9 > 0.5 > max(explained["permutation"], explained["identity"])
    assert list(data["loops_not_returned"].values()) == [0.0]
    assert len(data["margins"]) == 32 and data["tokens"]["held_out"] > 0


@pytest.mark.parametrize("evidence", ["weights", "both"])
def test_weights_find_the_gauge_too(pair, evidence):
    folder, gauge = pair
    text = run(folder, "--text", str(folder / "text.txt"), "--evidence", evidence)
    assert load(folder / "g.safetensors") == gauge and "use this gauge" in text


def test_models_run_where_the_device_map_says(pair, monkeypatch):
    folder, gauge = pair
    text, given = ["--text", str(folder / "text.txt")], []

    def recorded(name, **options):
        given.append((name, options["device_map"]))
        return load_model(name, **options)

    monkeypatch.setattr(opening, "load_model", recorded)
    run(folder, *text, "--device-map", "auto", "--base", str(folder / "a"))
    assert load(folder / "g.safetensors") == gauge
    assert {name for name, _ in given} == {str(folder / "a"), str(folder / "b")}
    assert {where for _, where in given} == {"auto"}
    said = run(folder, *text, "--force", "--device-map", "auto", "--evidence", "both", code=2)
    assert "--device-map auto with --evidence both" in said and "--evidence activations" in said


def test_weights_need_no_text(pair):
    folder, gauge = pair
    text = run(folder, "--evidence", "weights", "--tokens", "0")
    assert load(folder / "g.safetensors") == gauge and "not measured: no text was read" in text


def test_margins_that_are_all_alike_are_drawn(tmp_path):
    a, out = str(write_model(model(), tmp_path / "a")), tmp_path / "g.safetensors"
    weights = ["--evidence", "weights", "--tokens", "0", "--group", "orthogonal"]
    printed(["align", a, a, "--out", str(out), *weights], tmp_path)
    assert bool((load(out).matrix.diagonal() > 0.999).all()) and out.with_suffix(".png").exists()


def test_models_of_different_seeds_are_told_apart(tmp_path):
    write_model(model(seed=0), tmp_path / "a")
    write_model(model(seed=1), tmp_path / "b")
    write_text(tmp_path / "text.txt")
    text = run(tmp_path, "--text", str(tmp_path / "text.txt"), code=3)
    assert "use this gauge" not in text and ("independent models" in text or "not certain" in text)


def test_a_folded_copy_is_named(tmp_path):
    a = model()
    write_model(a, tmp_path / "a")
    write_model(fold_gains(a), tmp_path / "b")
    write_text(tmp_path / "text.txt")
    assert "fold the gains of A first" in run(tmp_path, "--text", str(tmp_path / "text.txt"), code=3)


def test_a_walk_along_checkpoints(tmp_path):
    base = model()
    for run_name, seed in (("runs_a", 1), ("runs_b", 2)):
        for step in (1, 2):
            write_model(noisy(base, 0.02 * step, seed), tmp_path / run_name / f"checkpoint-{step}")
    for name, run_name in (("a", "runs_a"), ("b", "runs_b")):
        (tmp_path / name).symlink_to(tmp_path / run_name / "checkpoint-2")
    write_model(base, tmp_path / "base")
    write_text(tmp_path / "text.txt")
    along = ["--along", str(tmp_path / "runs_a"), str(tmp_path / "runs_b"), "--base", str(tmp_path / "base")]
    data = json.loads(run(tmp_path, "--text", str(tmp_path / "text.txt"), *along, "--json"))
    assert len(data["links"]) == 4  # A 2, A 1, base, B 1, B 2
    gauge = load(tmp_path / "g.safetensors")
    assert torch.equal(gauge.perm, torch.arange(32)) and bool((gauge.sign == 1).all())
    assert [p.name for p in checkpoints_of(tmp_path / "runs_a")] == ["checkpoint-1", "checkpoint-2"]


def test_an_existing_gauge_is_kept(pair):
    folder, gauge = pair
    (folder / "g.safetensors").write_text("mine")
    assert "exists already; pass --force" in run(folder, "--text", str(folder / "text.txt"), code=2)
    assert (folder / "g.safetensors").read_text() == "mine"
    run(folder, "--text", str(folder / "text.txt"), "--force")
    assert load(folder / "g.safetensors") == gauge


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--evidence", "x"], "evidence='x'; allowed: activations, weights, both"),
        (["--tokens", "0"], "tokens=0 reads no text"),
        (["--text", "nowhere.txt"], "path does not exist"),
        (["--group", "x", "--text", "TEXT"], "unknown gauge group 'x'"),
        (["--sites", "block9", "--text", "TEXT"], "unknown site"),
        (["--along", "nowhere", "nowhere", "--text", "TEXT"], "no run at nowhere"),
    ],
)
def test_bad_input_is_one_line(pair, arguments, message):
    folder, _ = pair
    arguments = [str(folder / "text.txt") if a == "TEXT" else a for a in arguments]
    text = run(folder, *arguments, code=2)
    assert message in text and "Traceback" not in text
    assert json.loads(run(folder, *arguments, "--json", code=2))["error"]
    assert not (folder / "g.safetensors").exists()


def test_warnings_become_notes(tmp_path):
    for name, seed in (("a", 0), ("b", 1)):
        write_model(model(seed=seed), tmp_path / name)
    write_text(tmp_path / "text.txt")
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # none may reach the user's terminal
        data = json.loads(run(tmp_path, "--text", str(tmp_path / "text.txt"), "--json", code=3))
    assert any("of the coordinates have a margin of 0 or less" in note for note in data["notes"])


def test_the_fewest_tokens_fill_a_row_to_fit_on_and_one_to_score_on(pair):
    folder, gauge = pair
    data = json.loads(run(folder, "--text", str(folder / "text.txt"), "--tokens", "1", "--json"))
    assert data["tokens"] == {"fit": 63, "held_out": 63}  # rows of the model's 64 positions, but their first
    assert load(folder / "g.safetensors") == gauge
