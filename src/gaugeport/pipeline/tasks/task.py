"""What a task is: what its jobs require, what they may ask for, and what they measure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from gaugeport.pipeline.job import Job
from gaugeport.pipeline.stages.stage import Built, requires_nothing

Row = dict[str, Any]
"""One flat measurement: ``metric``, ``value``, and what tells it from the job's other rows."""


def accepts_anything(job: Job) -> None:
    """Accept every job."""


@dataclass(frozen=True)
class Task:
    """One task. Its file is named like its config in ``conf/task/`` and defines it as ``TASK``.

    Attributes:
        measure: Return the rows of a job, given the folders of its required stages.
        stages: Name the stages that a job requires, in an order in which they can be built. Raises
            ``ValueError`` for a job that cannot run with its seed.
        check: Raise ``ValueError`` for a setting that is not allowed, before anything is built. It must not
            look at the seed: jobs of a sweep that differ in the seed alone are checked once.
    """

    measure: Callable[[Job, Built], list[Row]]
    stages: Callable[[Job], tuple[str, ...]] = requires_nothing
    check: Callable[[Job], None] = accepts_anything
