"""Let worker processes end with the command that started them."""

from __future__ import annotations

import functools
import multiprocessing
import os
import threading
import time

POLL_SECONDS = 1.0
"""Seconds between two looks at the parent."""


@functools.cache
def end_with_parent() -> None:
    """Let this process end as soon as the one that started it has, however that ended.

    A pool's workers would otherwise finish what they compute before they notice, up to half an hour later. A
    process that no pool of this machine started is left alone.
    """
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_follow, args=(parent.pid,), daemon=True).start()


def _follow(parent: int | None) -> None:
    while os.getppid() == parent:
        time.sleep(POLL_SECONDS)
    os._exit(1)
