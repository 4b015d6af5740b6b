"""Table a8: run A resumed from a checkpoint moved by a gauge, with its AdamW state moved in several ways.

One job holds all conditions, because they share one reference run; the job's gauge, matcher and route are not
read.
"""

from __future__ import annotations

import shutil
from typing import Any

from gaugeport.pipeline.data import row_batches
from gaugeport.pipeline.job import Job, job_id
from gaugeport.pipeline.measures.adamw_resume import adamw_resume_rows
from gaugeport.pipeline.stages.rows import calibration_batches, heldout_rows, is_pretrained, loss_rows
from gaugeport.pipeline.stages.runs import run_rows
from gaugeport.pipeline.stages.stage import Built
from gaugeport.pipeline.tasks.shared.checks import check_language_model
from gaugeport.pipeline.tasks.task import Row, Task
from gaugeport.pipeline.training.trainer import checkpoints
from gaugeport.transport.optimizer_checkpoint import OPTIMIZER_FILE
from gaugeport.utils.seeds import derive

RUN = "A"
"""The fine-tuning run that is resumed."""


def check(job: Job) -> None:
    """Check the step to resume from, before anything is trained.

    Raises:
        ValueError: As :func:`resume_step`.
    """
    check_language_model(job)
    resume_step(job)


def measure(job: Job, built: Built) -> list[Row]:
    """Return the rows of every condition.

    Raises:
        ValueError: The run was stored without the AdamW moments of the step to resume from.
    """
    step = resume_step(job)
    checkpoint = checkpoints(built[RUN])[step]
    if not (checkpoint / OPTIMIZER_FILE).exists():
        raise ValueError(
            f"{checkpoint} has no AdamW moments to resume from: its run was trained with another "
            f"training.run.moments; delete {built[RUN]} to train it again"
        )
    schedule = job.training.run
    rows_fit, rows_test = heldout_rows(built["data"])
    # beside the store, not in /tmp: a moved checkpoint is three times the size of its model
    scratch = built.cache.root / f".resume-{job_id(job)}"
    shutil.rmtree(scratch, ignore_errors=True)  # a killed run left it
    scratch.mkdir()
    try:
        rows = adamw_resume_rows(
            checkpoint,
            run_rows(job, built["data"], RUN),
            schedule,
            seed=derive(job.seed, "run", RUN),
            steps=min(job.task["steps"], schedule.steps - step),
            at=job.task["at"],
            calibration=list(calibration_batches(job, rows_fit)),
            evaluation=list(row_batches(loss_rows(rows_test), job.measurement.batch_size)),
            scratch=scratch,
        )
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return [{"resume_step": step, **row} for row in rows]


def resume_step(job: Job) -> int:
    """Return the step a job resumes from, given its config alone.

    By default it is the last checkpoint within the first two thirds of the run, or else the first one.

    Raises:
        ValueError: The run saves no checkpoint at that step, or one without moments, or ends there; a count
            is not a positive integer; or the model would be trained from scratch with dropout.
    """
    schedule, task = job.training.run, job.task
    # 1) the numbers of steps
    _check_counts("steps", task["steps"], [task["steps"]], "a positive number")
    _check_counts("at", task["at"], task["at"], "positive numbers of steps")
    # 2) dropout
    rates = {k: v for k, v in job.model.architecture.items() if "drop" in k and isinstance(v, int | float)}
    dropout = [f"model.architecture.{k}={v}" for k, v in rates.items() if v > 0]
    if dropout and not is_pretrained(job):
        raise ValueError(
            f"{', '.join(dropout)}: the masks of dropout do not move with the coordinates, so no resumed run "
            "could stay on its trajectory; allowed: 0"
        )
    # 3) the step
    saved = list(range(schedule.save_every, schedule.steps, schedule.save_every))
    early = [step for step in saved if 3 * step <= 2 * schedule.steps]
    default = max(early, default=min(saved, default=None))
    step = default if task["resume_step"] is None else task["resume_step"]
    if step not in saved:
        raise ValueError(
            f"task.resume_step={step}: run {RUN} of {schedule.steps} steps saves no checkpoint there, or has "
            f"no step left; allowed: {', '.join(map(str, saved)) or 'none (lower training.run.save_every)'}"
        )
    if schedule.moments is not None and step not in schedule.moments:
        raise ValueError(
            f"training.run.moments={schedule.moments}: run {RUN} is resumed from step {step}, whose AdamW "
            f"moments would not be kept; allowed: null, or a list with {step}"
        )
    return int(step)


def _check_counts(key: str, given: Any, counts: Any, allowed: str) -> None:
    """Refuse anything but a list of whole numbers from 1."""
    if not isinstance(counts, list) or any(type(n) is not int or n < 1 for n in counts):
        raise ValueError(f"task.{key}={given}; allowed: {allowed}")


TASK = Task(measure, lambda job: ("data", "base", RUN), check)
