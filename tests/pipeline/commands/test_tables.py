"""Run the pipeline end to end at smoke size: tables, resuming, failures, records."""

import json
import os
import subprocess

import pandas as pd
import pytest

from gaugeport.pipeline.commands.run import run_one, run_sweep
from gaugeport.pipeline.commands.status import status_text
from gaugeport.pipeline.commands.tables import choose
from gaugeport.pipeline.config.compose import compose_config, from_config
from gaugeport.pipeline.execution.curves import training_curves
from gaugeport.pipeline.report.tidy import COLUMNS
from gaugeport.pipeline.store.store import Store
from processes import built, files, finish, kill_when, printed

HEADLINE = ["tables", "a3", "c2", "--headline", "--profile", "smoke", "--set", "tracker=none"]
ALONE = [*HEADLINE, "--processes", "1"]  # without workers, which would import everything again


@pytest.fixture(scope="module")
def headline(tmp_path_factory):
    outputs = tmp_path_factory.mktemp("headline")
    text = finish(HEADLINE, outputs)
    return outputs, text


@pytest.fixture(scope="module", autouse=True)
def whole_tables(headline):
    """The tables as they first were: some tests overwrite them with tables of fewer records."""
    return files(headline[0], "tables/smoke/*")


def test_tables_have_the_declared_columns_and_controls(headline):
    outputs, text = headline
    frame = pd.read_csv(outputs / "tables" / "smoke" / "a3.csv")
    assert list(frame.columns[: len(COLUMNS)]) == list(COLUMNS)
    signed = frame[(frame["metric"] == "signed_accuracy") & frame["seed"].notna()]
    assert (signed[signed["matcher"] == "oracle"]["value"] == 1).all()
    assert (signed[signed["matcher"] == "none"]["value"] < 0.2).all()
    assert set(signed["route"]) == {"endpoint", "via_base", "trajectory"}
    judged = frame[frame["verdict"].notna()]
    assert set(judged["verdict"]) == {"void (learning rate chosen)"} and len(judged) == 2
    assert "### a3 " in text, "a table that was named is printed"
    claims = text.split("### Claims")[1]
    assert "91.1 % vs 60.3 %" in claims and "not run" not in claims, "the claims of the tables asked for"
    result = text[text.index("### ") :].splitlines()
    assert len(result) <= 60 and max(map(len, result[:-3])) <= 100, "one screen; its last lines are paths"
    assert "not run" in (outputs / "tables" / "smoke" / "claims.md").read_text(), "all claims"


def test_second_call_trains_nothing_and_changes_nothing(headline):
    outputs, _ = headline

    def everything():
        results = (files(outputs, pattern) for pattern in ("tables/smoke/*", "figures/smoke/*", "records/*"))
        return [built(outputs), *results]

    before = everything()
    printed(HEADLINE, outputs)
    assert before == everything()
    printed([*HEADLINE, "--no-run"], outputs)
    assert before == everything()


def test_run_killed_twice_gives_the_same_tables_and_trains_nothing_twice(headline, whole_tables, tmp_path):
    reference, _ = headline
    for stages in (2, 4):
        kill_when(HEADLINE, tmp_path, lambda enough=stages: len(built(tmp_path)) >= enough)
    printed(ALONE, tmp_path)
    assert files(tmp_path, "tables/smoke/*") == whole_tables
    stages_built = built(tmp_path)
    assert len(stages_built) == len(set(stages_built)), stages_built
    assert sorted(stages_built) == sorted(built(reference))


