"""Tables a3 and c2: gauges recovered between planted checkpoints, scored at every step."""

from __future__ import annotations

from gaugeport.pipeline.job import Job
from gaugeport.pipeline.measures.planted_evidence import PlantedEvidence
from gaugeport.pipeline.measures.recovery import recovery_rows
from gaugeport.pipeline.stages.evidence import spaced_steps
from gaugeport.pipeline.stages.stage import Built
from gaugeport.pipeline.tasks.shared.checks import check_gauge, check_language_model
from gaugeport.pipeline.tasks.task import Row, Task
from gaugeport.pipeline.training.trainer import checkpoints

STAGES = ("data", "base", "A", "B", "evidence")


def measure(job: Job, built: Built) -> list[Row]:
    """Return the rows of one (group, matcher, route), and the models' losses."""
    evidence = PlantedEvidence(built["evidence"], job.measurement.positive_share)
    saved, spacing = sorted(checkpoints(built["A"])), job.measurement.spacing
    rows = recovery_rows(
        evidence,
        group=job.gauge,
        matcher=job.matcher,
        route=job.route,
        steps=spaced_steps(saved, spacing),
        spacing=spacing,
        plants=job.task["plants"],
        seed=job.seed,
    )
    return [*rows, *evidence.loss_rows(saved[-1]), *evidence.massive_rows()]


def check(job: Job) -> None:
    """Check that the job's model has gauges of its group."""
    check_language_model(job)
    check_gauge(job)


TASK = Task(measure, lambda job: STAGES, check)
