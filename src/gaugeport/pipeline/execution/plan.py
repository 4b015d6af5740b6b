"""Plan what a set of jobs still needs: the stages they share, each once, then the jobs, in waves."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gaugeport.pipeline.execution.guesses import parameters_of
from gaugeport.pipeline.job import Job, JobSpec, job_id
from gaugeport.pipeline.stages.catalogue import STAGES, keys_of
from gaugeport.pipeline.store.records import has_record, record_path
from gaugeport.pipeline.store.store import Store, digest, partial_of
from gaugeport.pipeline.tasks.registry import stage_keys

JOBS = "jobs"


@dataclass(frozen=True)
class Step:
    """One step: build a stage (for the first job that requires it), or run a job.

    Attributes:
        key: The step's identity.
        wave: The wave it belongs to.
        stage: The stage's name, or None for a job.
        composed: The job.
        result: The file that exists once the step is done.
        shape: The configuration that decides how long it takes.
        parameters: About how many parameters its model has, where it is a pretrained one and that is known.
        before: The inode and time of ``result`` when this was planned: a damaged or outdated file may have
            been there.
    """

    key: str
    wave: str
    stage: str | None
    composed: JobSpec
    result: Path
    shape: dict[str, Any] = field(repr=False)
    parameters: int | None = None
    before: tuple[int, int] | None = None

    @property
    def done(self) -> bool:
        """Whether its result was written since it was planned."""
        return stamp(self.result) not in (None, self.before)

    @property
    def unfinished(self) -> Path:
        """The folder that a stage is built in; there is none before and after, and none for a job."""
        return partial_of(self.result.parent)

    @property
    def label(self) -> str:
        """A few words that identify the step."""
        job = self.composed.job
        cohort = f", cohort {job.task['cohort']}" if "cohort" in job.task else ""
        condition = f" {job.gauge}/{job.matcher}/{job.route}" if self.stage is None and not cohort else ""
        what = job.task["name"] if self.stage is None else STAGES[self.stage].label
        setting = "" if job.setting == "default" else f", {job.setting}"
        return f"{what} of {job.model.name}{condition}{cohort}, seed {job.seed}{setting}"

    @property
    def command(self) -> str:
        """The command that runs this step alone."""
        stage = [] if self.stage is None else [f"stage={self.stage}"]
        return shlex.join(["gaugeport", "run", *self.composed.overrides, *stage])


@dataclass(frozen=True)
class Plan:
    """What is missing.

    Attributes:
        steps: The missing steps by key, wave by wave.
        needs: Of each missing job, or stage that was asked for alone: its key -> the keys of the stages that
            it requires.
    """

    steps: dict[str, Step]
    needs: dict[str, tuple[str, ...]]

    def without(self, failed: Iterable[str]) -> Plan:
        """Return what can still be done after some steps failed: nothing that needs them, nor its stages."""
        lost = set(failed)
        needs = {k: stages for k, stages in self.needs.items() if k not in lost and not lost & set(stages)}
        wanted = {key for k, stages in needs.items() for key in (k, *stages)}
        return Plan({key: step for key, step in self.steps.items() if key in wanted}, needs)

    def wave(self, name: str) -> list[Step]:
        """Return the steps of one wave."""
        return [s for s in self.steps.values() if s.wave == name]


def plan(jobs: Sequence[JobSpec]) -> Plan:
    """Plan what the jobs need that is not there yet. Jobs with one id are one job."""
    steps: dict[str, Step] = {}
    needs: dict[str, tuple[str, ...]] = {}
    for c in jobs:
        job = job_id(c.job)
        if job in needs or has_record(c.outputs / "records", job):
            continue
        # 1) the stages the job requires; those not built yet become steps, once
        size = parameters_of(c.job)
        needs[job] = _add_stages(steps, c, stage_keys(c.job), size)
        # 2) the job itself
        result = record_path(c.outputs / "records", job)
        steps[job] = Step(job, JOBS, None, c, result, c.job.key(), size, stamp(result))
    return Plan(_in_order(steps), needs)


def plan_stage(c: JobSpec, stage: str) -> Plan:
    """Plan what one stage of a job needs that is not there yet, the stage itself included."""
    steps: dict[str, Step] = {}
    names = _missing(c.job, Store(c.outputs / "store"), stage)
    keys = _add_stages(steps, c, keys_of(c.job, names), parameters_of(c.job))
    return Plan(_in_order(steps), {keys[-1]: keys[:-1]} if keys else {})


def _missing(job: Job, store: Store, stage: str) -> list[str]:
    """Return the stages to build for one, itself the last; none if it is there."""
    if not (config := keys_of(job, [stage])) or store.has(STAGES[stage].kind, config[stage]):
        return []
    required = [name for r in STAGES[stage].requires(job) for name in _missing(job, store, r)]
    return list(dict.fromkeys([*required, stage]))


def _add_stages(
    steps: dict[str, Step], c: JobSpec, stages: Mapping[str, dict[str, Any]], size: int | None
) -> tuple[str, ...]:
    """Add those of a job's stages that are not built yet, and return the keys of all."""
    store, keys = Store(c.outputs / "store"), []
    for stage, config in stages.items():
        kind = STAGES[stage].kind
        key = digest([kind, config, str(store.root)])
        keys.append(key)
        if key not in steps and not store.has(kind, config):
            result = store.manifest_path(kind, config)
            shape = {"kind": kind, **config}
            steps[key] = Step(key, STAGES[stage].wave, stage, c, result, shape, size, stamp(result))
    return tuple(keys)


def _in_order(steps: dict[str, Step]) -> dict[str, Step]:
    order = [*STAGES, None]  # wave by wave, jobs last
    return dict(sorted(steps.items(), key=lambda item: order.index(item[1].stage)))


def stamp(path: Path) -> tuple[int, int] | None:
    """Return what distinguishes a file from a later one of the same name; None if there is none."""
    try:
        about = path.stat()
    except FileNotFoundError:
        return None
    return about.st_ino, about.st_mtime_ns
