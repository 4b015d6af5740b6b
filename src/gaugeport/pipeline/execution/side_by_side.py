"""Run groups of jobs side by side, a process each, where no group waits for the stages of another."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool

import torch

from gaugeport.pipeline.execution.failures import Error, Failure
from gaugeport.pipeline.execution.launchers import local
from gaugeport.pipeline.execution.plan import plan
from gaugeport.pipeline.execution.runner import run_all
from gaugeport.pipeline.execution.workers import end_with_parent
from gaugeport.pipeline.job import JobSpec

POLL_SECONDS = 0.5
"""Seconds between two calls of ``meanwhile``."""


def run_side_by_side(
    groups: Sequence[Sequence[Sequence[JobSpec]]],
    processes: int,
    meanwhile: Callable[[], None],
    ended: Callable[[list[Failure]], None],
) -> None:
    """Run groups of jobs; a free process takes the next group.

    Args:
        groups: Groups of parts of jobs. The parts of a group run one after another, so that the first are
            done early.
        processes: How many groups run at a time, each on its share of the CPU's threads. With 1 they run in
            this process.
        meanwhile: Called twice a second while they run, or after every part.
        ended: Called with what failed in a group once it has ended. Where the system kills a process (out of
            memory, say), the groups that have not ended run again one at a time; one that is killed alone has
            failed.
    """
    if processes == 1:
        for parts in groups:
            ended(_run_in_order(parts, meanwhile))
        return
    threads = max(1, torch.get_num_threads() // processes)
    for parts in _run_in_pool(groups, processes, threads, meanwhile, ended):
        if _run_in_pool([parts], 1, torch.get_num_threads(), meanwhile, ended):
            ended(_killed(parts))


def _run_in_pool(
    groups: Sequence[Sequence[Sequence[JobSpec]]],
    processes: int,
    threads: int,
    meanwhile: Callable[[], None],
    ended: Callable[[list[Failure]], None],
) -> list[Sequence[Sequence[JobSpec]]]:
    """Run groups in processes of their own; return those that had not ended when one was killed."""
    left = list(groups)
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"), _prepare, (threads,)) as pool:
        running = {pool.submit(_run_in_order, parts): parts for parts in groups}
        while running:
            done, _ = wait(running, POLL_SECONDS, FIRST_COMPLETED)
            for future in done:
                parts = running.pop(future)
                try:
                    ended(future.result())
                    left.remove(parts)
                except BrokenProcessPool:
                    pass
            meanwhile()
    return left


def _killed(parts: Sequence[Sequence[JobSpec]]) -> list[Failure]:
    """Return the first step of a group that is not done, as killed."""
    steps = plan([spec for jobs in parts for spec in jobs]).steps.values()
    error = Error("the system killed its process: it may be out of memory", "")
    return [Failure(step, error) for step in steps if not step.done][:1]


def _prepare(threads: int) -> None:
    """Set a worker's threads, and let it end with the command that started it."""
    torch.set_num_threads(threads)
    end_with_parent()


def _run_in_order(
    parts: Sequence[Sequence[JobSpec]], then: Callable[[], None] | None = None
) -> list[Failure]:
    """Run the parts of a group up to one whose base model cannot be built: the others require it too."""
    failures: list[Failure] = []
    for jobs in parts:
        failures += run_all(jobs, local(1), 1, quiet=True)
        if then is not None:
            then()
        if any(failure.step.stage == "base" or failure.error.full_disk for failure in failures):
            break
    return failures
