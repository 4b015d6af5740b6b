"""Run one job, or the jobs of a sweep."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence

from gaugeport.pipeline.config.compose import compose_config, from_config
from gaugeport.pipeline.config.defaults import left_open
from gaugeport.pipeline.config.sweeps import sweep_jobs
from gaugeport.pipeline.config.texts import as_typed
from gaugeport.pipeline.execution.failures import Failure
from gaugeport.pipeline.execution.launchers import by_hydra, cores, local
from gaugeport.pipeline.execution.machine import check_precision
from gaugeport.pipeline.execution.plan import plan, plan_stage
from gaugeport.pipeline.execution.progress import plural
from gaugeport.pipeline.execution.runner import run_all, run_plan
from gaugeport.pipeline.execution.timings import Timings
from gaugeport.pipeline.job import JobSpec, job_id
from gaugeport.pipeline.paths import data_dir
from gaugeport.pipeline.report.summary import summary
from gaugeport.pipeline.report.sweep import write_sweep
from gaugeport.pipeline.report.tidy import COLUMNS
from gaugeport.pipeline.stages.catalogue import STAGES
from gaugeport.pipeline.stages.stage import WAVES
from gaugeport.pipeline.store.records import read_records
from gaugeport.pipeline.store.store import Store, digest, write_json
from gaugeport.pipeline.tasks.registry import stage_keys

KEYS_WITH_COLUMNS = ("model", "gauge", "matcher", "route", "task", "seed", "profile", "setting", "experiment")
"""Config keys that every table has a column for; a sweep over another key adds one."""


def show_config(arguments: Sequence[str]) -> None:
    """Let Hydra print its config or its own help, as its flags ask."""
    import hydra

    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # so that errors reach main(), which prints one line
    overrides = [a for a in arguments if "=" in a and not a.startswith("-")]
    sys.argv = ["gaugeport run", *as_typed(arguments), *left_open(compose_config(overrides), overrides)]
    hydra.main(config_path=str(data_dir("conf")), config_name="config", version_base="1.3")(
        lambda config: None
    )()


def run_one(overrides: Sequence[str], dry_run: bool) -> tuple[str, list[Failure]]:
    """Run a job, or with ``stage=`` build one of its stages.

    Args:
        overrides: The job's overrides, as on Hydra's command line.
        dry_run: Run nothing; describe what would be run.

    Returns:
        The job's measurements, or the folder of the stage, and what failed.

    Raises:
        ValueError: An override is not allowed, or the job is refused on this machine; nothing was run.
    """
    config = compose_config([o.removeprefix("+") if o.startswith("+experiment=") else o for o in overrides])
    spec = from_config(config, overrides)
    if dry_run:
        return describe([spec], 1), []
    check_precision(spec.job)
    if config.stage is None:
        failures = run_all([spec], local(1), 1)
        found = read_records(spec.outputs / "records", [job_id(spec.job)]).records
        return summary(found[0]) if found else "", failures
    keys = stage_keys(spec.job)
    if config.stage not in keys:
        allowed = ", ".join(keys) or "none"
        raise ValueError(f"stage={config.stage}: the job requires no such stage; allowed: {allowed}")
    if failures := run_plan(plan_stage(spec, config.stage), local(1), 1):
        return "", failures
    folder = Store(spec.outputs / "store").path(STAGES[config.stage].kind, keys[config.stage])
    return f"{config.stage}: {folder}", []


def run_sweep(overrides: Sequence[str], dry_run: bool) -> tuple[str, list[Failure]]:
    """Run the jobs of a sweep.

    Args:
        overrides: The sweep's overrides, as on Hydra's command line; ``hydra/launcher=…`` among them chooses
            what runs it.
        dry_run: Run nothing; describe what would be run.

    Returns:
        The sweep's tables as text, and what failed.

    Raises:
        ValueError: An override is not allowed; the message says which are.
    """
    for_hydra = [o for o in overrides if o.lstrip("+~").startswith("hydra")]
    overrides = [o for o in overrides if o not in for_hydra]
    if any(o.lstrip("+").startswith("stage=") for o in overrides):
        raise ValueError("stage= builds one stage of one job: give it without -m")
    launch = by_hydra(for_hydra)
    at_once = cores() if for_hydra else 1  # Hydra's basic launcher runs one job at a time
    jobs = sweep_jobs(overrides)

    # run them
    if dry_run:
        return describe(jobs, at_once), []
    outputs, name = jobs[0].outputs, f"sweep-{digest(sorted(overrides))[:8]}"
    write_json(outputs / "sweeps" / f"{name}.json", list(overrides))
    failures = run_all(jobs, launch, at_once)

    # tables of what has a record
    found = read_records(outputs / "records", [job_id(spec.job) for spec in jobs])
    folder = outputs / "tables" / "sweeps" / name
    text = write_sweep(folder, found, _swept(jobs)) if found.records else ""
    lacking = f" ({found.lacking})" if found.lacking else ""
    text += f"\n{name}: {len(found.records)} of {found.jobs} jobs{lacking}; tables in {folder}"
    return text, failures


def describe(jobs: Sequence[JobSpec], processes: int | None = None) -> str:
    """Describe which jobs are done, which stages are missing, and how long all of it takes.

    Args:
        jobs: The jobs.
        processes: How many run side by side; None for the default of this machine.
    """
    if not jobs:
        return "0 jobs"
    todo, timings, n = plan(jobs), Timings.recorded(jobs[0].outputs), processes or cores()
    lines, distinct = [], {job_id(spec.job): spec for spec in jobs}
    for name, spec in distinct.items():
        state = f"to run, {timings.text(todo.steps[name])}" if name in todo.needs else "done"
        lines.append(f"{state:<20} {shlex.join(['gaugeport', 'run', *spec.overrides])}")
    for wave in WAVES:
        steps = todo.wave(wave)
        if steps:
            lines.append(f"{wave}: {len(steps)} to build, {timings.total(steps)}")
    left = timings.total(todo.steps.values(), n)
    counts = f"{plural(len(distinct), 'job')}, {len(todo.needs)} to run"
    return "\n".join([*lines, f"{counts}: {left}, by recorded timings, {n} at a time"])


def _swept(jobs: Sequence[JobSpec]) -> dict[str, str]:
    """Return a column's name for each swept key that tables have no column for -> the key's config path."""
    given = [dict(o.lstrip("+").split("=", 1) for o in spec.overrides if "=" in o) for spec in jobs]
    keys = sorted(set().union(*given) - set(KEYS_WITH_COLUMNS))
    swept = [key for key in keys if len({overrides.get(key, "") for overrides in given}) > 1]
    last_parts = [key.rsplit(".", 1)[-1] for key in swept]
    columns = {}
    for name, key in zip(last_parts, swept, strict=True):
        free = last_parts.count(name) == 1 and name not in (*COLUMNS, "record")
        path = key if "." in key else f"{key}.name"  # the choice of a group, as in data=mini,text
        columns[name if free else key] = path
    return columns