def test_damaged_record_is_named_left_out_and_counted(headline):
    outputs, _ = headline
    victim = next((outputs / "records").glob("*.json"))
    whole = victim.read_text()
    try:
        victim.write_text(whole[: len(whole) // 2])
        text = printed([*HEADLINE, "--no-run"], outputs)
        assert (
            victim.name in text
            and "damaged" in text
            and ": left out" in text
            and "declared jobs have a readable record (1 damaged" in " ".join(text.split())
        )
    finally:
        victim.write_text(whole)


def test_record_of_another_version_is_named_left_out_and_counted(headline):
    outputs, _ = headline
    victim = next((outputs / "records").glob("*.json"))
    whole = victim.read_text()
    try:
        victim.write_text(whole.replace('"schema": 2', '"schema": 1'))
        text = printed([*HEADLINE, "--no-run"], outputs)
        assert f"{victim.name} is outdated (schema 1, this version reads 2)" in text
        assert "(1 of another version" in " ".join(text.split())
        states = printed(["status", "a3", "c2", "--profile", "smoke"], outputs)
        assert "1 of another version" in states
    finally:
        victim.write_text(whole)


def test_table_made_by_a_hydra_launcher_is_the_same(headline, whole_tables):
    outputs, _ = headline
    wrong = [*HEADLINE, "--launcher", "slurmy"]
    assert "slurmy" in printed(wrong, outputs, code=2)
    lost = next((outputs / "records").glob("*.json"))
    lost.unlink()
    printed([*HEADLINE, "--launcher", "basic"], outputs)
    assert lost.exists() and files(outputs, "tables/smoke/*") == whole_tables


def test_every_measurement_names_its_record(headline):
    outputs, _ = headline
    frame = pd.read_csv(outputs / "tables" / "smoke" / "a3.csv")
    for row in frame[frame["seed"].notna()].drop_duplicates("record").itertuples():
        config = json.loads((outputs / "records" / f"{row.record}.json").read_text())["config"]
        assert (config["gauge"], config["matcher"], config["route"]) == (row.group, row.matcher, row.route)


def test_records_hold_versions_and_machine(headline):
    outputs, _ = headline
    for path in (outputs / "records").glob("*.json"):
        record = json.loads(path.read_text())
        assert record["id"] == path.stem and record["versions"]["torch"] and record["rows"]
        assert f"{os.cpu_count()} cores" in record["versions"]["machine"]
        assert "path" not in record["config"]["model"]


def test_failing_job_does_not_stop_the_others(tmp_path):
    text = printed([*ALONE, "--set", "measurement.tokens=1000000"], tmp_path, code=1)
    assert (
        text.count("FAILED") == 1
        and "measurement.tokens=1000000 requires" in text
        and "allowed: 1 to" in text
    )
    assert (
        "again: gaugeport run experiment=" in text and "the same command runs again what is not done" in text
    )
    assert len(built(tmp_path)) == 4, "data, base model and both runs do not require what failed"
    status = printed(["status", "a3", "--profile", "smoke", "--set", "measurement.tokens=1000000"], tmp_path)
    (line,) = [line for line in status.splitlines() if "a3 trajectory" in line]
    jobs, done, failed, missing = (int(cell) for cell in line.split("|")[2:6])
    assert (done, failed) == (0, 7) and missing == jobs - 7 > 0, "the headline's seven require one stage"
    assert "FAILED recovery of" in status and "store: " in status and "run-v1 2 (" in status


@pytest.fixture
def small_disk(tmp_path):
    """Return a folder on a file system of 3 MB, and a function that makes it larger."""

    def mount(options, megabytes):
        command = ["mount", "-t", "tmpfs", "-o", f"{options}size={megabytes}m", "tmpfs", str(tmp_path)]
        return subprocess.run(command, capture_output=True).returncode == 0

    if not mount("", 3):
        pytest.skip("this user may not mount a file system")
    yield tmp_path, lambda: mount("remount,", 500)
    subprocess.run(["umount", "-l", str(tmp_path)], capture_output=True)


def test_full_disk_is_reported_once_and_the_same_command_goes_on(small_disk, whole_tables):
    outputs, grow = small_disk
    text = printed(ALONE, outputs, code=1)
    assert text.count("the disk is full: free some space") == 1 and "Traceback" not in text
    assert grow()
    printed(ALONE, outputs)
    assert files(outputs, "tables/smoke/*") == whole_tables
    assert len(built(outputs)) == len(set(built(outputs)))


def test_training_curves_are_what_trainer_logged(headline):
    outputs, _ = headline
    c = from_config(
        compose_config(["experiment=trajectory", "profile=smoke", f"paths.outputs={outputs}"]), ()
    )
    curves = training_curves(c.job, Store(outputs / "store"))
    assert set(curves) == {"base", "A", "B"}
    for stage, schedule in (
        ("base", c.job.training.base),
        ("A", c.job.training.run),
        ("B", c.job.training.run),
    ):
        steps = [line["step"] for line in curves[stage]]
        assert steps == sorted(set(steps)) and steps[-1] == schedule.steps and len(steps) > 3
        assert all(0 < line["loss"] < 20 for line in curves[stage])
    logs = [
        json.loads(p.read_text())["log_history"]
        for p in (outputs / "store").glob("run-v*/*/*/trainer_state.json")
    ]
    for run in ("A", "B"):
        assert any(log[: len(curves[run])] == curves[run] for log in logs), "to the last checkpoint's log"
    assert curves["A"] != curves["B"]


def test_job_is_tracked_under_its_hash_once(headline):
    outputs, _ = headline
    text = printed(["run", "profile=smoke", "route=endpoint", "experiment=trajectory"], outputs)
    assert "signed_accuracy" in text
    assert not list(outputs.glob("wandb/*")), "the record existed: nothing ran, nothing was logged"
    printed(["run", "profile=smoke", "route=endpoint", "task.plants=4"], outputs)
    (run,) = outputs.glob("wandb/offline-run-*")
    assert list((outputs / "records").glob(f"{run.name.rsplit('-', 1)[1]}.json")), (
        "the run's id is the job's hash"
    )


def test_sweep_over_two_processes_reuses_stages(headline):
    outputs, _ = headline
    before = built(outputs)
    sweep = [
        "run",
        "-m",
        "profile=smoke",
        "tracker=none",
        "hydra/launcher=joblib",
        "route=endpoint,via_base",
        "task.plants=5",
    ]
    text = printed(sweep, outputs)
    assert "2 of 2 jobs" in text and text.count("| endpoint ") == 6 and built(outputs) == before


def test_bad_override_exits_with_one_line(tmp_path):
    text = printed(["run", "-m", "profile=smoke", "model.path=/nope", "seed=0,1"], tmp_path, code=2)
    assert "error: model.path=/nope" in text and "Traceback" not in text
    assert "a1 (gauge_groups)" in printed(["tables", "a99"], tmp_path, code=2)
    assert not list(tmp_path.rglob("*.json"))


def test_bad_input_is_refused_with_what_is_allowed(monkeypatch, tmp_path):
    monkeypatch.setenv("GAUGEPORT_OUTPUTS", str(tmp_path))
    for command, message in (
        (lambda: choose(["a3"], "smoke", False, ["modle=x"]), "allowed"),
        (lambda: choose(["a99"], "smoke", False, []), r"a1 \(gauge_groups\)"),
        (lambda: choose(["b5"], "real", False, []), "profile real has no jobs of b5; allowed: a1, a2"),
        (lambda: choose(["c5"], "mini", False, [], keep=False), "profile mini has no jobs of c5"),
        (lambda: status_text(["a99"], "smoke", []), r"a1 \(gauge_groups\)"),
        (lambda: run_sweep(["modle=qwen,pythia"], False), "allowed"),
        (lambda: run_sweep(["profile=smoke", "seed=0,1", "hydra/launcher=slurmy"], False), "slurmy.*joblib"),
        (
            lambda: run_one(["profile=smoke", "stage=bass"], False),
            "stage=bass: .* allowed: data, base, A, B, evidence",
        ),
    ):
        with pytest.raises(ValueError, match=f"(?s){message}"):
            command()
    assert not list(tmp_path.rglob("*.json"))


def test_signed_permutations_are_refused_on_layernorm(headline):
    outputs, _ = headline
    pythia = ["run", "profile=smoke", "tracker=none", "model=pythia", "route=endpoint"]
    text = printed([*pythia, "gauge=signed_permutation", "matcher=hungarian_abs"], outputs, code=2)
    assert "signed_permutation is larger than this model's exact gauge group global_sign_permutation" in text
    assert "signed_accuracy" in printed(
        [*pythia, "gauge=global_sign_permutation", "matcher=hungarian_raw"], outputs
    )


def test_table_without_headline_jobs_warns():
    with pytest.warns(UserWarning, match="no headline jobs in d1"):
        assert choose(["d1"], "smoke", True, []).asked == []
