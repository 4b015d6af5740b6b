"""Count what is done, failed and missing of a table or sweep, and how much the store holds."""

from __future__ import annotations

import contextlib
import json
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gaugeport.pipeline.execution.failures import note_path
from gaugeport.pipeline.job import JobSpec, job_id
from gaugeport.pipeline.store.records import read_records


@dataclass(frozen=True)
class Status:
    """The status of some jobs.

    Attributes:
        done: How many have a record.
        failed: The notes of those that failed.
        missing: How many have neither.
        unreadable: How many records cannot be read and why; those jobs are run again, as the missing are.
    """

    done: int
    failed: list[dict[str, Any]]
    missing: int
    unreadable: str


def status_of(jobs: Sequence[JobSpec]) -> Status:
    """Return the status of some jobs, from their records and the notes of failures."""
    ids = list(dict.fromkeys(job_id(spec.job) for spec in jobs))
    outputs = jobs[0].outputs
    found = read_records(outputs / "records", ids)
    done = {r.id for r in found.records}
    failed = []
    for path in (note_path(outputs, i) for i in ids if i not in done):
        # a job that succeeds meanwhile removes its note, and a note may be damaged
        with contextlib.suppress(FileNotFoundError, ValueError):
            failed.append(json.loads(path.read_text()))
    reasons = {"damaged": found.damaged, "of another version": found.outdated}
    unreadable = ", ".join(f"{n} {reason}" for reason, n in reasons.items() if n)
    return Status(len(done), failed, len(ids) - len(done) - len(failed), unreadable)


def store_sizes(root: Path) -> dict[str, tuple[int, int]]:
    """Return kind of stage -> (how many, bytes); a file with several names counts once, for the first."""
    stages: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    seen: set[tuple[int, int]] = set()
    for stage in sorted(p for p in root.glob("*/*") if p.is_dir()):
        kind = stage.parent.name
        stages[kind] += not stage.name.startswith(".")
        for folder, _, files in os.walk(stage):  # skips a folder that a run removes meanwhile
            for file in files:
                with contextlib.suppress(FileNotFoundError):
                    about = os.lstat(os.path.join(folder, file))
                    if (about.st_dev, about.st_ino) not in seen:
                        seen.add((about.st_dev, about.st_ino))
                        sizes[kind] += about.st_size
    return {kind: (stages[kind], sizes[kind]) for kind in sorted(stages)}


def size(n: int) -> str:
    """Return bytes in words: ``340 MB``, ``11.2 GB``."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if n >= scale:
            return f"{n / scale:.{1 if unit == 'GB' else 0}f} {unit}"
    return f"{n} B"
