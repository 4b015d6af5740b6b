"""Jobs of resumed AdamW runs (table a8): run A's checkpoint at one step, its rows, and what to calibrate and measure on.

The job's gauge, matcher and route are not read: every arm needs the same reference run, so one job holds them all.
"""

from __future__ import annotations

import shutil
from typing import Any

from gaugeport.pipeline.data import row_batches
from gaugeport.pipeline.job import Job
from gaugeport.pipeline.measures.adamw_resume import adamw_resume_rows
from gaugeport.pipeline.stages.evidence import calibration_batches, loss_rows
from gaugeport.pipeline.stages.training import contents, heldout_rows, run_checkpoints, run_rows
from gaugeport.pipeline.store.store import Store
from gaugeport.utils.seeds import derive

RUN = "A"


def stages_of(job: Job) -> tuple[str, ...]:
    """The stages a job stands on. Raises what :func:`resume_step` raises, before any of them is built."""
    resume_step(job)
    return ("data", "base", RUN)


def measure(job: Job, store: Store) -> list[dict[str, Any]]:
    """The rows of every arm."""
    step = resume_step(job)
    checkpoint = run_checkpoints(job, store, RUN)[step]
    schedule = job.training.run
    fit, test = heldout_rows(job, store)
    # beside the store, not in /tmp: a moved checkpoint is three times the size of its model
    scratch = store.root / f".resume-{job.hash(contents(job))}"
    shutil.rmtree(scratch, ignore_errors=True)  # a killed run left it
    scratch.mkdir()
    try:
        found = adamw_resume_rows(
            checkpoint,
            run_rows(job, store, RUN),
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
    return [{"resume_step": step, **row} for row in found]


def resume_step(job: Job) -> int:
    """The step a job resumes from, from its config alone.

    Raises ``ValueError`` naming what is allowed for a step that the run does not save or ends at, for counts that are
    not positive integers, and for a model that would be trained here with dropout.
    """
    schedule, task = job.training.run, job.task
    for key, counts in (("steps", [task["steps"]]), ("at", task["at"])):
        if not isinstance(counts, list) or any(type(n) is not int or n < 1 for n in counts):
            raise ValueError(
                f"task.{key}={task[key]}; allowed: {'positive numbers of steps' if key == 'at' else 'a positive number'}"
            )
    made_here = job.model.path is None and not job.model.from_hub
    rates = {k: v for k, v in job.model.architecture.items() if "drop" in k and isinstance(v, int | float)}
    dropout = {k: v for k, v in rates.items() if v > 0}
    if dropout and made_here:
        found = ", ".join(f"model.architecture.{k}={v}" for k, v in dropout.items())
        raise ValueError(
            f"{found}: the masks of dropout do not move with the coordinates, so no resumed run could stay on its "
            "trajectory; allowed: 0"
        )
    saved = list(range(schedule.save_every, schedule.steps, schedule.save_every))
    within = [s for s in saved if 3 * s <= 2 * schedule.steps]
    default = max(within, default=min(saved, default=None))
    step = default if task["resume_step"] is None else task["resume_step"]
    if step not in saved:
        raise ValueError(
            f"task.resume_step={step}: run {RUN} of {schedule.steps} steps saves no checkpoint there, or has no step "
            f"left; allowed: {', '.join(map(str, saved)) or 'none (lower training.run.save_every)'}"
        )
    return int(step)
