"""The walk from one model to another along the checkpoints of their runs."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from gaugeport.utils.files import real

Loader = Callable[[], Any]


def walk(
    ends: tuple[str, str], runs: tuple[Path, Path], base: str | None, opener: Callable[[str], Loader]
) -> list[Loader]:
    """Return the loaders of the models between A and B: back along A's run, the base, and along B's run.

    Args:
        ends: A and B, which are left out where a run holds them.
        runs: The folders of A's and B's runs.
        base: The model that both started from, if it is to be passed.
        opener: Returns a function that loads a model.

    Raises:
        FileNotFoundError: A run does not exist, or holds no checkpoints.
    """
    back, forth = (checkpoints_of(run) for run in runs)
    left_out = {real(Path(name)) for name in ends}

    def loaders(checkpoints: Sequence[Path]) -> list[Loader]:
        return [opener(str(p)) for p in checkpoints if real(p) not in left_out]

    return [*loaders(back[::-1]), *([opener(base)] if base is not None else []), *loaders(forth)]


def checkpoints_of(run: Path) -> list[Path]:
    """Return the checkpoints of a run, ``checkpoint-<step>`` folders, in order of step.

    Raises:
        FileNotFoundError: The folder does not exist, or holds none.
    """
    if not run.is_dir():
        raise FileNotFoundError(f"no run at {run}: expected a folder of checkpoint-<step> folders")
    found = {int(m[1]): p for p in run.iterdir() if (m := re.fullmatch(r"checkpoint-(\d+)", p.name))}
    if not found:
        raise FileNotFoundError(f"no checkpoint-<step> folders in {run}")
    return [found[step] for step in sorted(found)]
