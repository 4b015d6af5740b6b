"""Tasks by name: ``conf/task/<name>.yaml`` declares one, ``pipeline/tasks/<name>.py`` defines it."""

from __future__ import annotations

import functools
import importlib
from typing import Any

from gaugeport.pipeline.job import Job
from gaugeport.pipeline.paths import data_dir
from gaugeport.pipeline.stages.catalogue import keys_of
from gaugeport.pipeline.tasks.task import Task


def task_names() -> list[str]:
    """Return the names of all tasks."""
    return sorted(p.stem for p in (data_dir("conf") / "task").glob("*.yaml"))


@functools.cache
def task_named(name: str) -> Task:
    """Return a task by name.

    Raises:
        ValueError: The name is unknown, or its file defines no ``TASK``; the message lists the known names.
    """
    if name not in task_names():
        raise ValueError(f"task.name={name!r} is unknown; allowed: {', '.join(task_names())}")
    try:
        task = importlib.import_module(f"gaugeport.pipeline.tasks.{name}").TASK
    except (ModuleNotFoundError, AttributeError) as e:
        raise ValueError(f"task {name}: src/gaugeport/pipeline/tasks/{name}.py must define TASK ({e})") from e
    return task


def task_of(job: Job) -> Task:
    """Return the task of a job."""
    return task_named(job.task["name"])


def stage_keys(job: Job) -> dict[str, dict[str, Any]]:
    """Return what decides each stage that a job requires, by name, in an order in which they can be built."""
    return keys_of(job, task_of(job).stages(job))
