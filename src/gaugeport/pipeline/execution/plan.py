"""What a set of jobs still needs: the stages they share, each once, then the jobs; in waves that build on one another."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gaugeport.pipeline.config.compose import JobSpec
from gaugeport.pipeline.job import Job, job_id
from gaugeport.pipeline.stages.catalogue import STAGES
from gaugeport.pipeline.store.records import read_record, record_path
from gaugeport.pipeline.store.store import Store, digest
from gaugeport.pipeline.tasks.registry import stage_keys

JOBS = "jobs"


@dataclass(frozen=True)
class Step:
    """One thing to do: build a ``stage`` (of the first job that wants it), or run a job where ``stage`` is None.

    ``made`` is the file that is there once it is done, and was as ``before`` when this was planned; ``shape`` is what
    decides how long it takes.
    """

    key: str
    wave: str
    stage: str | None
    composed: JobSpec
    made: Path
    shape: dict[str, Any] = field(repr=False)
    before: tuple[int, int] | None = None

    @property
    def done(self) -> bool:
        """Whether what it makes is there now and was not when it was planned (a damaged or outdated one may have been)."""
        return stamp(self.made) not in (None, self.before)

    @property
    def label(self) -> str:
        """What it is, in a few words."""
        job = self.composed.job
        cohort = f", cohort {job.task['cohort']}" if "cohort" in job.task else ""
        arm = f" {job.gauge}/{job.matcher}/{job.route}" if self.stage is None and not cohort else ""
        what = job.task["name"] if self.stage is None else STAGES[self.stage].label
        setting = "" if job.setting == "default" else f", {job.setting}"
        return f"{what} of {job.model.name}{arm}{cohort}, seed {job.seed}{setting}"

    @property
    def command(self) -> str:
        """The command that does this and nothing else."""
        stage = [] if self.stage is None else [f"stage={self.stage}"]
        return shlex.join(["gaugeport", "run", *self.composed.overrides, *stage])


@dataclass(frozen=True)
class Plan:
    """Missing ``steps`` by key, in the order of their waves; ``needs`` maps each missing job's key to its stages' keys."""

    steps: dict[str, Step]
    needs: dict[str, tuple[str, ...]]

    def without(self, failed: Iterable[str]) -> Plan:
        """What is left to do when some steps failed: not them, not the jobs that stand on them, not their other stages."""
        lost = set(failed)
        needs = {
            job: stages for job, stages in self.needs.items() if job not in lost and not lost & set(stages)
        }
        wanted = {key for job, stages in needs.items() for key in (job, *stages)}
        return Plan({key: step for key, step in self.steps.items() if key in wanted}, needs)

    def wave(self, name: str) -> list[Step]:
        """The steps of one wave."""
        return [s for s in self.steps.values() if s.wave == name]


def plan(jobs: Sequence[JobSpec]) -> Plan:
    """What the jobs need that is not there yet. Jobs with one id are one job."""
    steps: dict[str, Step] = {}
    needs: dict[str, tuple[str, ...]] = {}
    for c in jobs:
        job = job_id(c.job)
        if job in needs or is_done(c.job, c.outputs):
            continue
        store, stages = Store(c.outputs / "store"), []
        for stage, config in stage_keys(c.job).items():
            kind = STAGES[stage].kind
            key = digest([kind, config, str(store.root)])
            stages.append(key)
            if key not in steps and not store.has(kind, config):
                made = store.manifest_path(kind, config)
                steps[key] = Step(
                    key, STAGES[stage].wave, stage, c, made, {"kind": kind, **config}, stamp(made)
                )
        needs[job] = tuple(stages)
        made = record_path(c.outputs / "records", job)
        steps[job] = Step(job, JOBS, None, c, made, c.job.key(), stamp(made))
    order = [*STAGES, None]  # wave by wave, jobs last
    return Plan(dict(sorted(steps.items(), key=lambda item: order.index(item[1].stage))), needs)


def is_done(job: Job, outputs: Path) -> bool:
    """Return whether the job's record exists and can be read."""
    path = record_path(outputs / "records", job_id(job))
    return path.exists() and read_record(path) is not None


def stamp(path: Path) -> tuple[int, int] | None:
    """What tells a file from another under its name; None where there is none."""
    try:
        about = path.stat()
    except FileNotFoundError:
        return None
    return about.st_ino, about.st_mtime_ns
