"""Jobs of gauge recovery (tables a3, c2): evidence between planted checkpoints, scored at every step."""

from __future__ import annotations

from typing import Any

from gaugeport.pipeline.job import Job
from gaugeport.pipeline.measures.planted_evidence import PlantedEvidence
from gaugeport.pipeline.measures.recovery import recovery_rows
from gaugeport.pipeline.stages.evidence import evidence_stage
from gaugeport.pipeline.stages.training import run_checkpoints
from gaugeport.pipeline.store.store import Store


def measure(job: Job, store: Store) -> list[dict[str, Any]]:
    """The rows of one (group, matcher, route), and the losses of the models beside them."""
    evidence = PlantedEvidence(evidence_stage(job, store))
    saved = sorted(run_checkpoints(job, store, "A"))
    spacing = job.measurement.spacing
    rows = recovery_rows(
        evidence,
        group=job.gauge,
        matcher=job.matcher,
        route=job.route,
        steps=[s for s in saved if s % spacing == 0 or s == saved[-1]],
        spacing=spacing,
        plants=job.task["plants"],
        seed=job.seed,
    )
    return [*rows, *evidence.loss_rows(saved[-1])]
