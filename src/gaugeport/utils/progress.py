"""Report how far a long call is. The library only calls a function; drawing is left to the caller."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Progress = Callable[[int, int, str], None]
"""Called as ``progress(done, total, what)`` after every step. ``total`` is 0 where it is not known."""

LONG = 60.0
"""Seconds from which on a call is announced where nothing can be drawn, and between two lines about it."""

SECONDS_OF_PACE = 3.0
"""Seconds after which the pace so far tells how long the rest takes."""


@contextmanager
def progress_bar(calls: int = 0) -> Iterator[Progress | None]:
    """Draw progress as a bar on stderr while open: ``with progress_bar() as bar: f(..., progress=bar)``.

    Where stderr is not a terminal, lines say how much time is left of what takes longer than a minute: the
    first one a few seconds after it began. In CI ``bar`` is None and nothing is drawn.

    Args:
        calls: How many times ``bar`` will be called in all, if that is known. The time left is then that of
            all of them, and not of the kind of step that is being done.
    """
    if sys.stderr.isatty():
        with _bars(calls) as report:
            yield report
    elif "CI" in os.environ:
        yield None
    else:
        yield Lines(calls)


def counting(progress: Progress | None, total: int, what: str) -> Callable[[], None]:
    """Return a function that reports one more of ``total`` steps each time it is called."""
    steps = iter(range(1, total + 1))
    return (lambda: None) if progress is None else lambda: progress(next(steps), total, what)


class Lines:
    """Says on stderr how much time is left of something that takes longer than a minute.

    Args:
        calls: As of :func:`progress_bar`.
        now: The clock, in seconds.
    """

    def __init__(self, calls: int = 0, now: Callable[[], float] = time.monotonic):
        self.calls, self.called = calls, 0
        self.now, self.began = now, now()
        self.what, self.what_began = "", self.began
        self.said: float | None = None

    def __call__(self, done: int, total: int, what: str) -> None:
        """Count a step, and say how long the others take if that is long."""
        now = self.now()
        self.called += 1
        if what != self.what:  # its first step may have begun with what came before it
            self.what, self.what_began = what, self.began if not self.what else now
        since, share = self.what_began, done / total if total else 0.0
        if self.calls:
            since, share = self.began, min(1.0, self.called / self.calls)
        elapsed = now - since
        if not 0 < share < 1 or elapsed < SECONDS_OF_PACE:
            return
        left = elapsed * (1 - share) / share
        due = left + elapsed >= LONG if self.said is None else now - self.said >= LONG
        if due:
            self.said = now
            print(f"{what} · {100 * share:.0f} % · about {clock(left)} left", file=sys.stderr, flush=True)


def clock(seconds: float) -> str:
    """Return seconds in words: ``40 s``, ``12 min``, ``3 h 05 min``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


@contextmanager
def _bars(calls: int) -> Iterator[Progress]:
    from rich.console import Console  # not needed, and slow to load, where nothing is drawn
    from rich.progress import Progress as Bars
    from rich.progress import TaskID

    with Bars(console=Console(stderr=True), transient=True) as bars:
        tasks: dict[str, TaskID] = {}
        whole = bars.add_task("in all", total=calls) if calls else None

        def report(done: int, total: int, what: str) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=total or None)
            bars.update(tasks[what], completed=done)
            if whole is not None:
                bars.advance(whole)

        yield report
