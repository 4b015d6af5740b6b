"""Running many jobs: their shared stages first, each once, then the jobs; surviving failures, and saying what failed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from gaugeport.compose import Composed
from gaugeport.failures import Error, Failure, note
from gaugeport.launchers import Launch, cores, local
from gaugeport.plan import JOBS, WAVES, Step, plan
from gaugeport.progress import Progress


def run_all(jobs: Sequence[Composed], launch: Launch | None = None, processes: int | None = None) -> list[Failure]:
    """Run the jobs whose records are missing. Returns what failed; everything that does not stand on it is done.

    Stages go first, in waves, each distinct one once. A full disk ends it all after its wave: nothing could be written.
    ``launch`` is what runs the steps, by default ``processes`` of this machine.
    """
    left = plan(jobs)
    progress = Progress(left, processes or cores())
    failures: list[Failure] = []
    for wave in (*WAVES, JOBS):
        steps = left.wave(wave)
        if not steps:
            continue
        with progress.watch(wave, steps):
            failed = {f.step.key: f for f in _failed(steps, launch or local(processes))}
        failures += failed.values()
        for job, stages in left.needs.items():
            reason = next((failed[key] for key in (job, *stages) if key in failed), None)
            if reason is not None:
                note(left.steps[job], reason)
        if any(f.error.full_disk for f in failed.values()):
            break
        left = left.without(failed)
    return failures


def _failed(steps: Sequence[Step], launch: Launch) -> Iterator[Failure]:
    try:
        for step, error in zip(steps, launch(steps), strict=True):
            if error is not None:
                yield Failure(step, error)
    except Exception as e:  # not a step, but what runs them: a killed worker, a queue that is gone
        yield from (Failure(step, Error.of(e)) for step in steps if not step.made.exists())
