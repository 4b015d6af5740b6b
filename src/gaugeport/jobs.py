"""Running one job: its stages from the store, its task's measurement, its record, its tracker."""

from __future__ import annotations

import time
import warnings
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock

from gaugeport import corpus
from gaugeport.activations import streams_at
from gaugeport.charts import chart_of
from gaugeport.job import Job
from gaugeport.loading import load_model
from gaugeport.records import Record, read_record, record_path, write_record
from gaugeport.seeds import generator
from gaugeport.stages import device, evidence_stage
from gaugeport.store import Store
from gaugeport.tasks.gauge_groups import gauge_groups
from gaugeport.tasks.planted import PlantedEvidence
from gaugeport.tasks.recovery import recovery
from gaugeport.tasks.sign_ceiling import sign_ceiling, synthetic_activations, whiten
from gaugeport.tracking import track
from gaugeport.training.stages import base_stage, contents, heldout_rows, run_checkpoints
from gaugeport.versions import versions

Row = dict[str, Any]


def run_job(job: Job, outputs: Path, tracker: str) -> Record:
    """The record of a job: read if it exists, else measured, written, then tracked.

    Two processes that run one job: one measures, the other waits and reads. Raises what the stages and the task raise.
    """
    folder, name = outputs / "records", job_id(job)
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / f".{name}.lock"):
        existing = read_record(record_path(folder, name)) if record_path(folder, name).exists() else None
        if existing is not None:
            return existing
        began = time.monotonic()
        rows = measure(job, Store(outputs / "store"))
        seconds = round(time.monotonic() - began, 2)
        record = Record(name, job.task["name"], job.key(), rows, seconds, versions())
        write_record(folder, record)
    try:
        track(record, outputs, tracker)
    except Exception as e:  # whatever a tracker does, the measurement is safe in its record
        warnings.warn(f"job {name} was measured and recorded, but tracking it failed: {e}", stacklevel=2)
    return record


def job_id(job: Job) -> str:
    """The job's hash, with the contents of the local files it reads: its record's name and its wandb run's id."""
    return job.hash(contents(job))


def is_done(job: Job, outputs: Path) -> bool:
    """Whether the job's record exists and can be read."""
    path = record_path(outputs / "records", job_id(job))
    return path.exists() and read_record(path) is not None


def measure(job: Job, store: Store) -> list[Row]:
    """The rows of a job's task."""
    task = dict(job.task)
    name = task.pop("name")
    if name == "gauge_groups":
        return [{"model": f, **row} for f in task["families"] for row in gauge_groups(f, job.seed)]
    if name == "sign_ceiling":
        return sign_ceiling(*_ceiling_activations(job, store, task), task["shares"], job.seed)
    return _recovery(job, store, task)


def _recovery(job: Job, store: Store, task: dict[str, Any]) -> list[Row]:
    evidence = PlantedEvidence(evidence_stage(job, store))
    saved = sorted(run_checkpoints(job, store, "A"))
    spacing = job.measurement.spacing
    rows = recovery(
        evidence,
        group=job.gauge,
        matcher=job.matcher,
        route=job.route,
        steps=[s for s in saved if s % spacing == 0 or s == saved[-1]],
        spacing=spacing,
        plants=task["plants"],
        seed=job.seed,
    )
    losses = [
        {"step": 0 if model == "base" else saved[-1], "metric": f"loss_{model}", "value": value}
        for model, value in evidence.losses().items()
    ]
    return [*rows, *losses]


def _ceiling_activations(job: Job, store: Store, task: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    source = task["activations"]
    if source in ("decorrelated", "correlated"):
        gen = generator(job.seed, "ceiling", source)
        return synthetic_activations(task["width"], task["tokens"], source == "correlated", task["noise"], gen)
    first = min(run_checkpoints(job, store, "A"))
    rows = heldout_rows(job, store)[0][: task["tokens"] // job.data.length]
    found = []
    for path in (base_stage(job, store), run_checkpoints(job, store, "A")[first]):
        model = load_model(path, dtype=torch.float32, device=device())
        chart = chart_of(model)
        site = f"block{len(chart.blocks(model)) // 2}"
        batches = corpus.batches(rows, job.measurement.batch_size)
        parts = [streams_at(model, chart, b, [site], job.measurement.skip_first)[site] for b in batches]
        found.append(torch.cat(parts))
    a, b = (whiten(x) if source == "real_whitened" else x for x in found)
    return a, b
