"""Test that a job is measured once, tracked, and then written, whatever fails on the way."""

import multiprocessing
import time

import pytest

from gaugeport.pipeline.config.compose import compose_config, from_config
from gaugeport.pipeline.data import Corpus, docs_digest
from gaugeport.pipeline.execution import jobs
from gaugeport.pipeline.execution.failures import note_path
from gaugeport.pipeline.stages import rows
from gaugeport.pipeline.store.records import read_record, record_path
from gaugeport.pipeline.tasks.task import Task


@pytest.fixture
def composed(tmp_path, monkeypatch):
    """A job that leaves a mark in a file each time it is measured."""

    def measure(job, built):
        with (tmp_path / "measured").open("a") as marks:
            marks.write("x")
        time.sleep(0.3)
        return [{"metric": "loss", "value": 1.0}]

    monkeypatch.setattr(jobs, "task_of", lambda job: Task(measure))
    overrides = [
        "experiment=gauge_groups",
        "profile=smoke",
        "tracker=wandb_offline",
        f"paths.outputs={tmp_path}",
    ]
    return from_config(compose_config(overrides), overrides)


@pytest.fixture
def tracked(composed, monkeypatch):
    """The ids of the records that were tracked, and whether each had been written before."""
    calls = []
    path = record_path(composed.outputs / "records", jobs.job_id(composed.job))
    monkeypatch.setattr(jobs, "track_job", lambda record, *a: calls.append((record.id, path.exists())))
    return calls


def measured(composed):
    return (composed.outputs / "measured").read_text()


def written(composed):
    path = record_path(composed.outputs / "records", jobs.job_id(composed.job))
    return read_record(path) if path.exists() else None


def test_job_is_measured_tracked_and_then_written_once(composed, tracked):
    first = jobs.run_job(composed)
    assert jobs.run_job(composed) == first == written(composed)
    assert measured(composed) == "x" and tracked == [(first.id, False)]


def test_two_processes_measure_one_job_once(composed, tracked):
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=jobs.run_job, args=(composed,)) for _ in range(2)]
    for w in workers:
        w.start()
    for w in workers:
        w.join(60)
    assert [w.exitcode for w in workers] == [0, 0]
    assert measured(composed) == "x" and written(composed).rows == [{"metric": "loss", "value": 1.0}]


def test_tracking_failure_keeps_record(composed, monkeypatch):
    def fail(*a):
        raise RuntimeError("no service")

    monkeypatch.setattr(jobs, "track_job", fail)
    with pytest.warns(UserWarning, match="tracking it failed: no service"):
        record = jobs.run_job(composed)
    assert written(composed) == record


def test_job_killed_during_tracking_is_tracked_again_before_it_is_written(composed, monkeypatch, tracked):
    def kill(*a):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(jobs, "track_job", kill)
        jobs.run_job(composed)
    assert written(composed) is None
    jobs.run_job(composed)
    assert written(composed) is not None and len(tracked) == 1


def test_failure_note_is_deleted_when_job_succeeds(composed, tracked):
    note = note_path(composed.outputs, jobs.job_id(composed.job))
    note.parent.mkdir(parents=True)
    note.write_text("{}")
    jobs.run_job(composed)
    assert not note.exists()


@pytest.mark.parametrize("read", [True, False])
def test_record_names_the_installed_texts_that_a_stage_read(tmp_path, monkeypatch, read):
    installed = Corpus((), ())
    monkeypatch.setattr(rows, "docs_corpus", lambda documents, heldout: installed)
    monkeypatch.setattr(jobs, "build_stages", lambda *a: {"data": tmp_path} if read else {})
    monkeypatch.setattr(jobs, "task_of", lambda job: Task(lambda job, built: []))
    overrides = ["profile=smoke", "data=docs", "tracker=none", f"paths.outputs={tmp_path}"]
    record = jobs.run_job(from_config(compose_config(overrides), overrides))
    assert record.files == ({"data.docs": docs_digest(installed)} if read else {})
