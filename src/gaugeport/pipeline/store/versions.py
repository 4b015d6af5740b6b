"""Package versions, the commit and the machine that made an artifact, for manifests and records."""

from __future__ import annotations

import functools
import importlib.metadata
import os
import platform
import re
import subprocess
from pathlib import Path

PACKAGES = (
    "gaugeport",
    "torch",
    "transformers",
    "datasets",
    "scipy",
    "numpy",
    "pandas",
    "hydra-core",
    "wandb",
)


@functools.cache
def versions() -> dict[str, str]:
    """Return the versions of Python and of packages that decide results, the commit and the machine."""
    found = {name: importlib.metadata.version(name) for name in PACKAGES}
    return {"python": platform.python_version(), "machine": _machine(), "commit": _commit(), **found}


def _machine() -> str:
    """``x86_64 Intel(R) Xeon(R) Processor, 2 cores, no GPU``"""
    about = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*: (.*)", about.read_text()) if about.exists() else []
    import torch  # takes seconds

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    return (
        f"{platform.machine()} {names[0] if names else platform.processor()}, {os.cpu_count()} cores, {gpu}"
    )


def _commit() -> str:
    here = Path(__file__).parent
    asked = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=here, capture_output=True, text=True
    )
    return asked.stdout.strip() if asked.returncode == 0 else "unknown"
