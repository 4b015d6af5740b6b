"""One JSON record per job: its config, its rows, and the versions that made it.

Tables are functions of records.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gaugeport.utils.files import write_text

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
"""Version of each task's measurements, 2 for the others. Raise it when a task measures something else:
records of another version are re-measured, and never read into tables."""


@dataclass(frozen=True)
class Record:
    """The result of one job: ``id`` is the job's hash, ``rows`` are flat measurements, ``seconds`` its wall
    time.

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
    """Return the version of a task's measurements that tables are made of."""
    return SCHEMA.get(task, 2)


def record_path(folder: Path, job_id: str) -> Path:
    """Return the path of a job's record, whether it exists or not."""
    return folder / f"{job_id}.json"


def write_record(folder: Path, record: Record) -> Path:
    """Write a record atomically. A record is only ever replaced by one of the same job."""
    path = record_path(folder, record.id)
    write_text(path, _text(record))
    return path


def _text(record: Record) -> str:
    """Return a record as JSON: a line per field, and per measurement of ``rows``, of which some have 20,000.

    Raises:
        ValueError: A value is NaN or infinite.
    """
    # indented by json itself, it would take five times as long: only lines without indent are encoded in C
    encode = json.JSONEncoder(sort_keys=True, allow_nan=False).encode
    fields = {name: encode(value) for name, value in vars(record).items() if name != "rows"}
    fields["rows"] = "[\n" + ",\n".join(map(encode, record.rows)) + "\n]"
    return "{\n" + ",\n".join(f'"{name}": {fields[name]}' for name in sorted(fields)) + "\n}\n"


def has_record(folder: Path, job_id: str) -> bool:
    """Return whether a job's record exists and can be read; warn if it exists and cannot."""
    path = record_path(folder, job_id)
    return path.exists() and read_record(path) is not None


def read_record(path: Path) -> Record | None:
    """Read a record; return None, with a warning naming the file, if it is damaged or of another version."""
    record = _parsed(path)
    if isinstance(record, Record):
        return record
    warnings.warn(f"record {path} {record}: left out", stacklevel=2)
    return None


@dataclass(frozen=True)
class Found:
    """The records of some jobs, and how many jobs have no readable record, by reason."""

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
        """Say which records are missing and why; an empty text where none is."""
        reasons = {"damaged": self.damaged, "of another version": self.outdated, "not run": self.missing}
        return ", ".join(f"{n} {reason}" for reason, n in reasons.items() if n)


def read_records(folder: Path, ids: Iterable[str]) -> Found:
    """Read the records of some jobs, in the order of ``ids``.

    Damaged records and those of another version are counted and left out, with a warning that names them.
    """
    records, reasons = [], []
    for job_id in dict.fromkeys(ids):
        path = record_path(folder, job_id)
        record = _parsed(path) if path.exists() else "missing"
        if isinstance(record, Record):
            records.append(record)
            continue
        if record != "missing":
            warnings.warn(f"record {path} {record}: left out", stacklevel=2)
        reasons.append(record.split()[1] if record != "missing" else record)
    return Found(records, reasons.count("damaged"), reasons.count("outdated"), reasons.count("missing"))


def _parsed(path: Path) -> Record | str:
    """Return a record, or what is wrong with it: ``is damaged (…)`` or ``is outdated (…)``."""
    try:
        record = Record(**json.loads(path.read_text()))
        expected = schema_of(record.task)
    except (ValueError, TypeError, OSError) as e:
        return f"is damaged ({e})"
    if record.schema != expected:
        return f"is outdated (schema {record.schema}, this version reads {expected})"
    return record
