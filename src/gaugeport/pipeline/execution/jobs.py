"""Running one job: its stages from the store, its task's measurement, its record, its tracker."""

from __future__ import annotations

import time
import warnings
from pathlib import Path

from filelock import FileLock

from gaugeport.pipeline.config.compose import JobSpec
from gaugeport.pipeline.execution.curves import training_curves
from gaugeport.pipeline.execution.failures import note_path
from gaugeport.pipeline.execution.tracking import track_job
from gaugeport.pipeline.job import Job
from gaugeport.pipeline.stages.training import contents
from gaugeport.pipeline.store.records import Record, read_record, record_path, schema_of, write_record
from gaugeport.pipeline.store.store import Store
from gaugeport.pipeline.store.versions import versions
from gaugeport.pipeline.tasks.registry import WORKFLOWS


def run_job(c: JobSpec) -> Record:
    """The record of a job: read if it exists, else measured, tracked, then written: a job killed in between is tracked anew.

    Two processes that run one job: one measures, the other waits and reads. Raises what the stages and the task raise.
    """
    job, folder, name = c.job, c.outputs / "records", job_id(c.job)
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / f".{name}.lock"):
        existing = read_record(record_path(folder, name)) if record_path(folder, name).exists() else None
        if existing is not None:
            return existing
        began = time.monotonic()
        store = Store(c.outputs / "store")
        rows = WORKFLOWS[job.task["name"]].measure(job, store)
        seconds = round(time.monotonic() - began, 2)
        task = job.task["name"]
        read = {key: f"{job.files()[key]} ({found})" for key, found in contents(job).items()}
        record = Record(name, task, job.key(), rows, seconds, versions(), schema_of(task), read)
        if c.tracker != "none":
            try:
                track_job(record, c.group, training_curves(job, store), c.outputs, c.tracker)
            except Exception as e:  # whatever a tracker does, the measurement is recorded
                warnings.warn(f"job {name} was measured, but tracking it failed: {e}", stacklevel=2)
        write_record(folder, record)
        note_path(c.outputs, name).unlink(missing_ok=True)
    return record


def job_id(job: Job) -> str:
    """The job's hash, with the contents of the local files it reads: its record's name and its wandb run's id."""
    return job.hash(contents(job))


def is_done(job: Job, outputs: Path) -> bool:
    """Whether the job's record exists and can be read."""
    path = record_path(outputs / "records", job_id(job))
    return path.exists() and read_record(path) is not None
