"""Sweeps end at the same tables whatever launches them, and when they are killed and resumed."""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time

import pandas as pd
import pytest

from gaugeport.pipeline.commands.run import run_sweep
from gaugeport.pipeline.commands.status import status_text
from gaugeport.pipeline.config.experiments import experiment
from gaugeport.pipeline.config.sweeps import jobs_of, sweep_jobs
from processes import built, files, finish, gaugeport, kill_when, printed

MODELS, TASKS = "model=tinyllama,qwen,pythia", "task=recovery,merge,indices,sae"
FIXED = ["run", "-m", "profile=smoke", "tracker=none", "matcher=hungarian_raw", "route=endpoint"]
GAUGES = "gauge=permutation,global_sign_permutation"
SWEEP = [*FIXED, MODELS, GAUGES, TASKS]
SMALL = [*FIXED, "model=tinyllama,pythia", GAUGES]
TABLES = "tables/sweeps/*/*"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    outputs = tmp_path_factory.mktemp("whole")
    return outputs, finish([*SWEEP, "hydra/launcher=joblib"], outputs)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    outputs = tmp_path_factory.mktemp("small")
    return outputs, printed(SMALL, outputs, ci=False)


def assert_same_tables(outputs, reference):
    assert files(outputs, TABLES) == files(reference, TABLES) != {}
    assert len(built(outputs)) == len(set(built(outputs))), "no stage is built twice"
    assert sorted(built(outputs)) == sorted(built(reference))


@pytest.mark.long
@pytest.mark.timeout(900)
def test_sweep_has_all_its_jobs_and_one_table_per_task(whole):
    outputs, text = whole
    assert "24 of 24 jobs" in text and len(list((outputs / "records").glob("*.json"))) == 24
    for task in ("recovery", "merge", "indices", "sae"):
        (csv,) = outputs.glob(f"tables/sweeps/*/{task}.csv")
        frame = pd.read_csv(csv)
        combinations = frame.dropna(subset=["record"])[["model", "group"]].drop_duplicates()
        assert len(combinations) == 6
    # data 1, bases 3, runs 6, SAEs 3, evidence 3, lists of A 3
    assert len(built(outputs)) == len(set(built(outputs))) == 19


@pytest.mark.long
@pytest.mark.timeout(900)
def test_whole_sweep_killed_twice_and_resumed_ends_at_the_same_tables(whole, tmp_path):
    command = [*SWEEP, "hydra/launcher=joblib"]
    kill_when(command, tmp_path, lambda: len(built(tmp_path)) >= 4)
    kill_when(command, tmp_path, lambda: len(list((tmp_path / "records").glob("*.json"))) >= 5)
    finish(command, tmp_path)
    assert_same_tables(tmp_path, whole[0])


@pytest.fixture(scope="module")
def ray_address():
    """Start a cluster of one node, as ``ray start`` does on a head node, and return its address."""
    ray = [os.path.join(os.path.dirname(sys.executable), "ray")]
    with socket.socket() as free:  # another run's cluster may hold any fixed port
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = tempfile.mkdtemp(prefix="ray")  # pytest's folders are too long for its sockets
    head = ["--head", "--num-cpus=2", f"--port={port}", "--include-dashboard=false", f"--temp-dir={folder}"]
    # a niced worker would wait for the tests that run beside it
    os.environ |= {"RAY_AUTH_MODE": "disabled", "RAY_worker_niceness": "0"}
    subprocess.run([*ray, "start", *head], check=True, capture_output=True)
    yield f"127.0.0.1:{port}"
    subprocess.run([*ray, "stop", "--force"], capture_output=True)
    shutil.rmtree(folder, ignore_errors=True)
    del os.environ["RAY_AUTH_MODE"], os.environ["RAY_worker_niceness"]


def through(launcher, request):
    """Return the overrides that choose a launcher; a ray cluster is started first."""
    if launcher == "ray_cluster":
        return [
            f"hydra.launcher.ray.init.address='{request.getfixturevalue('ray_address')}'",
            "hydra/launcher=ray_cluster",
        ]
    return [f"hydra/launcher={launcher}", "hydra.sweeper.max_batch_size=2"]


@pytest.fixture(scope="module")
def smallest(tmp_path_factory):
    outputs = tmp_path_factory.mktemp("smallest")
    printed([*FIXED, "model=tinyllama", GAUGES], outputs)
    return outputs


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["ray_cluster", "submitit_local"])
def test_cluster_launchers_give_the_same_tables(launcher, request, smallest, tmp_path):
    """Two waves, evidence and jobs, on stages that are stored. The next test runs all waves: minutes."""
    shutil.copytree(smallest / "store", tmp_path / "store", ignore=shutil.ignore_patterns("evidence-*"))
    shared = [line for line in built(smallest) if not line.startswith("evidence ")]
    (tmp_path / "store" / "built.log").write_text("".join(f"{line}\n" for line in shared))
    sweep = [*FIXED, "model=tinyllama", GAUGES, *through(launcher, request)]
    # ray's client stays in the process that used it
    (finish if launcher == "ray_cluster" else printed)(sweep, tmp_path)
    assert_same_tables(tmp_path, smallest)


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("launcher", ["ray", "ray_cluster", "submitit_local"])
def test_cluster_launchers_give_the_same_tables_of_the_whole_sweep(whole, launcher, request, tmp_path):
    text = finish([*SWEEP, *through(launcher, request)], tmp_path, seconds=1700)
    assert "24 of 24 jobs" in text
    assert_same_tables(tmp_path, whole[0])


