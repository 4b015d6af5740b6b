"""Call a function on many arguments in forked processes, which inherit what they read and only return
results."""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any

_work: tuple[Callable[..., Any], Sequence[tuple[Any, ...]]] | None = None


def map_forked(function: Callable[..., Any], arguments: Sequence[tuple[Any, ...]]) -> list[Any]:
    """Return ``function(*a)`` for every ``a`` of ``arguments``, in order.

    Runs in this process where forking is impossible or unsafe (other threads are running, as a tracker's),
    and where there is only one processor or one argument.
    """
    global _work
    processes = min(len(arguments), len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1)
    if processes < 2 or threading.active_count() > 1:
        return [function(*a) for a in arguments]
    _work = function, arguments
    try:
        with multiprocessing.get_context("fork").Pool(processes, _use_one_thread) as pool:
            return pool.map(_call, range(len(arguments)), chunksize=1)
    finally:
        _work = None


def _call(i: int) -> Any:
    assert _work is not None
    function, arguments = _work
    return function(*arguments[i])


def _use_one_thread() -> None:
    """Keep torch from its thread pool, which a forked process has not."""
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)
