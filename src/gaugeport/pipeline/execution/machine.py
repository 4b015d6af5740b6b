"""Decide what a step gets of the machine it runs on, and refuse what would take too long there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from gaugeport.pipeline.job import Job
from gaugeport.pipeline.stages.evidence import DTYPES
from gaugeport.pipeline.stages.rows import is_pretrained
from gaugeport.pipeline.tasks.registry import task_of
from gaugeport.utils.devices import cpu_threads, default_device, missing_features


@contextmanager
def machine_for(job: Job, threads: int | None = None) -> Iterator[None]:
    """While open, let torch use as many CPU threads as a step of the job gets.

    A model that is trained here gets one thread, whatever the machine and its load, so that its results are
    the same bit for bit; such models are small, and run side by side. A pretrained model gets the step's
    share of the machine, and its results hold to rounding.

    Args:
        job: The job.
        threads: The step's share; None for what torch has in this process (``OMP_NUM_THREADS`` limits it, and
            so do the launchers of clusters).

    Raises:
        ValueError: As :func:`check_precision`.
    """
    check_precision(job)
    with cpu_threads((threads or torch.get_num_threads()) if is_pretrained(job) else 1):
        yield


def check_precision(job: Job) -> None:
    """Refuse a 16-bit dtype on a CPU that cannot compute in it at speed.

    Models trained here are measured in any dtype: they are small, and table d8 compares dtypes on them.

    Raises:
        ValueError: The job would train, or run a pretrained model, in such a dtype; the message names the
            config key.
    """
    if default_device() != "cpu":
        return
    pretrained, stages = is_pretrained(job), set(task_of(job).stages(job))
    trains = bool(stages & {"A", "B"}) or job.task["name"] == "adamw_resume"
    used: dict[str, tuple[bool, str, str]] = {
        "measurement.dtype": (pretrained, job.measurement.dtype, "float32"),
        "training.base.bf16": (
            job.training.base.bf16 and bool(stages) and not pretrained,
            "bfloat16",
            "false",
        ),
        "training.run.bf16": (job.training.run.bf16 and trains, "bfloat16", "false"),
    }
    for key, (is_used, dtype, allowed) in used.items():
        missing = missing_features(DTYPES[dtype]) if is_used else ()
        if missing:
            raise ValueError(
                f"{key}: {dtype} on this CPU can take over 100 times as long as float32, because it has none "
                f"of {', '.join(missing)}; allowed: {key}={allowed}, a GPU, or a CPU with one of these"
            )
