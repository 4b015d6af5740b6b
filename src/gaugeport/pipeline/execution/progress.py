"""Print a line for every finished step, with its seconds and an estimate of what is left; nothing in CI.

Steps that take longer than a minute get lines meanwhile: how long they have run, and how far training is.
On a terminal a bar stands below the lines. Steps are watched where they leave their results, so that the
lines are the same whatever launched them, here or on another machine.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar

from gaugeport.pipeline.execution.plan import JOBS, Plan, Step
from gaugeport.pipeline.execution.timings import Timings, in_words, seconds_taken
from gaugeport.utils.progress import clock

POLL_SECONDS = 0.5
"""Seconds between looks at the steps' results."""

SECONDS_BETWEEN_LINES = 60.0
"""Seconds without a line after which one says what runs; a fifth of the waiting time where that is longer."""

SECONDS_BEFORE_PACE_IS_TRUSTED = 600.0
"""Weight of the recorded timings against the pace so far: one short step says little of the hours to come."""


class Progress:
    """Prints lines about the steps of a plan on stderr.

    Args:
        plan: What is to be done.
        processes: How many steps run side by side, as far as is known.
        quiet: Print nothing.
    """

    def __init__(self, plan: Plan, processes: int, quiet: bool = False):
        self.quiet = quiet or "CI" in os.environ or not plan.steps
        self.console = Console(stderr=True, highlight=False, soft_wrap=True)
        self.waiting = dict(plan.steps)
        self.processes = processes
        self.began, self.began_at = time.monotonic(), time.time()
        self.estimated = 0.0
        if not self.quiet:
            self.timings = Timings.recorded(next(iter(plan.steps.values())).composed.outputs)
            jobs = len(plan.wave(JOBS))
            guessed = self.timings.are_guesses(plan.steps.values())
            how = ", guessed from the size of the model" if guessed else ""
            counts = [plural(jobs, "job")] if jobs else []
            counts.append(plural(len(plan.steps) - jobs, "stage"))
            self.say(f"to do: {' and '.join(counts)}; {self.left()}{how}")

    @contextmanager
    def watch(self, wave: str, steps: Sequence[Step]) -> Iterator[None]:
        """Print a line for each of the steps when it is done, for as long as the context is open."""
        if self.quiet:
            yield
            return
        columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
        over = threading.Event()
        with Bar(*columns, console=self.console, transient=True, disable=not self.console.is_terminal) as bar:
            watcher = threading.Thread(target=self._watch, args=(wave, steps, over, bar), daemon=True)
            watcher.start()
            try:
                yield
            finally:
                over.set()
                watcher.join()

    def expect(self, plan: Plan) -> None:
        """From now on count on the steps of ``plan`` alone: the others failed, or require what failed."""
        self.waiting = {key: step for key, step in self.waiting.items() if key in plan.steps}

    def left(self, waited: float = 0.0) -> str:
        """Return how long the remaining steps take, by recorded timings and the pace of this run so far.

        Args:
            waited: Seconds that have passed since the last of them was finished.
        """
        elapsed = time.monotonic() - self.began - waited if self.estimated else 0.0
        trusted = SECONDS_BEFORE_PACE_IS_TRUSTED
        pace = (self.estimated + trusted * self.processes) / (elapsed + trusted)
        seconds, untimed = self.timings.expected(self.waiting.values())
        expected = seconds / pace - waited
        # a training under way tells better than the seconds of others how long it will still take
        trainings = (training_left(step, self.began_at) for step in self.waiting.values())
        training = max(trainings, default=0.0)
        if seconds and max(expected, training) <= 0:
            return "longer than expected"
        return f"{in_words(max(expected, training), untimed)} left"

    def say(self, line: str) -> None:
        """Print a line, above the bar if there is one."""
        self.console.print(line, markup=False)

    def _watch(self, wave: str, steps: Sequence[Step], over: threading.Event, bar: Bar) -> None:
        pending = {s.key: s for s in steps}
        task = bar.add_task(wave, total=len(steps))
        last = False
        began = finished = said = time.monotonic()
        while not last:
            last = over.wait(POLL_SECONDS)
            now = time.monotonic()
            for key, step in list(pending.items()):
                if not step.done:
                    continue
                del pending[key]
                finished = said = now
                self.waiting.pop(key, None)
                seconds = seconds_taken(step.result)
                self.timings.add(step.shape, seconds)
                self.estimated += self.timings.of(step.shape, step.parameters) or 0.0
                done = len(steps) - len(pending)
                bar.update(task, completed=done)
                self.say(
                    f"{wave} {done}/{len(steps)} · {step.label} · {clock(seconds or 0.0)} · {self.left()}"
                )
            waited = now - finished
            if pending and not last and now - said >= max(SECONDS_BETWEEN_LINES, waited / 5):
                said = now
                first = "; ".join(f"{s.label}{trained(s)}" for s in list(pending.values())[: self.processes])
                count = f"{wave} {len(steps) - len(pending)}/{len(steps)}"
                self.say(f"{count} · {first} · {clock(now - began)} so far · {self.left(waited)}")


def trained(step: Step) -> str:
    """Return how far a stage's training is by its newest checkpoint (``, step 300 of 1500``), or nothing."""
    saved = _checkpoints(step)
    return f", step {max(saved)} of {step.shape['schedule']['steps']}" if saved else ""


def training_left(step: Step, since: float) -> float:
    """Return how many seconds a stage's training still takes at the pace of its log.

    Args:
        step: The stage.
        since: When this command began, in seconds since 1970: an older checkpoint is gone on from since then.

    Returns:
        The seconds; 0 where the log of the newest checkpoint says nothing of the pace.
    """
    saved = _checkpoints(step)
    if not saved:
        return 0.0
    last = max(saved)
    try:
        state = saved[last] / "trainer_state.json"
        written, lines = state.stat().st_mtime, json.loads(state.read_text())["log_history"]
    except (OSError, ValueError, KeyError):  # it is being written, or was finished just now
        return 0.0
    # the log's seconds leave out the time between a kill and the command that goes on
    timed = [(line["step"], line["seconds"]) for line in lines if "seconds" in line]
    if len(timed) < 2:
        return 0.0
    (step_before, before), (step_last, after) = timed[-2:]
    pace = (after - before) / (step_last - step_before)
    return pace * (step.shape["schedule"]["steps"] - last) - (time.time() - max(written, since))


def _checkpoints(step: Step) -> dict[int, Path]:
    """Return the checkpoints of a stage in training, by step."""
    return {int(p.name.removeprefix("checkpoint-")): p for p in step.unfinished.glob("**/checkpoint-*")}


def plural(n: int, noun: str) -> str:
    """Return ``1 job``, ``2 jobs``."""
    return f"{n} {noun}{'' if n == 1 else 's'}"
