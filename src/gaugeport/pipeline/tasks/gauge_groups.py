"""Table a1: which group leaves which architecture's function unchanged, on random models of every family."""

from __future__ import annotations

from gaugeport.pipeline.job import Job
from gaugeport.pipeline.measures.gauge_groups import gauge_group_rows
from gaugeport.pipeline.stages.stage import Built
from gaugeport.pipeline.tasks.shared.checks import check_language_model
from gaugeport.pipeline.tasks.task import Row, Task


def measure(job: Job, built: Built) -> list[Row]:
    """Return every family's rows."""
    return [{"model": f, **row} for f in job.task["families"] for row in gauge_group_rows(f, job.seed)]


TASK = Task(measure, check=check_language_model)
