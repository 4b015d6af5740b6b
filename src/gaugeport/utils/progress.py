"""Report how far a long call is. The library only calls a function; drawing is left to the caller."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Progress = Callable[[int, int, str], None]
"""Called as ``progress(done, total, what)`` after every step. ``total`` is 0 where it is not known."""


@contextmanager
def progress_bar() -> Iterator[Progress | None]:
    """Draw progress as a bar on stderr while open: ``with progress_bar() as bar: f(..., progress=bar)``.

    Where stderr is not a terminal, ``bar`` is None and nothing is drawn.
    """
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console  # not needed, and slow to load, where nothing is drawn
    from rich.progress import Progress as Bars
    from rich.progress import TaskID

    with Bars(console=Console(stderr=True), transient=True) as bars:
        tasks: dict[str, TaskID] = {}

        def report(done: int, total: int, what: str) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=total or None)
            bars.update(tasks[what], completed=done)

        yield report
