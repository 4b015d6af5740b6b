"""Running one job: its stages from the store, its task's measurement, its record, its tracker."""

from __future__ import annotations

import time
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from safetensors.torch import load_file

from gaugeport import corpus
from gaugeport.activations import streams_at
from gaugeport.charts import chart_of
from gaugeport.job import Job
from gaugeport.loading import load_model
from gaugeport.records import Record, read_record, record_path, write_record
from gaugeport.routes import BASE, ROUTES, Node, links, walk
from gaugeport.seeds import generator
from gaugeport.store import Store, write_json
from gaugeport.tasks.gauge_groups import gauge_groups
from gaugeport.tasks.losses import heldout_loss
from gaugeport.tasks.planted import PlantedEvidence, write_evidence
from gaugeport.tasks.recovery import recovery
from gaugeport.tasks.sign_ceiling import sign_ceiling, synthetic_activations, whiten
from gaugeport.tracking import track
from gaugeport.training.stages import (
    base_key,
    base_stage,
    contents,
    data_key,
    data_stage,
    heldout_rows,
    run_checkpoints,
    run_key,
    run_stage,
)
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
        {"step": saved[-1] if node[0] != "b" else 0, "metric": f"loss_{node.rstrip('0123456789')}", "value": value}
        for node, value in evidence.losses().items()
    ]
    return [*rows, *losses]


def evidence_stage(job: Job, store: Store) -> Path:
    """Evidence of every link that the routes cross at this job's checkpoint spacing, gauges planted; and losses."""

    def build(folder: Path) -> None:
        runs = {run: run_checkpoints(job, store, run) for run in ("A", "B")}
        saved = sorted(runs["A"])
        spacing = job.measurement.spacing
        _check_spacing(spacing, saved)
        steps = [s for s in saved if s % spacing == 0 or s == saved[-1]]

        def checkpoint(node: Node) -> Any:
            path = base_stage(job, store) if node == BASE else runs[node[0]][node[1]]
            return load_model(path, dtype=torch.float32, device=_device())

        calibration, evaluation = heldout_rows(job, store)
        wanted = -(-job.measurement.tokens // (calibration.shape[1] - job.measurement.skip_first))
        if wanted > len(calibration):
            raise ValueError(
                f"measurement.tokens={job.measurement.tokens} wants {wanted} held-out rows, there are {len(calibration)}: "
                "allowed: fewer tokens, or more data.documents"
            )
        seen = [load_file(run_stage(job, store, run) / "seen.safetensors")["seen"] for run in ("A", "B")]
        write_evidence(
            folder,
            links([walk(r, s, spacing) for r in ROUTES for s in steps]),
            checkpoint,
            list(corpus.batches(calibration[:wanted], job.measurement.batch_size)),
            sites=job.measurement.sites,
            skip_first=job.measurement.skip_first,
            seen=seen[0][torch.isin(seen[0], seen[1])],
            seed=job.seed,
            models_in_memory=job.measurement.models_in_memory,
        )
        batches = list(corpus.batches(evaluation[:wanted], job.measurement.batch_size))
        ends: dict[str, Node] = {"base": BASE, **{run: (run, saved[-1]) for run in runs}}
        write_json(folder / "losses.json", {n: heldout_loss(checkpoint(node), batches) for n, node in ends.items()})

    return store.ensure("evidence", _evidence_key(job), build)


def _evidence_key(job: Job) -> dict[str, Any]:
    measurement = {k: v for k, v in asdict(job.measurement).items() if k != "models_in_memory"}
    return {"A": run_key(job, "A"), "B": run_key(job, "B"), "measurement": measurement, "plant_seed": job.seed}


def stage_keys(job: Job) -> dict[str, dict[str, Any]]:
    """The stages a job stands on, in order, by what builds them: ``data``, ``base``, ``A``, ``B``, ``evidence``."""
    task = job.task["name"]
    trained = task == "recovery" or str(job.task.get("activations", "")).startswith("real")
    keys = {"data": data_key(job), "base": base_key(job), "A": run_key(job, "A"), "B": run_key(job, "B")}
    return {**(keys if trained else {}), **({"evidence": _evidence_key(job)} if task == "recovery" else {})}


def build_stage(job: Job, store: Store, stage: str) -> Path:
    """Build one of the stages of :func:`stage_keys`, or find it built."""
    if stage in ("A", "B"):
        return run_stage(job, store, stage)
    return {"data": data_stage, "base": base_stage, "evidence": evidence_stage}[stage](job, store)


def _ceiling_activations(job: Job, store: Store, task: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    source = task["activations"]
    if source in ("decorrelated", "correlated"):
        gen = generator(job.seed, "ceiling", source)
        return synthetic_activations(task["width"], task["tokens"], source == "correlated", task["noise"], gen)
    first = min(run_checkpoints(job, store, "A"))
    rows = heldout_rows(job, store)[0][: task["tokens"] // job.data.length]
    found = []
    for path in (base_stage(job, store), run_checkpoints(job, store, "A")[first]):
        model = load_model(path, dtype=torch.float32, device=_device())
        chart = chart_of(model)
        site = f"block{len(chart.blocks(model)) // 2}"
        batches = corpus.batches(rows, job.measurement.batch_size)
        parts = [streams_at(model, chart, b, [site], job.measurement.skip_first)[site] for b in batches]
        found.append(torch.cat(parts))
    a, b = (whiten(x) if source == "real_whitened" else x for x in found)
    return a, b


def _check_spacing(spacing: int, saved: list[int]) -> None:
    missing = [s for s in range(spacing, saved[-1], spacing) if s not in saved]
    if missing:
        raise ValueError(
            f"measurement.spacing={spacing} wants checkpoints at steps {missing[:4]}, which the runs did not save; "
            f"allowed: multiples of training.run.save_every that were saved ({saved[:4]} …)"
        )


def _device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"
