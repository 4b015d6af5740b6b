"""Table c4: which optimizer states move exactly under which group, on small random models."""

from __future__ import annotations

from gaugeport.pipeline.job import Job
from gaugeport.pipeline.measures.optimizer_recipes import RECIPES
from gaugeport.pipeline.measures.optimizers import optimizer_rows
from gaugeport.pipeline.stages.stage import Built
from gaugeport.pipeline.tasks.shared.checks import check_language_model
from gaugeport.pipeline.tasks.task import Row, Task


def check(job: Job) -> None:
    """Check the names of the optimizers.

    Raises:
        ValueError: A name is unknown.
    """
    check_language_model(job)
    unknown = [name for name in job.task["optimizers"] if name not in RECIPES]
    if unknown:
        raise ValueError(
            f"task.optimizers: unknown {', '.join(unknown)}; allowed: {', '.join(sorted(RECIPES))}"
        )


def measure(job: Job, built: Built) -> list[Row]:
    """Return every optimizer's rows, by family."""
    rows: list[Row] = []
    for family in job.task["families"]:
        for optimizer in job.task["optimizers"]:
            rows += [{"model": family, **row} for row in optimizer_rows(optimizer, family, job.seed)]
    return rows


TASK = Task(measure, check=check)
