"""``gaugeport run``: one job, or a sweep."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence

from gaugeport.models.loading import hide_progress_bars
from gaugeport.pipeline.config.compose import JobSpec, compose_config, from_config
from gaugeport.pipeline.config.sweeps import sweep_jobs
from gaugeport.pipeline.execution.failures import Failure
from gaugeport.pipeline.execution.launchers import by_hydra, cores, local
from gaugeport.pipeline.execution.plan import plan
from gaugeport.pipeline.execution.progress import plural
from gaugeport.pipeline.execution.runner import run_all
from gaugeport.pipeline.execution.timings import Timings
from gaugeport.pipeline.job import job_id
from gaugeport.pipeline.paths import data_dir
from gaugeport.pipeline.report.summary import summary
from gaugeport.pipeline.report.sweep import write_sweep
from gaugeport.pipeline.report.tidy import COLUMNS
from gaugeport.pipeline.stages.catalogue import build_stage
from gaugeport.pipeline.stages.stage import WAVES
from gaugeport.pipeline.store.records import read_records
from gaugeport.pipeline.store.store import Store, digest, write_json
from gaugeport.pipeline.tasks.registry import stage_keys

HAVE_COLUMNS = ("model", "gauge", "matcher", "route", "task", "seed", "profile", "setting", "experiment")
"""What a table has a column for: sweeps over other keys get one each."""


def show_config(arguments: Sequence[str]) -> None:
    """What Hydra prints for ``--help``, ``--cfg`` and the like."""
    import hydra

    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # errors come to main(), which prints them as one line
    sys.argv = ["gaugeport run", *arguments]
    hydra.main(config_path=str(data_dir("conf")), config_name="config", version_base="1.3")(
        lambda config: None
    )()


def run_one(overrides: Sequence[str], dry_run: bool) -> str:
    """Run a job, or with ``stage=`` build one of its stages; returns its measurements, or where the stage lies.

    Raises ``ValueError`` saying what failed.
    """
    config = compose_config([o.removeprefix("+") if o.startswith("+experiment=") else o for o in overrides])
    c = from_config(config, overrides)
    if dry_run:
        return describe([c], 1)
    if config.stage is not None:
        if config.stage not in stage_keys(c.job):
            stands_on = ", ".join(stage_keys(c.job)) or "none"
            raise ValueError(f"stage={config.stage}: the job stands on no such stage; allowed: {stands_on}")
        hide_progress_bars()
        return f"{config.stage}: {build_stage(c.job, Store(c.outputs / 'store'), config.stage)}"
    for failure in run_all([c], local(1), 1):
        raise ValueError(failure.error.message)
    return summary(read_records(c.outputs / "records", [job_id(c.job)]).records[0])


def run_sweep(overrides: Sequence[str], dry_run: bool) -> tuple[str, list[Failure]]:
    """Run the jobs of a sweep; returns its tables, and what failed."""
    of_hydra = [o for o in overrides if o.lstrip("+~").startswith("hydra")]
    overrides = [o for o in overrides if o not in of_hydra]
    if any(o.lstrip("+").startswith("stage=") for o in overrides):
        raise ValueError("stage= builds one stage of one job: give it without -m")
    launch, at_once = (
        by_hydra(of_hydra),
        cores() if of_hydra else 1,
    )  # Hydra's basic launcher runs one at a time
    jobs = sweep_jobs(overrides)
    if dry_run:
        return describe(jobs, at_once), []
    outputs, name = jobs[0].outputs, f"sweep-{digest(sorted(overrides))[:8]}"
    write_json(outputs / "sweeps" / f"{name}.json", list(overrides))
    failures = run_all(jobs, launch, at_once)
    found = read_records(outputs / "records", [job_id(c.job) for c in jobs])
    folder = outputs / "tables" / "sweeps" / name
    text = write_sweep(folder, found, _swept(jobs)) if found.records else ""
    lacking = f" ({found.lacking})" if found.lacking else ""
    text += f"\n{name}: {len(found.records)} of {found.jobs} jobs{lacking}; tables in {folder}"
    return text, failures


def describe(jobs: Sequence[JobSpec], processes: int | None = None) -> str:
    """The jobs, which of them are done, the stages that are missing, and how long all that will take."""
    if not jobs:
        return "0 jobs"
    todo, timings, n = plan(jobs), Timings.recorded(jobs[0].outputs), processes or cores()
    lines, distinct = [], {job_id(c.job): c for c in jobs}
    for name, c in distinct.items():
        state = f"to run, {timings.text(todo.steps[name])}" if name in todo.needs else "done"
        lines.append(f"{state:<20} {shlex.join(['gaugeport', 'run', *c.overrides])}")
    for wave in WAVES:
        steps = todo.wave(wave)
        if steps:
            lines.append(f"{wave}: {len(steps)} to build, {timings.total(steps)}")
    left = timings.total(todo.steps.values(), n)
    jobs_said = f"{plural(len(distinct), 'job')}, {len(todo.needs)} to run"
    return "\n".join([*lines, f"{jobs_said}: {left}, by recorded timings, {n} at a time"])


def _swept(jobs: Sequence[JobSpec]) -> dict[str, str]:
    """What to call each value that differs between jobs and that tables have no column for -> its config path."""
    given = [dict(o.lstrip("+").split("=", 1) for o in c.overrides if "=" in o) for c in jobs]
    keys = sorted({key for one in given for key in one} - set(HAVE_COLUMNS))
    differing = [key for key in keys if len({one.get(key, "") for one in given}) > 1]
    short = [key.rsplit(".", 1)[-1] for key in differing]
    named = {}
    for name, key in zip(short, differing, strict=True):
        path = key if "." in key else f"{key}.name"  # a group's choice: data=mini,text
        named[name if short.count(name) == 1 and name not in (*COLUMNS, "record") else key] = path
    return named
