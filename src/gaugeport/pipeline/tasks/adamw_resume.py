"""Table a8: a run resumed from a checkpoint moved by a gauge, with its AdamW state moved in several ways.

One job holds all conditions, because they share one reference run; the job's gauge, matcher and route are not
read.
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gaugeport.models.loading import load_model
from gaugeport.pipeline.job import Job, job_id
from gaugeport.pipeline.measures.adamw_resume import StepWatch, adamw_resume_rows
from gaugeport.pipeline.stages.models import COPIES, SELF, model_stage
from gaugeport.pipeline.stages.rows import calibration_batches, heldout_rows, is_pretrained, loss_rows
from gaugeport.pipeline.stages.runs import run_rows
from gaugeport.pipeline.stages.stage import Built
from gaugeport.pipeline.tasks.shared.checks import check_choice, check_language_model
from gaugeport.pipeline.tasks.task import Row, Task
from gaugeport.pipeline.training.trainer import checkpoints, train
from gaugeport.texts import row_batches
from gaugeport.transport.optimizer_checkpoint import OPTIMIZER_FILE
from gaugeport.utils.seeds import derive

RUN = "A"
"""The fine-tuning run that is resumed, or whose first steps are taken."""

FIRST_STEPS = 20
"""Steps of the run that ``task.target=self`` takes from the base by default.

AdamW has no state before them, and one of its own for every coordinate after them.
"""


def check(job: Job) -> None:
    """Check the target and the step to resume from, before anything is trained.

    Raises:
        ValueError: The target is not a copy, or as :func:`resume_step`.
    """
    check_language_model(job)
    check_choice(job, "target", COPIES)
    resume_step(job)


def measure(job: Job, built: Built) -> list[Row]:
    """Return the rows of every condition.

    Raises:
        ValueError: The run was stored without the AdamW moments of the step to resume from.
    """
    step, schedule, rows = resume_step(job), job.training.run, run_rows(job, built["data"], RUN)
    rows_fit, rows_test = heldout_rows(built["data"])
    # beside the store, not in /tmp: a moved checkpoint is three times the size of its model
    scratch = built.cache.root / f".resume-{job_id(job)}"
    shutil.rmtree(scratch, ignore_errors=True)  # a killed run left it
    scratch.mkdir()
    try:
        on_its_own = job.task["target"] == SELF
        measured = adamw_resume_rows(
            _first_steps(job, built["base"], rows, scratch) if on_its_own else _saved(built[RUN], step),
            rows,
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
    return [{"target": job.task["target"], "resume_step": step, **row} for row in measured]


def _saved(run: Path, step: int) -> Path:
    """Return a stored run's checkpoint, which must hold AdamW's moments."""
    checkpoint = checkpoints(run)[step]
    if not (checkpoint / OPTIMIZER_FILE).exists():
        raise ValueError(
            f"{checkpoint} has no AdamW moments to resume from: its run was trained with another "
            f"training.run.moments; delete {run} to train it again"
        )
    return checkpoint


def _first_steps(job: Job, base: Path, rows: Tensor, scratch: Path) -> Path:
    """Take the first steps of a run from its base, by the run's own schedule; return the checkpoint."""
    step, folder = resume_step(job), scratch / "first-steps"
    schedule = replace(job.training.run, save_every=step, moments=None)
    stop = StepWatch(step, [], lambda step, model: None)
    model = load_model(base, dtype=torch.float32)
    train(model, rows, folder, schedule, derive(job.seed, "run", RUN), keep=1, callbacks=[stop])
    return checkpoints(folder)[step]


def resume_step(job: Job) -> int:
    """Return the step a job resumes from, given its config alone.

    By default it is the last checkpoint within the first two thirds of the run, or else the first one. With
    ``task.target=self`` it may be any step, by default :data:`FIRST_STEPS` or as many as the run has.

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
    if task["target"] == SELF:
        step = min(FIRST_STEPS, schedule.steps - 1) if task["resume_step"] is None else task["resume_step"]
        if type(step) is not int or not 0 < step < schedule.steps:
            raise ValueError(
                f"task.resume_step={step} in a run of {schedule.steps} steps; allowed with task.target=self: "
                f"whole numbers from 1 to {schedule.steps - 1}"
            )
        return step
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


def stages(job: Job) -> tuple[str, ...]:
    """Return the base, and the run where one of its checkpoints is resumed."""
    return tuple(dict.fromkeys(("data", "base", model_stage(job, RUN))))


TASK = Task(measure, stages, check)
