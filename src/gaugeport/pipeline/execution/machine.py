"""Decide what a step gets of the machine it runs on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from gaugeport.pipeline.job import Job
from gaugeport.pipeline.stages.rows import is_pretrained
from gaugeport.utils.devices import cpu_threads


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
    """
    with cpu_threads((threads or torch.get_num_threads()) if is_pretrained(job) else 1):
        yield
