"""Table a8: run A resumed from a checkpoint moved by a gauge, with its AdamW state moved in several ways.

The job's gauge, matcher and route are not read: every condition needs the same reference run, so one job
holds all.
"""

from __future__ import annotations

import shutil

from gaugeport.pipeline.data import row_batches
from gaugeport.pipeline.job import Job, job_id
from gaugeport.pipeline.measures.adamw_resume import adamw_resume_rows
from gaugeport.pipeline.stages.rows import calibration_batches, heldout_rows, is_pretrained, loss_rows
from gaugeport.pipeline.stages.runs import run_rows
from gaugeport.pipeline.stages.stage import Built
from gaugeport.pipeline.tasks.shared.checks import check_language_model
from gaugeport.pipeline.tasks.task import Row, Task
from gaugeport.pipeline.training.trainer import checkpoints
from gaugeport.utils.seeds import derive

RUN = "A"


def check(job: Job) -> None:
    """Check the step to resume from, before anything is trained.

    Raises:
        ValueError: As :func:`resume_step`.
    """
    check_language_model(job)
    resume_step(job)


def measure(job: Job, built: Built) -> list[Row]:
    """Return the rows of every condition."""
    step = resume_step(job)
    checkpoint = checkpoints(built[RUN])[step]
    schedule = job.training.run
    fit, test = heldout_rows(built["data"])
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
            calibration=list(calibration_batches(job, fit)),
            evaluation=list(row_batches(loss_rows(test), job.measurement.batch_size)),
            scratch=scratch,
        )
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return [{"resume_step": step, **row} for row in rows]


def resume_step(job: Job) -> int:
    """Return the step a job resumes from, given its config alone.

    Raises: ValueError: The run saves no checkpoint at that step or ends there, a count is not a positive
            integer, or the model would be trained here with dropout.
    """
    schedule, task = job.training.run, job.task
    for key, counts in (("steps", [task["steps"]]), ("at", task["at"])):
        if not isinstance(counts, list) or any(type(n) is not int or n < 1 for n in counts):
            raise ValueError(
                f"task.{key}={task[key]}; allowed: "
                f"{'positive numbers of steps' if key == 'at' else 'a positive number'}"
            )
    rates = {k: v for k, v in job.model.architecture.items() if "drop" in k and isinstance(v, int | float)}
    dropout = {k: v for k, v in rates.items() if v > 0}
    if dropout and not is_pretrained(job):
        found = ", ".join(f"model.architecture.{k}={v}" for k, v in dropout.items())
        raise ValueError(
            f"{found}: the masks of dropout do not move with the coordinates, so no resumed run could stay "
            "on its trajectory; allowed: 0"
        )
    saved = list(range(schedule.save_every, schedule.steps, schedule.save_every))
    within = [s for s in saved if 3 * s <= 2 * schedule.steps]
    default = max(within, default=min(saved, default=None))
    step = default if task["resume_step"] is None else task["resume_step"]
    if step not in saved:
        raise ValueError(
            f"task.resume_step={step}: run {RUN} of {schedule.steps} steps saves no checkpoint there, or has "
            f"no step left; allowed: {', '.join(map(str, saved)) or 'none (lower training.run.save_every)'}"
        )
    return int(step)


TASK = Task(measure, lambda job: ("data", "base", RUN), check)
