"""Running one job: its stages from the store, its task's measurement, its record, its tracker."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
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
from gaugeport.training.stages import base_stage, contents, heldout_rows, run_checkpoints, run_key, run_stage
from gaugeport.versions import versions

Row = dict[str, Any]


def run_job(job: Job, outputs: Path, tracker: str) -> Record:
    """The record of a job: read if it exists, else measured, written and tracked."""
    job_id = job.hash(contents(job))
    folder = outputs / "records"
    if is_done(job, outputs) and (record := read_record(record_path(folder, job_id))) is not None:
        return record
    began = time.monotonic()
    rows = measure(job, Store(outputs / "store"))
    seconds = round(time.monotonic() - began, 2)
    record = Record(job_id, job.task["name"], job.key(), rows, seconds, versions())
    track(record, outputs, tracker)
    write_record(folder, record)
    return record


def is_done(job: Job, outputs: Path) -> bool:
    """Whether the job's record exists and can be read."""
    path = record_path(outputs / "records", job.hash(contents(job)))
    return path.exists() and read_record(path) is not None


def needs(job: Job) -> set[str]:
    """Which trained stages a job stands on: ``run`` (base and both runs), ``evidence``."""
    if job.task["name"] == "recovery":
        return {"run", "evidence"}
    return {"run"} if str(job.task.get("activations", "")).startswith("real") else set()


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


def _ceiling_activations(job: Job, store: Store, task: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    source = task["activations"]
    if source in ("decorrelated", "correlated"):
        gen = generator(job.seed, "ceiling", source)
        return synthetic_activations(task["width"], task["tokens"], source == "correlated", task["noise"], gen)
    if source not in ("real", "real_whitened"):
        raise ValueError(f"task.activations={source!r}; allowed: decorrelated, correlated, real, real_whitened")
    first = min(run_checkpoints(job, store, "A"))
    rows = heldout_rows(job, store)[0][: task["tokens"] // job.data.length]
    found = []
    for path in (base_stage(job, store), run_checkpoints(job, store, "A")[first]):
        model = load_model(path, dtype=torch.float32, device=_device())
        chart = chart_of(model)
        site = f"block{len(chart.blocks(model)) // 2}"
        parts = [streams_at(model, chart, b, [site])[site] for b in corpus.batches(rows, job.measurement.batch_size)]
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
