"""``gaugeport run``: one job, or a sweep."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from gaugeport.compose import Composed, compose_config, from_config
from gaugeport.failures import Failure
from gaugeport.jobs import job_id
from gaugeport.launchers import by_hydra, cores, local
from gaugeport.loading import quiet
from gaugeport.paths import data_dir
from gaugeport.plan import WAVES, plan
from gaugeport.progress import counted
from gaugeport.records import read_records
from gaugeport.report.summary import summary
from gaugeport.report.sweep import write_sweep
from gaugeport.runner import run_all
from gaugeport.store import Store, digest, write_json
from gaugeport.sweeps import sweep_jobs
from gaugeport.timings import Timings
from gaugeport.workflows.registry import STAGES, build_stage

COLUMNS_ALREADY = (
    "model",
    "gauge",
    "matcher",
    "route",
    "task",
    "seed",
    "profile",
    "setting",
    "data",
    "training",
    "experiment",
)
"""What a table has a column for, or what is no one value: sweeps over other keys get a column each."""


def show_config(arguments: Sequence[str]) -> None:
    """What Hydra prints for ``--help``, ``--cfg`` and the like."""
    import hydra

    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # errors come to main(), which prints them as one line
    sys.argv = ["gaugeport run", *arguments]
    hydra.main(config_path=str(data_dir("conf")), config_name="config", version_base="1.3")(lambda config: None)()


def run_one(overrides: Sequence[str], dry_run: bool) -> str:
    """Run a job, or with ``stage=`` build one of its stages; returns its measurements, or where the stage lies.

    Raises ``ValueError`` saying what failed.
    """
    config = compose_config([o.removeprefix("+") if o.startswith("+experiment=") else o for o in overrides])
    c = from_config(config, overrides)
    if dry_run:
        return describe([c], 1)
    if config.stage is not None:
        if config.stage not in STAGES:
            raise ValueError(f"stage={config.stage} is unknown; allowed: {', '.join(STAGES)}")
        quiet()
        return f"{config.stage}: {build_stage(c.job, Store(c.outputs / 'store'), config.stage)}"
    for failure in run_all([c], local(1), 1):
        raise ValueError(failure.error.message)
    return summary(read_records(c.outputs / "records", [job_id(c.job)]).records[0])


def run_sweep(overrides: Sequence[str], dry_run: bool) -> tuple[str, list[Failure]]:
    """Run the jobs of a sweep; returns its tables, and what failed."""
    of_hydra = [o for o in overrides if o.startswith("hydra")]
    launch = by_hydra(of_hydra or ["hydra/launcher=basic"])
    overrides = [o for o in overrides if o not in of_hydra]
    jobs = sweep_jobs(overrides)
    if dry_run:
        return describe(jobs), []
    outputs, name = jobs[0].outputs, f"sweep-{digest(sorted(overrides))[:8]}"
    write_json(outputs / "sweeps" / f"{name}.json", list(overrides))
    failures = run_all(jobs, launch)
    found = read_records(outputs / "records", [job_id(c.job) for c in jobs])
    folder = outputs / "tables" / "sweeps" / name
    text = write_sweep(folder, found.records, _swept(jobs)) if found.records else ""
    lacking = f" ({found.lacking})" if found.lacking else ""
    text += f"\n{name}: {len(found.records)} of {found.jobs} jobs{lacking}; tables in {folder}"
    return text, failures


def describe(jobs: Sequence[Composed], processes: int | None = None) -> str:
    """The jobs, which of them are done, the stages that are missing, and how long all that will take."""
    todo, timings, n = plan(jobs), Timings.recorded(jobs[0].outputs), processes or cores()
    lines, distinct = [], {job_id(c.job): c for c in jobs}
    for name, c in distinct.items():
        state = f"to run, {timings.text(todo.steps[name])}" if name in todo.needs else "done"
        lines.append(f"{state:<20} gaugeport run {' '.join(c.overrides)}")
    for wave in WAVES:
        steps = todo.wave(wave)
        if steps:
            lines.append(f"{wave}: {len(steps)} to build, {timings.total(steps)}")
    left = timings.total(todo.steps.values(), n)
    jobs_said = f"{counted(len(distinct), 'job')}, {len(todo.needs)} to run"
    return "\n".join([*lines, f"{jobs_said}: {left}, by recorded timings, {n} at a time"])


def _swept(jobs: Sequence[Composed]) -> dict[str, str]:
    """What to call each value that differs between jobs and that tables have no column for -> its config path."""
    values = {}
    given = [dict(o.lstrip("+").split("=", 1) for o in c.overrides) for c in jobs]
    for key in {key for one in given for key in one} - set(COLUMNS_ALREADY):
        values[key] = {one.get(key, "") for one in given}
    paths = sorted(key for key, found in values.items() if len(found) > 1)
    short = [path.rsplit(".", 1)[-1] for path in paths]
    return {name if short.count(name) == 1 else path: path for name, path in zip(short, paths, strict=True)}
