"""Choose the default device and the number of CPU threads, and say which dtypes are slow there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

FEATURES = {
    torch.bfloat16: ("amx_bf16", "avx512_bf16", "avx_ne_convert"),
    torch.float16: ("amx_fp16", "avx512_fp16", "avx_ne_convert"),
}
"""The x86 instruction sets that compute in a 16-bit dtype. Without any of them, a CPU can take over 100 times
as long as in float32."""


def default_device() -> str:
    """Return the device that models run on: ``"cuda"`` if there is a GPU, else ``"cpu"``."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def missing_features(dtype: torch.dtype) -> tuple[str, ...]:
    """Return the CPU features of which one is needed to compute in a dtype at speed, if the CPU has none.

    Empty for float32 and float64, and where the CPU's features are not known (only those of x86 are).
    """
    wanted, has = FEATURES.get(dtype, ()), cpu_features()
    return () if has is None or has & set(wanted) else wanted


def cpu_features() -> set[str] | None:
    """Return the features of this CPU by the names of :data:`FEATURES`; None if they are not known."""
    if hasattr(torch.cpu, "get_capabilities"):
        known = torch.cpu.get_capabilities()
        if known.get("architecture") != "x86_64":
            return None
        return {name for name, present in known.items() if present is True}
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return None
    return next((set(line.split()) for line in lines if line.startswith("flags")), None)


@contextmanager
def cpu_threads(n: int) -> Iterator[None]:
    """While open, let torch use ``n`` CPU threads. On one, sums are always taken in the same order."""
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)
