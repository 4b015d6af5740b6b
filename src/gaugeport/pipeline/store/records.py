"""One JSON record per job: its config, its rows, and what made it. Tables are functions of records only."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from gaugeport.utils.files import write_json

SCHEMA = {
    "steering_sentiment": 3,
    "refusal": 4,
    "head_to_head": 5,
    "audit": 3,
    "lenses": 3,
    "cross_seed": 3,
    "joint_alignment": 3,
    "universality": 4,
    "firing": 3,
    "checkpoints": 3,
    "regimes": 4,
    "haar": 3,
    "haar_power": 3,
    "independence": 3,
}
"""By task, 2 for the others. Raised when what a task measures changes; records of another schema are measured anew,
never read into tables."""


@dataclass(frozen=True)
class Record:
    """The result of one job: ``id`` is the job's hash, ``rows`` are flat measurements, ``seconds`` its wall time.

    ``files`` are the local files and folders it read, with the digests of their contents, by config key.
    """

    id: str
    task: str
    config: dict[str, Any]
    rows: list[dict[str, Any]]
    seconds: float
    versions: dict[str, str]
    schema: int
    files: dict[str, str] = field(default_factory=dict)


def schema_of(task: str) -> int:
    """The version of a task's measurements that tables are made of."""
    return SCHEMA.get(task, 2)


def record_path(folder: Path, job_id: str) -> Path:
    """Where the record of a job lies, or would."""
    return folder / f"{job_id}.json"


def write_record(folder: Path, record: Record) -> Path:
    """Write a record aside and rename it. A record is only ever replaced by one of the same job."""
    path = record_path(folder, record.id)
    write_json(path, asdict(record))
    return path


def read_record(path: Path) -> Record | None:
    """A record, or None with a warning naming the file when it is damaged or of another schema."""
    found = _parsed(path)
    if isinstance(found, Record):
        return found
    warnings.warn(f"record {path} {found}: left out", stacklevel=2)
    return None


@dataclass(frozen=True)
class Found:
    """The records of some jobs, and how many of the jobs have none that can be read, by reason."""

    records: list[Record]
    damaged: int
    outdated: int
    missing: int

    @property
    def jobs(self) -> int:
        """How many jobs were asked for."""
        return len(self.records) + self.damaged + self.outdated + self.missing

    @property
    def lacking(self) -> str:
        """What is lacking, in words; empty where nothing is."""
        reasons = {"damaged": self.damaged, "of another version": self.outdated, "not run": self.missing}
        return ", ".join(f"{n} {reason}" for reason, n in reasons.items() if n)


def read_records(folder: Path, ids: Iterable[str]) -> Found:
    """The records of some jobs, in the order of ``ids``. Damaged ones and those of another schema are warned of by name,
    counted, and left out."""
    records, reasons = [], []
    for job_id in dict.fromkeys(ids):
        path = record_path(folder, job_id)
        found = _parsed(path) if path.exists() else "missing"
        if isinstance(found, Record):
            records.append(found)
            continue
        if found != "missing":
            warnings.warn(f"record {path} {found}: left out", stacklevel=2)
        reasons.append(found.split()[1] if found != "missing" else found)
    return Found(records, reasons.count("damaged"), reasons.count("outdated"), reasons.count("missing"))


def _parsed(path: Path) -> Record | str:
    try:
        record = Record(**json.loads(path.read_text()))
        wanted = schema_of(record.task)
    except (ValueError, TypeError, OSError) as e:
        return f"is damaged ({e})"
    if record.schema != wanted:
        return f"is outdated (schema {record.schema}, this version reads {wanted})"
    return record
