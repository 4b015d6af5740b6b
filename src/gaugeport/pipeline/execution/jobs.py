"""Run one job: build its required stages, measure, track, write its record."""

from __future__ import annotations

import time
import warnings

from filelock import FileLock

from gaugeport.pipeline.execution.curves import training_curves
from gaugeport.pipeline.execution.failures import note_path
from gaugeport.pipeline.execution.tracking import track_job
from gaugeport.pipeline.job import JobSpec, contents, job_id
from gaugeport.pipeline.stages.catalogue import build_stages
from gaugeport.pipeline.stages.fetched import source_of
from gaugeport.pipeline.stages.rows import installed_texts
from gaugeport.pipeline.stages.stage import Built
from gaugeport.pipeline.store.records import Record, read_record, record_path, schema_of, write_record
from gaugeport.pipeline.store.store import Store
from gaugeport.pipeline.store.versions import versions
from gaugeport.pipeline.tasks.registry import task_of


def run_job(c: JobSpec) -> Record:
    """Return the record of a job: read it if it exists, else measure, track, then write it.

    A job that is killed before its record is written is measured and tracked again. When two processes run
    one job, one measures while the other waits and reads.

    Raises:
        Exception: Whatever its stages and its task raise.
    """
    job, folder, name = c.job, c.outputs / "records", job_id(c.job)
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / f".{name}.lock"):
        path = record_path(folder, name)
        existing = read_record(path) if path.exists() else None
        if existing is not None:
            return existing
        record = _measure(c, name)
        if c.tracker != "none":
            try:
                track_job(
                    record, c.group, training_curves(job, Store(c.outputs / "store")), c.outputs, c.tracker
                )
            except Exception as e:  # whatever a tracker does, the measurement is recorded
                warnings.warn(f"job {name} was measured, but tracking it failed: {e}", stacklevel=2)
        write_record(folder, record)
        note_path(c.outputs, name).unlink(missing_ok=True)
    return record


def _measure(c: JobSpec, name: str) -> Record:
    job, began = c.job, time.monotonic()
    store, task = Store(c.outputs / "store"), task_of(c.job)
    # 1) stages first
    folders = build_stages(job, store, task.stages(job))
    # 2) then the measurement, which builds none
    rows = task.measure(job, Built(folders, store))
    seconds, kind = round(time.monotonic() - began, 2), job.task["name"]
    files = {key: f"{job.files()[key]} ({digest})" for key, digest in contents(job).items()}
    if "data" in folders:
        files |= installed_texts(job)
    if "base" in folders and source_of(folders["base"]):
        files["model.source"] = source_of(folders["base"])
    return Record(name, kind, job.key(), rows, seconds, versions(), schema_of(kind), files)
