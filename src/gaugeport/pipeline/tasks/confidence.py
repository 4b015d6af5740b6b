"""Table c3: whether margins are calibrated, between planted checkpoints at the last step."""

from __future__ import annotations

from gaugeport.pipeline.job import Job
from gaugeport.pipeline.measures.confidence import confidence_rows
from gaugeport.pipeline.measures.planted_evidence import PlantedEvidence
from gaugeport.pipeline.stages.stage import Built
from gaugeport.pipeline.tasks.recovery import STAGES
from gaugeport.pipeline.tasks.shared.checks import check_gauge, check_language_model
from gaugeport.pipeline.tasks.task import Row, Task
from gaugeport.pipeline.training.trainer import checkpoints


def measure(job: Job, built: Built) -> list[Row]:
    """Return the rows of one condition on each kind of evidence its matcher reads, and the losses."""
    evidence = PlantedEvidence(built["evidence"], job.measurement.positive_share)
    last = max(checkpoints(built["A"]))
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


def check(job: Job) -> None:
    """Check that the job's model has gauges of its group."""
    check_language_model(job)
    check_gauge(job)


TASK = Task(measure, lambda job: STAGES, check)
