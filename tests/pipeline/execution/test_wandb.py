"""Test what is tracked with wandb, read back from the files of its offline runs."""

import time
from pathlib import Path

import pytest

from gaugeport.pipeline.execution.tracking import track_job, track_table
from gaugeport.pipeline.store.records import Record
from wandb_files import read

ROWS = [
    {"evidence": "site", "site": "block1", "step": 5, "metric": "signed_accuracy", "value": 0.25},
    {"evidence": "site", "site": "block1", "step": 10, "metric": "signed_accuracy", "value": 0.5},
    {"step": 0, "metric": "loss_base", "value": 5.0},
]
CURVES = {
    "base": [
        {"step": 1, "epoch": 0.1, "loss": 6.5, "learning_rate": 0.1},
        {"step": 2, "epoch": 0.2, "loss": 6.0},
    ],
    "A": [{"step": 1, "epoch": 0.5, "loss": 5.5}],
}


def record(task="recovery", name="0123456789abcdef"):
    return Record(name, task, {"seed": 3, "model": {"name": "qwen"}}, ROWS, 1.5, {"torch": "2"}, 2)


def only(folder, pattern="offline-run-*"):
    """Return the one run below a folder."""
    (run,) = (folder / "wandb").glob(pattern)
    return run


def test_job_run_holds_config_metrics_and_training_curves(tmp_path):
    track_job(record(), "trajectory", CURVES, tmp_path, "offline")
    run, config, history, summary, _ = read(only(tmp_path))
    assert (run.run_id, run.run_group, run.job_type) == ("0123456789abcdef", "trajectory", "job")
    assert config["seed"] == 3 and config["model"] == {"name": "qwen"}
    measured = [
        (h["step"], h["site/block1/signed_accuracy"]) for h in history if "site/block1/signed_accuracy" in h
    ]
    assert measured == [(5, 0.25), (10, 0.5)]
    assert summary["site/block1/signed_accuracy"] == 0.5 and summary["loss_base"] == 5.0, (
        "the last step's value"
    )
    for stage, log in CURVES.items():
        name = f"train/{stage}/loss"
        assert [(h["train/step"], h[name]) for h in history if name in h] == [
            (c["step"], c["loss"]) for c in log
        ]
    assert any(h.get("train/base/learning_rate") == 0.1 for h in history)


def test_rows_with_different_columns_are_separate_series(tmp_path):
    rows = [
        {"target": target, "k": k, "theory": 0.5, "metric": "overlap", "value": float(k)}
        for target in ("identical", "finetuned")
        for k in (8, 16)
    ]
    track_job(
        Record("0123456789abcdef", "indices", {}, rows, 1.0, {}, 2),
        "index_transport",
        {},
        tmp_path,
        "offline",
    )
    summary = read(only(tmp_path))[3]
    overlaps = {name: value for name, value in summary.items() if "overlap" in name}
    assert overlaps == {
        f"{k}/{target}/overlap": float(k) for target in ("identical", "finetuned") for k in (8, 16)
    }


def test_job_that_runs_again_replaces_its_run(tmp_path):
    track_job(record(), "first", {}, tmp_path, "offline")
    time.sleep(1.1)  # wandb names a run's folder by the second it began in; no job runs twice in one
    track_job(record(), "second", {}, tmp_path, "offline")
    assert read(only(tmp_path))[0].run_group == "second"


def test_table_is_logged_once_as_artifact_with_local_files(tmp_path, monkeypatch):
    monkeypatch.delenv("WANDB_DATA_DIR", raising=False)
    files = [tmp_path / name for name in ("a3.csv", "a3.md", "a3.tex", "a3.png")]
    for file in files:
        file.write_text(f"content of {file.name}")
    track_table("trajectory", files, tmp_path, "offline")
    run, _, _, _, (artifact, *_) = read(only(tmp_path))
    assert (run.run_group, run.job_type) == ("trajectory", "table") and artifact.name == "trajectory"
    kept = {entry.path: entry.local_path for entry in artifact.manifest.contents}
    assert sorted(kept) == ["a3.csv", "a3.md", "a3.png", "a3.tex"]
    # copies lie beside the run, where a later `wandb sync` finds them
    for name, path in kept.items():
        assert str(tmp_path) in path and Path(path).read_text() == f"content of {name}"
    # the same table is not logged again, a changed one is
    track_table("trajectory", files, tmp_path, "offline")
    only(tmp_path)
    files[0].write_text("something else")
    track_table("trajectory", files, tmp_path, "offline")
    assert len(list((tmp_path / "wandb").glob("offline-run-*"))) == 2


def test_tracker_none_writes_nothing_and_unknown_tracker_is_refused(tmp_path):
    track_job(record(), "trajectory", CURVES, tmp_path, "none")
    track_table("trajectory", [], tmp_path, "none")
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match=r"'wandb'.*allowed: none, offline, online"):
        track_job(record(), "trajectory", {}, tmp_path, "wandb")
