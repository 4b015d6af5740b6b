"""What is done, failed and missing of a table or sweep, and how much the store holds."""

from __future__ import annotations

import contextlib
import json
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gaugeport.pipeline.config.compose import JobSpec
from gaugeport.pipeline.execution.failures import note_path
from gaugeport.pipeline.job import job_id
from gaugeport.pipeline.store.records import read_records


@dataclass(frozen=True)
class Status:
    """Of some jobs: how many are ``done``; what is noted of the ``failed``; how many are ``missing``; and, where records
    exist that cannot be read, ``unreadable`` says how many and why. Those will be run again, as the missing will."""

    done: int
    failed: list[dict[str, Any]]
    missing: int
    unreadable: str


def status_of(jobs: Sequence[JobSpec]) -> Status:
    """The status of some jobs, from their records and from what is noted of failures."""
    ids = list(dict.fromkeys(job_id(c.job) for c in jobs))
    outputs = jobs[0].outputs
    found = read_records(outputs / "records", ids)
    done = {r.id for r in found.records}
    notes = [note_path(outputs, i) for i in ids if i not in done]
    failed = []
    for path in notes:
        with contextlib.suppress(
            FileNotFoundError, ValueError
        ):  # a run that goes on takes them away; or it is damaged
            failed.append(json.loads(path.read_text()))
    reasons = {"damaged": found.damaged, "of another version": found.outdated}
    unreadable = ", ".join(f"{n} {reason}" for reason, n in reasons.items() if n)
    return Status(len(done), failed, len(ids) - len(done) - len(failed), unreadable)


def store_sizes(root: Path) -> dict[str, tuple[int, int]]:
    """Kind of stage -> (how many, bytes); a file that several names share counts once, for the first."""
    stages: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    seen: set[tuple[int, int]] = set()
    for stage in sorted(p for p in root.glob("*/*") if p.is_dir()):
        kind = stage.parent.name
        stages[kind] += not stage.name.startswith(".")
        for folder, _, files in os.walk(stage):  # goes on where a run that is going takes a folder away
            for file in files:
                with contextlib.suppress(FileNotFoundError):
                    about = os.lstat(os.path.join(folder, file))
                    if (about.st_dev, about.st_ino) not in seen:
                        seen.add((about.st_dev, about.st_ino))
                        sizes[kind] += about.st_size
    return {kind: (stages[kind], sizes[kind]) for kind in sorted(stages)}


def size(n: int) -> str:
    """Bytes in words: ``340 MB``, ``11.2 GB``."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if n >= scale:
            return f"{n / scale:.{1 if unit == 'GB' else 0}f} {unit}"
    return f"{n} B"
