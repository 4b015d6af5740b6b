"""Test how failed steps are reported: errors of workers, full disks, failing launchers and notes."""

import errno
import json
import pickle
from dataclasses import asdict

import pytest

from gaugeport.pipeline.config.compose import compose_config, from_config
from gaugeport.pipeline.execution.failures import Error, Failure, note, note_path
from gaugeport.pipeline.execution.plan import plan
from gaugeport.pipeline.execution.runner import run_all
from gaugeport.pipeline.store.records import Record

SYNTHETIC = "task=sign_ceiling task.activations=decorrelated seed="
"""Overrides of a job that requires no stage, but for its seed."""


def raised(error, cause=None):
    """Return the error as a worker reports it."""
    try:
        raise error from cause
    except Exception as e:
        return Error.of(e)


def test_error_has_type_and_message_and_can_be_pickled():
    error = raised(ValueError("lr=-1 must be positive"))
    assert error.message == "ValueError: lr=-1 must be positive" and not error.full_disk
    assert "test_failures.py" in error.traceback
    assert pickle.loads(pickle.dumps(error)) == error


@pytest.mark.parametrize(
    "error, cause",
    [
        (OSError(errno.ENOSPC, "No space left on device", "/store/x"), None),
        (RuntimeError("could not save"), OSError(errno.ENOSPC, "No space left on device")),
    ],
)
def test_full_disk_is_recognised(error, cause):
    reported = raised(error, cause)
    assert reported.full_disk and "free some space" in reported.message
    assert not raised(OSError(errno.EACCES, "Permission denied")).full_disk


def test_unspecific_write_error_counts_as_full_disk_if_no_space_is_left(tmp_path, monkeypatch):
    error = RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed")
    assert not Error.of(error, tmp_path).full_disk
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 100}))
    assert Error.of(error, tmp_path).full_disk


def jobs(tmp_path, *sweeps):
    """Compose one job for every string of overrides."""
    fixed = ["profile=smoke", "tracker=none", "route=endpoint", f"paths.outputs={tmp_path}"]
    composed = []
    for sweep in sweeps:
        overrides = [*fixed, *sweep.split()]
        composed.append(from_config(compose_config(overrides), tuple(overrides)))
    return composed


def test_failed_stage_is_reported_once_and_noted_for_every_job_that_requires_it(tmp_path):
    chosen = jobs(tmp_path, "route=endpoint", "route=via_base", SYNTHETIC + "0")
    tried = []

    def launch(steps):
        tried.extend(steps)
        return [raised(ValueError("no base today")) if s.stage == "base" else None for s in steps]

    # 1) the failure is reported once, and the job that does not require the stage runs
    (failure,) = run_all(chosen, launch)
    assert failure.step.stage == "base" and failure.step.command.endswith("stage=base")
    assert [s.stage for s in tried] == ["data", "base", None]
    # 2) both jobs that require it have a note
    todo = plan(chosen)
    notes = [note_path(tmp_path, job) for job, stages in todo.needs.items() if stages]
    assert len(notes) == 2
    for path in notes:
        note = json.loads(path.read_text())
        assert note["failed"] == "base of tinyllama, seed 0"
        assert note["error"] == "ValueError: no base today"
        assert note["command"].startswith("gaugeport run profile=smoke") and "stage=" not in note["command"]


def test_failing_launcher_is_reported(tmp_path):
    def launch(steps):
        raise ConnectionError("the queue is gone")

    (failure,) = run_all(jobs(tmp_path, "route=endpoint"), launch)
    assert failure.step.stage == "data" and failure.error.message == "ConnectionError: the queue is gone"


def test_dying_worker_fails_only_its_own_step(tmp_path):
    """The first launch dies at seed 2, after seed 1's own error; alone, seed 2 kills its worker again."""
    calls = []

    def launch(steps):
        seeds = [s.composed.job.seed for s in steps]
        calls.append(seeds)
        for s in steps:
            if s.composed.job.seed == 2:
                raise RuntimeError("worker killed")
            yield raised(ValueError("the real reason")) if s.composed.job.seed == 1 else None

    failures = run_all(jobs(tmp_path, *(SYNTHETIC + str(i) for i in range(5))), launch)
    assert calls == [[0, 1, 2, 3, 4], [2], [3], [4]]
    messages = {f.step.composed.job.seed: f.error.message for f in failures}
    assert messages == {1: "ValueError: the real reason", 2: "RuntimeError: worker killed"}


def test_launcher_is_abandoned_after_two_failures_in_a_row(tmp_path):
    calls = []

    def launch(steps):
        calls.append(len(steps))
        raise RuntimeError("no such cluster")

    assert len(run_all(jobs(tmp_path, *(SYNTHETIC + str(i) for i in range(5))), launch)) == 5
    assert calls == [5, 1, 1]


OUTDATED = Record("0", "sign_ceiling", {}, [], 1.0, {}, schema=0)


@pytest.mark.filterwarnings("ignore:record .*left out")
@pytest.mark.parametrize("content", [{"schema": 0}, asdict(OUTDATED)], ids=["damaged", "outdated"])
def test_job_with_unusable_record_runs_again(tmp_path, content):
    def launch(steps):
        raise RuntimeError("worker killed")

    chosen = jobs(tmp_path, SYNTHETIC + "0")
    (step,) = plan(chosen).steps.values()
    step.result.parent.mkdir(parents=True)
    step.result.write_text(json.dumps(content))
    (step,) = plan(chosen).steps.values()
    assert not step.done
    assert len(run_all(chosen, launch)) == 1
    assert run_all(chosen, processes=1) == [] and step.done


def test_full_disk_stops_all_steps(tmp_path):
    tried = []

    def launch(steps):
        tried.extend(steps)
        return [raised(OSError(errno.ENOSPC, "No space left on device"))] * len(steps)

    chosen = jobs(tmp_path, "route=endpoint", SYNTHETIC + "0")
    assert len(run_all(chosen, launch)) == 1 and [s.stage for s in tried] == ["data"]


def test_unwritable_note_raises_nothing(tmp_path):
    (step,) = plan(jobs(tmp_path, SYNTHETIC + "0")).steps.values()
    (tmp_path / "failures").write_text("a file where the folder should be")
    note(step, Failure(step, raised(ValueError("no"))))
