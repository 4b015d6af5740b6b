"""Models A and B of a job: the last checkpoints of its runs, or with ``task.target=self`` the base."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gaugeport.pipeline.job import Job
from gaugeport.pipeline.stages.base import base_key
from gaugeport.pipeline.stages.rows import data_key
from gaugeport.pipeline.stages.runs import run_key
from gaugeport.pipeline.stages.stage import Folders
from gaugeport.pipeline.training.trainer import checkpoints

SELF = "self"
"""The target that trains nothing: A is the base model, and B is A in other coordinates."""

COPIES = (SELF, "identical")
"""Targets whose B computes what A computes, so that only the gauge differs."""


def is_copy(job: Job) -> bool:
    """Return whether B is A in other coordinates."""
    return job.task.get("target") in COPIES


def model_stage(job: Job, run: str = "A") -> str:
    """Return the name of the stage that holds model ``run``."""
    return "base" if job.task.get("target") == SELF else run


def model_key(job: Job, run: str = "A") -> dict[str, Any]:
    """Return what decides model ``run`` and the texts that things are measured on."""
    if model_stage(job, run) == "base":
        return {"base": base_key(job), "data": data_key(job)}
    return {"run": run_key(job, run)}


def model_folder(job: Job, folders: Folders, run: str = "A") -> tuple[int, Path]:
    """Return the step and the folder of model ``run``; the base has step 0.

    Args:
        job: The job.
        folders: The folders of its required stages.
        run: ``A`` or ``B``.
    """
    folder = folders[model_stage(job, run)]
    if model_stage(job, run) == "base":
        return 0, folder
    saved = checkpoints(folder)
    return max(saved), saved[max(saved)]