def test_two_sweeps_at_once_share_a_store(small, tmp_path):
    other = gaugeport(SMALL, tmp_path)
    while not built(tmp_path) and other.poll() is None:
        time.sleep(0.02)
    printed(SMALL, tmp_path)
    text, _ = other.communicate(timeout=280)
    assert other.returncode == 0, text
    assert_same_tables(tmp_path, small[0])


def test_progress_prints_a_line_per_step_and_an_estimate(small):
    lines = small[1].splitlines()
    assert any(line.startswith("to do: 4 jobs and 9 stages; ") and line.endswith(" left") for line in lines)
    assert any(line.startswith("base models 2/2 · base of ") for line in lines)
    assert any(line.startswith("jobs 4/4 · recovery of ") and line.endswith(" left") for line in lines)


def test_ci_prints_only_results(small):
    text = printed(SMALL, small[0])
    assert text.startswith("### recovery") and "to do" not in text


def test_dry_run_says_what_is_done_and_how_long_the_rest_takes(small, tmp_path):
    outputs, _ = small
    before = files(outputs, "**/*")
    text = printed([*SMALL, "seed=0,1", "--dry-run"], outputs)
    lines = text.splitlines()
    assert (
        sum(line.startswith("done ") for line in lines)
        == sum(line.startswith("to run, ") for line in lines)
        == 4
    )
    assert "fine-tuning runs: 4 to build, about" in text and lines[-1].startswith("8 jobs, 4 to run: about ")
    assert files(outputs, "**/*") == before, "nothing is run or written"


def test_overrides_replace_keys_of_an_experiment_s_lines():
    plus, without = (
        [c.overrides for c in sweep_jobs([named, "profile=smoke", "seed=3,4"])]
        for named in ("+experiment=sae_transfer", "experiment=a4")
    )
    assert plus == without != []
    assert all("experiment=sae_transfer" in o and ("seed=3" in o or "seed=4" in o) for o in plus)


def test_error_names_the_table_s_line_that_an_override_contradicts():
    with pytest.raises(ValueError, match=r"task.cohort=runs with model=dyck3 .*line `model=dyck3 "):
        sweep_jobs(["experiment=b5", "task.cohort=runs", "profile=smoke", "seed=1"])


@pytest.mark.parametrize(
    ("profile", "settings"), [("smoke", {"early", "checkpoints", "relu_l1"}), ("paper", {"checkpoints"})]
)
def test_line_with_no_values_at_a_profile_has_no_jobs(profile, settings):
    assert {c.job.setting for c in jobs_of(experiment("b9"), profile)} == settings


@pytest.mark.parametrize("extra", [["data=text", "data.path=FILE"], []])
def test_tables_compose_at_the_paper_profile_and_with_local_text(extra, tmp_path):
    (tmp_path / "text.jsonl").write_text('{"text": "a"}')
    given = [o.replace("FILE", str(tmp_path / "text.jsonl")) for o in extra]
    profile = "mini" if extra else "paper"
    for table in ("d9", "d10"):
        assert jobs_of(experiment(table), profile, extra=given)


@pytest.mark.parametrize(
    "sweep, message",
    [
        (
            ["profile=smoke", "seed=0,1", "stage=base"],
            "stage=.* without -m",
        ),
        (["profile=smoke,mini"], "profile=smoke,mini: .*one profile"),
        (
            ["measurement.whiten=false,true", "task=merge"],
            "measurement.whiten=True.*merge.*task.target=identical",
        ),
        (
            ["task=refusal", "task.target=finetuned_back", "matcher=oracle,hungarian_abs"],
            "task.target=finetuned_back .*matcher=hungarian_abs: .*allowed: matcher=oracle",
        ),
        (
            ["task=sae", "task.target=finetuned_back", "matcher=oracle"],
            "allowed: task=steering_sentiment or refusal",
        ),
        (
            ["data=text", "data.path=README.md", "data.richness=0.5,1"],
            "data.richness=0.5 with data=text; allowed: 1.0",
        ),
        (["profile=smoke", "seed=0,1", "+hydra.launcher.no_such_thing=1"], "no_such_thing"),
    ],
)
def test_invalid_sweep_is_refused_before_anything_runs(sweep, message, monkeypatch, tmp_path):
    monkeypatch.setenv("GAUGEPORT_OUTPUTS", str(tmp_path))
    with pytest.raises(ValueError, match=message):
        run_sweep([*sweep, "tracker=none"], False)
    assert not list(tmp_path.iterdir())


def test_status_reports_a_sweep_that_cannot_be_read(monkeypatch, tmp_path):
    monkeypatch.setenv("GAUGEPORT_OUTPUTS", str(tmp_path))
    (tmp_path / "sweeps").mkdir()
    (tmp_path / "sweeps" / "sweep-0.json").write_text('["model.path=/gone", "seed=0,1"]')
    text = status_text(["sweep-0"], "smoke", [])
    assert "sweep-0 cannot be read: model.path=/gone" in text and "store: 0 B: empty" in text
