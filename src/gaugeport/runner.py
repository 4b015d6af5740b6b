"""Running many jobs: their shared stages first, each once, then the jobs; across processes, surviving failures."""

from __future__ import annotations

import os
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from joblib import Parallel, delayed
from tqdm import tqdm

from gaugeport.compose import Composed
from gaugeport.jobs import evidence_stage, is_done, needs, run_job
from gaugeport.loading import quiet
from gaugeport.store import Store, digest
from gaugeport.training.stages import RUNS, base_key, base_stage, data_key, data_stage, run_key, run_stage


@dataclass(frozen=True)
class Failure:
    """A job or stage that raised: what it was, the error, and its traceback."""

    what: str
    error: str
    trace: str


def run_all(jobs: Sequence[Composed], processes: int | None = None) -> list[Failure]:
    """Run the jobs whose records are missing. Returns what failed; everything else is done.

    Stages go first, in waves - data, base models, runs, evidence - each distinct one once, ``processes`` (all cores)
    at a time on one thread each, so that results do not depend on how many run side by side.
    """
    missing = [c for c in jobs if not is_done(c.job, c.outputs)]
    if not missing:
        return []
    processes = processes or os.cpu_count() or 1
    failures: list[Failure] = []
    for name, tasks in _waves(missing):
        results = Parallel(n_jobs=min(processes, max(1, len(tasks))), return_as="generator_unordered")(
            delayed(_guarded)(what, function, arguments) for what, function, arguments in tasks
        )
        failures += [f for f in _progress(results, name, len(tasks)) if f is not None]
    return failures


def _progress(results: Iterable[Failure | None], name: str, total: int) -> Iterator[Failure | None]:
    """A bar on a terminal; in a log a line per finished job; nothing in CI."""
    began = time.monotonic()
    for i, result in enumerate(tqdm(results, total=total, desc=name, unit="job", disable=None, smoothing=0), 1):
        if not sys.stderr.isatty() and "CI" not in os.environ:
            print(f"{name} {i}/{total}, {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
        yield result


Task = tuple[str, Callable[..., Any], tuple]


def _waves(jobs: Sequence[Composed]) -> list[tuple[str, list[Task]]]:
    data: dict[str, Task] = {}
    bases: dict[str, Task] = {}
    runs: dict[str, Task] = {}
    evidence: dict[str, Task] = {}
    for c in jobs:
        job, store, wanted = c.job, Store(c.outputs / "store"), needs(c.job)
        if "run" in wanted:
            data.setdefault(digest(data_key(job)), (_what(c, "data"), data_stage, (job, store)))
            bases.setdefault(digest(base_key(job)), (_what(c, "base model"), base_stage, (job, store)))
            for run in RUNS:
                runs.setdefault(digest(run_key(job, run)), (_what(c, f"run {run}"), run_stage, (job, store, run)))
        if "evidence" in wanted:
            key = digest([run_key(job, "A"), vars(job.measurement)])
            evidence.setdefault(key, (_what(c, "evidence"), evidence_stage, (job, store)))
    waves = {
        "data": list(data.values()),
        "base models": list(bases.values()),
        "fine-tuning runs": list(runs.values()),
        "evidence": list(evidence.values()),
        "jobs": [(_what(c, "job"), run_job, (c.job, c.outputs, c.tracker)) for c in jobs],
    }
    return [(name, tasks) for name, tasks in waves.items() if tasks]


def _what(c: Composed, stage: str) -> str:
    return f"{stage} of: gaugeport run {' '.join(c.overrides)}"


def _guarded(what: str, function: Callable[..., Any], arguments: tuple) -> Failure | None:
    quiet()
    torch.set_num_threads(1)
    try:
        function(*arguments)
    except Exception as e:  # one job's failure must not stop the others; it is reported at the end
        return Failure(what, f"{type(e).__name__}: {e}", traceback.format_exc())
    return None
