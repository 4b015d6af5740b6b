"""Choose the default device and the number of CPU threads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


def default_device() -> str:
    """Return the device that models run on: ``"cuda"`` if there is a GPU, else ``"cpu"``."""
    return "cuda" if torch.cuda.is_available() else "cpu"


@contextmanager
def cpu_threads(n: int) -> Iterator[None]:
    """While open, let torch use ``n`` CPU threads. On one, sums are always taken in the same order."""
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)
