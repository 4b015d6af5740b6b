"""What failed, kept beside the records until it succeeds: which step, why, and the command that tries it again."""

from __future__ import annotations

import contextlib
import errno
import shutil
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gaugeport.utils.files import write_json

if TYPE_CHECKING:
    from gaugeport.pipeline.execution.plan import Step

NO_ROOM = 2**16
"""Bytes: with less left, a disk is full."""


@dataclass(frozen=True)
class Error:
    """What an exception was, in plain text that can cross from one process to another."""

    message: str
    traceback: str
    full_disk: bool = False

    @classmethod
    def of(cls, e: BaseException, outputs: Path | None = None) -> Error:
        """The error of a caught exception. A full disk is told by the exception, or by having no room at ``outputs``:
        some writers say no more than that they failed."""
        full = any(getattr(cause, "errno", None) == errno.ENOSPC for cause in _causes(e)) or _is_full(outputs)
        said = f"{type(e).__name__}: {e}"
        if full:
            said += "\n  the disk is full: free some of it and give the same command; what is stored is kept"
        return cls(said, "".join(traceback.format_exception(e)), full)


@dataclass(frozen=True)
class Failure:
    """A step that failed."""

    step: Step
    error: Error

    def __str__(self) -> str:
        return f"{self.step.label}\n  {self.error.message}\n  again: {self.step.command}"


def note_path(outputs: Path, job_id: str) -> Path:
    """Where it is noted that a job failed, or would be."""
    return outputs / "failures" / f"{job_id}.json"


def note(job: Step, failure: Failure) -> None:
    """Note that a job failed, or that a stage did which it stands on."""
    path = note_path(job.composed.outputs, job.key)
    with contextlib.suppress(OSError):  # a full disk; the failure is printed all the same
        path.parent.mkdir(parents=True, exist_ok=True)
        failed, error = failure.step.label, failure.error
        said = {"job": job.label, "command": job.command, "failed": failed, "error": error.message}
        write_json(path, {**said, "traceback": error.traceback})


def _causes(e: BaseException | None) -> list[BaseException]:
    return [] if e is None else [e, *_causes(e.__cause__ or e.__context__)]


def _is_full(outputs: Path | None) -> bool:
    return outputs is not None and outputs.exists() and shutil.disk_usage(outputs).free < NO_ROOM
