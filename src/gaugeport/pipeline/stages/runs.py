"""Fine-tuning runs A and B from one base: A sees domain 0 of the texts and then 1, B domain 1 and then 0."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from gaugeport.models.loading import load_model
from gaugeport.pipeline.job import Job
from gaugeport.pipeline.stages.base import base_key
from gaugeport.pipeline.stages.rows import data_key, read_tokenizer, train_rows
from gaugeport.pipeline.stages.stage import Folders
from gaugeport.pipeline.training.trainer import train
from gaugeport.texts import ordered_rows, seen_tokens
from gaugeport.utils.seeds import derive, generator


def run_key(job: Job, run: str) -> dict[str, Any]:
    """Return what decides a fine-tuning run, ``A`` or ``B``."""
    return {
        "base": base_key(job),
        "data": data_key(job),
        "schedule": job.training.run.key(),
        "seed": job.seed,
        "run": run,
    }


def build_run(job: Job, required: Folders, folder: Path, run: str) -> None:
    """Write ``checkpoint-<step>/`` as Trainer does, and ``seen.safetensors``, the token ids of its rows."""
    order = run_rows(job, required["data"], run)
    model = load_model(required["base"], dtype=torch.float32)
    tokenizer, seed = read_tokenizer(required["data"]), derive(job.seed, "run", run)
    train(model, order, folder, job.training.run, seed, keep=None, tokenizer=tokenizer)
    save_file({"seen": seen_tokens(order)}, folder / "seen.safetensors")


def run_rows(job: Job, data: Path, run: str) -> Tensor:
    """Return all rows of a run in their order, int64[steps × batch, length]."""
    domains, schedule = train_rows(data), job.training.run
    return ordered_rows(
        list(domains if run == "A" else domains[::-1]),
        schedule.steps * schedule.batch_size,
        generator(job.seed, "run", run, "data"),
    )


def read_seen_tokens(run: Path) -> Tensor:
    """Return the token ids that a run's rows hold, int64[n]."""
    return load_file(run / "seen.safetensors")["seen"]
