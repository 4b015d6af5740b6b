"""Run many jobs: their shared stages first, each once, then the jobs.

A failure stops only what depends on it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from gaugeport.pipeline.execution.failures import Error, Failure, note
from gaugeport.pipeline.execution.launchers import Launch, cores, local
from gaugeport.pipeline.execution.plan import JOBS, Plan, Step, plan
from gaugeport.pipeline.execution.progress import Progress
from gaugeport.pipeline.job import JobSpec
from gaugeport.pipeline.stages.stage import WAVES


def run_all(
    jobs: Sequence[JobSpec],
    launch: Launch | None = None,
    processes: int | None = None,
    quiet: bool = False,
) -> list[Failure]:
    """Run the jobs whose records are missing, and before them the stages that they require.

    Args:
        jobs: The jobs; those with a readable record are skipped.
        launch, processes, quiet: As of :func:`run_plan`.

    Returns:
        What failed. Everything that does not depend on it is done.
    """
    return run_plan(plan(jobs), launch, processes, quiet)


def run_plan(
    left: Plan, launch: Launch | None = None, processes: int | None = None, quiet: bool = False
) -> list[Failure]:
    """Do what is missing, in waves, each step once. A full disk ends the run after its wave.

    Args:
        left: What is missing.
        launch: What runs the steps, by default ``processes`` of this machine.
        processes: How many steps run at a time, by default one per core.
        quiet: Print no progress: whatever called this does.

    Returns:
        What failed. Everything that does not depend on it is done.
    """
    progress = Progress(left, processes or cores(), quiet)
    failures: list[Failure] = []
    for wave in (*WAVES, JOBS):
        steps = left.wave(wave)
        if not steps:
            continue
        with progress.watch(wave, steps):
            failed = {f.step.key: f for f in _failed(steps, launch or local(processes))}
        failures += failed.values()
        for asked, stages in left.needs.items():
            reason = next((failed[key] for key in (asked, *stages) if key in failed), None)
            if reason is not None and left.steps[asked].stage is None:
                note(left.steps[asked], reason)
        if any(f.error.full_disk for f in failed.values()):
            break
        left = left.without(failed)
        progress.expect(left)
    return failures


def _failed(steps: Sequence[Step], launch: Launch) -> Iterator[Failure]:
    """Run some steps and yield those that failed.

    If the launcher itself fails (a worker was killed, a cluster job ran out of time), the remaining steps are
    launched one by one; if that fails twice in a row, they count as failed.
    """
    left, lost = list(steps), 0
    try:
        for step, error in zip(steps, launch(steps), strict=True):
            left.remove(step)
            if error is not None:
                yield Failure(step, error)
        return
    except Exception as e:
        reason = Error.of(e, steps[0].composed.outputs)
    for step in left:
        if not step.done and len(steps) > 1 and lost < 2:
            try:
                (error,) = launch([step])
                lost = 0
            except Exception as e:
                error, lost = Error.of(e, step.composed.outputs), lost + 1
                reason = error
        else:
            error = None if step.done else reason
        if error is not None:
            yield Failure(step, error)
