"""Failures, kept beside the records until the step succeeds: which, why, and the command to run again."""

from __future__ import annotations

import contextlib
import errno
import shutil
import traceback
from dataclasses import dataclass
from pathlib import Path

from gaugeport.pipeline.execution.plan import Step
from gaugeport.utils.files import write_json

FULL_DISK_BYTES = 2**16
"""With less free space than this, a disk counts as full."""


@dataclass(frozen=True)
class Error:
    """An exception as plain text, which can be passed between processes."""

    message: str
    traceback: str
    full_disk: bool = False

    @classmethod
    def of(cls, e: BaseException, outputs: Path | None = None) -> Error:
        """Describe a caught exception.

        A full disk is recognised by the exception or by the free space at ``outputs``: some writers only
        report that they failed.
        """
        full = any(getattr(cause, "errno", None) == errno.ENOSPC for cause in _causes(e)) or _is_full(outputs)
        message = f"{type(e).__name__}: {e}"
        if full:
            message += (
                "\n  the disk is full: free some space and run the same command; what is stored is kept"
            )
        return cls(message, "".join(traceback.format_exception(e)), full)


@dataclass(frozen=True)
class Failure:
    """A step that failed."""

    step: Step
    error: Error

    def __str__(self) -> str:
        return f"{self.step.label}\n  {self.error.message}\n  again: {self.step.command}"


def note_path(outputs: Path, job_id: str) -> Path:
    """Return the path of the note that a job failed, whether it exists or not."""
    return outputs / "failures" / f"{job_id}.json"


def note(job: Step, failure: Failure) -> None:
    """Write a note that a job failed, or that a stage it requires did."""
    path = note_path(job.composed.outputs, job.key)
    with contextlib.suppress(OSError):  # a full disk; the failure is printed all the same
        path.parent.mkdir(parents=True, exist_ok=True)
        error = failure.error
        content = {
            "job": job.label,
            "command": job.command,
            "failed": failure.step.label,
            "error": error.message,
            "traceback": error.traceback,
        }
        write_json(path, content)


def _causes(e: BaseException | None) -> list[BaseException]:
    return [] if e is None else [e, *_causes(e.__cause__ or e.__context__)]


def _is_full(outputs: Path | None) -> bool:
    return outputs is not None and outputs.exists() and shutil.disk_usage(outputs).free < FULL_DISK_BYTES
