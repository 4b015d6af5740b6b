"""The list stages: importance scores of models A and B at the middle block."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from gaugeport.charts import chart_of
from gaugeport.models.loading import load_model
from gaugeport.pipeline.job import Job
from gaugeport.pipeline.measures.importance import Scores, score_importance
from gaugeport.pipeline.stages.models import model_folder, model_key
from gaugeport.pipeline.stages.rows import heldout_rows
from gaugeport.pipeline.stages.stage import Folders
from gaugeport.streams.activations import middle_site
from gaugeport.texts import row_batches, rows_holding
from gaugeport.utils.devices import default_device

WHOLE, *HALVES = PARTS = ("scores", "first", "second")
"""Files of scores: on all tokens, and on either half, which shows how reproducible a model's list is."""


def lists_key(job: Job, run: str) -> dict[str, Any]:
    """Return what decides the scores: the model, the tokens, and how attributions are computed."""
    task = {k: job.task[k] for k in ("tokens", "ig_steps", "baseline")}
    return {**model_key(job, run), **job.measurement.tokens_left_out(), **task}


def build_lists(job: Job, required: Folders, folder: Path, run: str) -> None:
    """Write float64 scores of every list, a file for each of :data:`PARTS`."""
    path = model_folder(job, required, run)[1]
    model = load_model(path, dtype=torch.float32, device=default_device())
    for part in PARTS:
        save_file(measure_scores(model, job, required["data"], part), folder / f"{part}.safetensors")


def measure_scores(model: Any, job: Job, data: Path, part: str = WHOLE) -> Scores:
    """Compute the scores of a model on one of :data:`PARTS` of the job's held-out tokens.

    Args:
        model: A causal language model.
        job: Says how many tokens, and how attributions are computed.
        data: The folder of the job's data stage.
        part: One of :data:`PARTS`.

    Raises:
        ValueError: There are fewer held-out tokens than ``task.tokens``.
    """
    return score_importance(
        model,
        _batches(job, heldout_rows(data)[1], part),
        middle_site(model, chart_of(model)),
        ig_steps=job.task["ig_steps"],
        baseline=job.task["baseline"],
        skip_first=job.measurement.skip_first,
        massive=job.measurement.massive,
    )


def read_scores(folder: Path, part: str = WHOLE) -> Scores:
    """Read the scores of one of :data:`PARTS` from a list stage."""
    return load_file(folder / f"{part}.safetensors")


def _batches(job: Job, rows: Tensor, part: str) -> list[dict[str, Tensor]]:
    held = rows_holding(rows, job.task["tokens"], job.measurement.skip_first, "task.tokens")
    middle = len(held) // 2
    kept = {WHOLE: held, "first": held[:middle], "second": held[middle:]}[part]
    return list(row_batches(kept, job.measurement.batch_size))
