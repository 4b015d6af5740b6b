"""One JSON record per job: its config, its rows, and what made it. Tables are functions of records only."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from gaugeport.store import write_json

SCHEMA = {"steering_sentiment": 3, "refusal": 3, "head_to_head": 3}
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
    try:
        record = Record(**json.loads(path.read_text()))
    except (ValueError, TypeError) as e:
        warnings.warn(f"record {path} is damaged and left out: {e}", stacklevel=2)
        return None
    wanted = schema_of(record.task)
    if record.schema != wanted:
        warnings.warn(f"record {path} has schema {record.schema}, this version reads {wanted}: left out", stacklevel=2)
        return None
    return record


def read_records(folder: Path, ids: Iterable[str]) -> list[Record]:
    """The records of some jobs that exist and can be read, in the order of ``ids``."""
    found = (read_record(record_path(folder, i)) for i in dict.fromkeys(ids) if record_path(folder, i).exists())
    return [r for r in found if r is not None]
