"""Jobs of the calibration of margins (table c3): the evidence between planted checkpoints, at the last step."""

from __future__ import annotations

from typing import Any

from gaugeport.pipeline.job import Job
from gaugeport.pipeline.measures.confidence import confidence_rows
from gaugeport.pipeline.measures.planted_evidence import PlantedEvidence
from gaugeport.pipeline.stages.evidence import evidence_stage
from gaugeport.pipeline.stages.training import run_checkpoints
from gaugeport.pipeline.store.store import Store


def measure(job: Job, store: Store) -> list[dict[str, Any]]:
    """The rows of one (group, matcher, route) on every kind of evidence its matcher reads, and the models' losses."""
    evidence = PlantedEvidence(evidence_stage(job, store))
    last = max(run_checkpoints(job, store, "A"))
    kinds = ["weights"] if job.matcher == "weights" else [*evidence.sites, "pooled", "both"]
    rows = confidence_rows(
        evidence,
        kinds,
        group=job.gauge,
        matcher=job.matcher,
        route=job.route,
        step=last,
        spacing=job.measurement.spacing,
        plants=job.task["plants"],
        seed=job.seed,
    )
    return [*rows, *evidence.loss_rows(last)]
