"""Running many jobs: their shared stages first, each once, then the jobs; across processes, surviving failures."""

from __future__ import annotations

import os
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from joblib import Parallel, delayed
from omegaconf import DictConfig
from tqdm import tqdm

from gaugeport.compose import Composed, from_config
from gaugeport.jobs import is_done, run_job
from gaugeport.loading import quiet
from gaugeport.report.summary import summary
from gaugeport.store import Store, digest
from gaugeport.workflows.registry import build_stage, stage_keys

WAVES = {
    "data": ("data",),
    "base models": ("base", "other"),
    "fine-tuning runs": ("A", "B"),
    "SAEs": ("sae",),
    "evidence": ("evidence",),
    "importance lists": ("lists_A", "lists_B"),
    "jobs": ("job",),
}
"""What is built side by side, in the order in which the waves build on one another."""


@dataclass(frozen=True)
class Failure:
    """A stage or job that raised: ``key``, what it was (with the command that runs it again), and the error."""

    key: str
    what: str
    error: str


def run_all(jobs: Sequence[Composed], processes: int | None = None) -> list[Failure]:
    """Run the jobs whose records are missing. Returns what failed; everything that does not stand on it is done.

    Stages go first, in waves, each distinct one once, ``processes`` at a time on one thread each, so that results do
    not depend on how many run side by side. The default is all cores, or one process where there is a GPU.
    """
    # joblib restarts a worker whose memory grew, as it does after holding a run's checkpoints; nothing is lost
    warnings.filterwarnings("ignore", message="A worker stopped while some jobs were given")
    processes = processes or (1 if torch.cuda.is_available() else os.cpu_count() or 1)
    waiting = {digest(_job_key(c)): c for c in jobs if not is_done(c.job, c.outputs)}
    stages = {key: stage_keys(c.job) for key, c in waiting.items()}
    failures: list[Failure] = []
    for name, wave in WAVES.items():
        tasks: dict[str, tuple[str, Callable[..., Any], tuple]] = {}
        for key, c in waiting.items():
            for stage in wave:
                if stage == "job":
                    tasks[key] = (_what(c, "job"), run_job, (c.job, c.outputs, c.tracker))
                elif stage in stages[key]:
                    build = (_what(c, name), build_stage, (c.job, Store(c.outputs / "store"), stage))
                    tasks.setdefault(digest([stage, stages[key][stage]]), build)
        if not tasks:
            continue
        results = Parallel(n_jobs=min(processes, len(tasks)), return_as="generator_unordered")(
            delayed(_guarded)(key, *task) for key, task in tasks.items()
        )
        failed = [f for f in _progress(results, name, len(tasks)) if f is not None]
        failures += failed
        lost = {f.key for f in failed}
        waiting = {key: c for key, c in waiting.items() if not lost & {digest([s, k]) for s, k in stages[key].items()}}
    return failures


def run_config(config: DictConfig) -> None:
    """Run the job of one composed config and print its measurements: what Hydra calls, in whichever process."""
    quiet()
    torch.set_num_threads(1)
    c = from_config(config, ())
    print(summary(run_job(c.job, c.outputs, c.tracker)), flush=True)


def _job_key(c: Composed) -> list[Any]:
    return [c.job.key(), c.job.files(), str(c.outputs)]


def _progress(results: Iterable[Failure | None], name: str, total: int) -> Iterator[Failure | None]:
    """A bar on a terminal; in a log a line per finished job; nothing in CI."""
    began = time.monotonic()
    for i, result in enumerate(tqdm(results, total=total, desc=name, unit="job", disable=None, smoothing=0), 1):
        if not sys.stderr.isatty() and "CI" not in os.environ:
            print(f"{name} {i}/{total}, {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
        yield result


def _what(c: Composed, stage: str) -> str:
    return f"{stage} of: gaugeport run {' '.join(c.overrides)}"


def _guarded(key: str, what: str, function: Callable[..., Any], arguments: tuple) -> Failure | None:
    quiet()
    torch.set_num_threads(1)
    try:
        function(*arguments)
    except Exception as e:  # one job's failure must not stop the others; it is reported at the end
        return Failure(key, what, f"{type(e).__name__}: {e}")
    return None
