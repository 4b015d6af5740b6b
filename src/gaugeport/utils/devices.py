"""Choose the default device and the number of CPU threads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


def default_device() -> str:
    """Return the device that models run on: ``"cuda"`` if there is a GPU, else ``"cpu"``."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def use_one_thread() -> None:
    """Let torch use one CPU thread from now on. For worker processes that run side by side."""
    torch.set_num_threads(1)


@contextmanager
def one_thread() -> Iterator[None]:
    """While open, let torch use one CPU thread, so that sums are always taken in the same order."""
    before = torch.get_num_threads()
    use_one_thread()
    try:
        yield
    finally:
        torch.set_num_threads(before)
