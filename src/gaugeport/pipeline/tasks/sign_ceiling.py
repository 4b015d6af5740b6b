"""Table a2: raw matching is capped at the share of positive signs; on synthetic or on real activations."""

from __future__ import annotations

from pathlib import Path

import torch

from gaugeport.charts import chart_of
from gaugeport.models.loading import load_model
from gaugeport.pipeline.job import Job
from gaugeport.pipeline.measures.sign_ceiling import (
    ACTIVATIONS,
    sign_ceiling_rows,
    synthetic_activations,
    whiten,
)
from gaugeport.pipeline.stages.rows import heldout_rows
from gaugeport.pipeline.stages.stage import Built
from gaugeport.pipeline.tasks.shared.checks import check_choice, check_language_model
from gaugeport.pipeline.tasks.task import Row, Task
from gaugeport.pipeline.training.trainer import checkpoints
from gaugeport.streams.activations import middle_site, streams_at
from gaugeport.streams.massive import leave_out_massive
from gaugeport.texts import row_batches
from gaugeport.utils.devices import default_device
from gaugeport.utils.seeds import generator

SYNTHETIC = ("decorrelated", "correlated")
"""Kinds of activations that are drawn; the others are recorded on models."""


def check(job: Job) -> None:
    """Check which activations are asked for.

    Raises:
        ValueError: ``task.activations`` is unknown.
    """
    check_language_model(job)
    check_choice(job, "activations", tuple(ACTIVATIONS))


def stages(job: Job) -> tuple[str, ...]:
    """Return both runs for real activations, and nothing for synthetic ones."""
    return () if job.task["activations"] in SYNTHETIC else ("data", "base", "A", "B")


def measure(job: Job, built: Built) -> list[Row]:
    """Return the rows of both matchers over the shares of positive signs."""
    kind = job.task["activations"]
    a, b = _synthetic(job) if kind in SYNTHETIC else _real(job, built)
    if kind == "real_whitened":
        a, b = whiten(a), whiten(b)
    return sign_ceiling_rows(a, b, job.task["shares"], job.seed)


def _synthetic(job: Job) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw activations of both sides."""
    task, kind = job.task, job.task["activations"]
    gen = generator(job.seed, "ceiling", kind)
    return synthetic_activations(task["width"], task["tokens"], kind == "correlated", task["noise"], gen)


def _real(job: Job, built: Built) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the streams of the base model and of run A's first checkpoint at the mid-stack site."""
    saved = checkpoints(built["A"])
    rows = heldout_rows(built["data"])[0][: job.task["tokens"] // job.data.length]
    streams = (_stream(job, folder, rows) for folder in (built["base"], saved[min(saved)]))
    a, b = leave_out_massive(*streams, massive=job.measurement.massive)
    return a, b


def _stream(job: Job, folder: Path, rows: torch.Tensor) -> torch.Tensor:
    """Return a saved model's stream at its mid-stack site, float32[tokens, d]."""
    model = load_model(folder, dtype=torch.float32, device=default_device())
    chart = chart_of(model)
    site = middle_site(model, chart)
    batches = row_batches(rows, job.measurement.batch_size)
    parts = [streams_at(model, chart, b, [site], job.measurement.skip_first)[site] for b in batches]
    return torch.cat(parts)


TASK = Task(measure, stages, check)
