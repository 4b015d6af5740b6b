"""Table a1: which group leaves which architecture's function unchanged, on random models or the job's own."""

from __future__ import annotations

import torch

from gaugeport.models.loading import load_model
from gaugeport.pipeline.job import Job
from gaugeport.pipeline.measures.gauge_groups import CHARTS, MODEL_TYPES, gauge_group_rows
from gaugeport.pipeline.stages.rows import is_pretrained
from gaugeport.pipeline.stages.stage import Built
from gaugeport.pipeline.tasks.shared.checks import check_language_model
from gaugeport.pipeline.tasks.task import Row, Task

OWN = "model"
"""The family that stands for the job's pretrained model."""


def check(job: Job) -> None:
    """Check the families and charts.

    Raises:
        ValueError: One is unknown, or the job's own model is asked for and is not pretrained.
    """
    check_language_model(job)
    families = job.task["families"]
    unknown = [f for f in families if f not in (*MODEL_TYPES, OWN)]
    if unknown:
        raise ValueError(
            f"task.families: unknown {', '.join(unknown)}; allowed: {', '.join((*MODEL_TYPES, OWN))}"
        )
    unknown = [c for c in job.task["charts"] or CHARTS if c not in CHARTS]
    if unknown:
        raise ValueError(f"task.charts: unknown {', '.join(unknown)}; allowed: {', '.join(CHARTS)}")
    if OWN in families and not is_pretrained(job):
        raise ValueError(f"task.families={OWN} requires a pretrained model: model=smollm2 or model.path=DIR")


def stages(job: Job) -> tuple[str, ...]:
    """Return the base model where it is measured."""
    return ("base",) if OWN in job.task["families"] else ()


def measure(job: Job, built: Built) -> list[Row]:
    """Return every family's rows."""
    rows, charts = [], job.task["charts"] or CHARTS
    for family in job.task["families"]:
        own = load_model(built["base"], dtype=torch.float32) if family == OWN else None
        name = job.model.name if family == OWN else family
        measured = gauge_group_rows(family, job.seed, trained=own, measured=charts)
        rows += [{"model": name, **row} for row in measured]
    return rows


TASK = Task(measure, stages, check)
