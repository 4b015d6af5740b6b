"""Jobs that train nothing, or next to nothing: the gauge groups of random models, the ceiling of raw matching."""

from __future__ import annotations

from typing import Any

import torch

from gaugeport.charts import chart_of
from gaugeport.models.loading import load_model
from gaugeport.pipeline.data import row_batches
from gaugeport.pipeline.job import Job
from gaugeport.pipeline.measures.gauge_groups import gauge_group_rows
from gaugeport.pipeline.measures.optimizers import optimizer_rows
from gaugeport.pipeline.measures.sign_ceiling import sign_ceiling_rows, synthetic_activations, whiten
from gaugeport.pipeline.stages.training import base_stage, heldout_rows, run_checkpoints
from gaugeport.pipeline.store.store import Store
from gaugeport.streams.activations import middle_site, streams_at
from gaugeport.utils.devices import default_device
from gaugeport.utils.seeds import generator

Row = dict[str, Any]


def measure_gauge_groups(job: Job, store: Store) -> list[Row]:
    """Table a1: every family's rows."""
    return [{"model": f, **row} for f in job.task["families"] for row in gauge_group_rows(f, job.seed)]


def measure_optimizers(job: Job, store: Store) -> list[Row]:
    """Table c4: every optimizer's rows, on small random models."""
    task = job.task
    return [
        {"model": f, **row}
        for f in task["families"]
        for o in task["optimizers"]
        for row in optimizer_rows(o, f, job.seed)
    ]


def measure_sign_ceiling(job: Job, store: Store) -> list[Row]:
    """Table a2: on synthetic activations, or on those of the base model and run A's first checkpoint."""
    return sign_ceiling_rows(*_activations(job, store), job.task["shares"], job.seed)


def _activations(job: Job, store: Store) -> tuple[torch.Tensor, torch.Tensor]:
    task = job.task
    source = task["activations"]
    if source in ("decorrelated", "correlated"):
        gen = generator(job.seed, "ceiling", source)
        return synthetic_activations(
            task["width"], task["tokens"], source == "correlated", task["noise"], gen
        )
    first = min(run_checkpoints(job, store, "A"))
    rows = heldout_rows(job, store)[0][: task["tokens"] // job.data.length]
    found = []
    for path in (base_stage(job, store), run_checkpoints(job, store, "A")[first]):
        model = load_model(path, dtype=torch.float32, device=default_device())
        chart = chart_of(model)
        site = middle_site(model, chart)
        batches = row_batches(rows, job.measurement.batch_size)
        parts = [streams_at(model, chart, b, [site], job.measurement.skip_first)[site] for b in batches]
        found.append(torch.cat(parts))
    a, b = (whiten(x) if source == "real_whitened" else x for x in found)
    return a, b
