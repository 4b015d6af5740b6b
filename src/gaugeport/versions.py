"""What made an artifact: package versions and the commit, for manifests and records."""

from __future__ import annotations

import functools
import importlib.metadata
import platform
import subprocess
from pathlib import Path

PACKAGES = ("gaugeport", "torch", "transformers", "datasets", "scipy", "numpy", "pandas", "hydra-core", "wandb")


@functools.cache
def versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide a result, and the checkout's commit where there is one."""
    found = {name: importlib.metadata.version(name) for name in PACKAGES}
    return {"python": platform.python_version(), "machine": platform.machine(), "commit": _commit(), **found}


def _commit() -> str:
    here = Path(__file__).parent
    asked = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=here, capture_output=True, text=True)
    return asked.stdout.strip() if asked.returncode == 0 else "unknown"
