"""One line per finished step, with its stage, its seconds and an estimate of what is left; nothing in CI.

Steps are watched where they leave their results, so that the lines are the same whatever launched them, here or on
another machine.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from gaugeport.pipeline.execution.plan import Plan, Step
from gaugeport.pipeline.execution.timings import Timings, clock, taken

EVERY = 0.5
"""Seconds between looks."""

TRUSTED = 600.0
"""Seconds that the pace is taken to have been met for at the start: one short step says little of the hours to come."""


class Progress:
    """Lines about the steps of a plan, on stderr; ``processes`` is how many run side by side, as far as is known."""

    def __init__(self, plan: Plan, processes: int):
        self.quiet = "CI" in os.environ or not plan.steps
        self.waiting = dict(plan.steps)
        self.processes = processes
        self.began = time.monotonic()
        self.estimated = 0.0
        if not self.quiet:
            self.timings = Timings.recorded(next(iter(plan.steps.values())).composed.outputs)
            stages = len(plan.steps) - len(plan.needs)
            self.say(f"to do: {plural(len(plan.needs), 'job')} and {plural(stages, 'stage')}; {self.left()}")

    @contextmanager
    def watch(self, wave: str, steps: Sequence[Step]) -> Iterator[None]:
        """While open, says of each of the steps when it is done."""
        if self.quiet:
            yield
            return
        over = threading.Event()
        watcher = threading.Thread(target=self._look, args=(wave, steps, over), daemon=True)
        watcher.start()
        try:
            yield
        finally:
            over.set()
            watcher.join()

    def expect(self, plan: Plan) -> None:
        """From now on count on the steps of ``plan`` alone: others failed, or stand on what failed."""
        self.waiting = {key: step for key, step in self.waiting.items() if key in plan.steps}

    def left(self) -> str:
        """How long what is left will take: by recorded timings, at the pace that they were met with so far."""
        elapsed = time.monotonic() - self.began if self.estimated else 0.0
        pace = (self.estimated + TRUSTED * self.processes) / (elapsed + TRUSTED)
        return f"{self.timings.total(self.waiting.values(), pace)} left"

    def say(self, line: str) -> None:
        """Print a line."""
        print(line, file=sys.stderr, flush=True)

    def _look(self, wave: str, steps: Sequence[Step], over: threading.Event) -> None:
        pending = {s.key: s for s in steps}
        while True:
            last = over.wait(EVERY)
            for key, step in list(pending.items()):
                if step.done:
                    del pending[key]
                    self.waiting.pop(key, None)
                    took = taken(step.result)
                    self.timings.add(step.shape, took)
                    self.estimated += self.timings.of(step.shape) or 0.0
                    done = len(steps) - len(pending)
                    self.say(
                        f"{wave} {done}/{len(steps)} · {step.label} · {clock(took or 0.0)} · {self.left()}"
                    )
            if last:
                return


def plural(n: int, noun: str) -> str:
    """``1 job``, ``2 jobs``."""
    return f"{n} {noun}{'' if n == 1 else 's'}"
