"""Base models: fetched from the hub or a package, or trained here, with or without their checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from gaugeport.pipeline.job import Job
from gaugeport.pipeline.stages.fetched import fetch_model
from gaugeport.pipeline.stages.rows import (
    all_train_rows,
    data_key,
    is_pretrained,
    pretrained_identity,
    read_tokenizer,
)
from gaugeport.pipeline.stages.stage import Folders
from gaugeport.pipeline.training.trainer import train
from gaugeport.texts import mixed_rows
from gaugeport.utils.seeds import derive, generator


def base_key(job: Job) -> dict[str, Any]:
    """Return what decides the base model."""
    if is_pretrained(job):
        return {"model": pretrained_identity(job, job.seed)}
    return {
        "architecture": job.model.architecture,
        "data": data_key(job),
        "schedule": job.training.base.key(),
        "seed": job.seed,
    }


def build_base(job: Job, required: Folders, folder: Path) -> None:
    """Write the base model as ``save_pretrained`` does: fetched from its source, or trained from scratch."""
    if is_pretrained(job):
        return fetch_model(job, folder)
    _pretrain(job, required["data"], folder, keep=1)


def build_pretraining(job: Job, required: Folders, folder: Path) -> None:
    """Write the base model with every checkpoint of its training, ``training/checkpoint-<step>/``.

    The model is bit for bit that of :func:`build_base`.

    Raises:
        ValueError: The model is not trained here.
    """
    if is_pretrained(job):
        raise ValueError(
            f"model={job.model.name} is not trained here: its run has no checkpoints of its own to keep"
        )
    _pretrain(job, required["data"], folder, keep=None)


def initialise(job: Job, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    """Return the model that training from scratch starts from, step 0 of the run."""
    ids = {f"{k}_token_id": getattr(tokenizer, f"{k}_token_id") for k in ("bos", "eos", "pad")}
    architecture = {**job.model.architecture, "vocab_size": len(tokenizer), **ids}
    config = AutoConfig.for_model(architecture.pop("model_type"), **architecture)
    with torch.random.fork_rng():
        torch.manual_seed(derive(job.seed, "init"))
        return AutoModelForCausalLM.from_config(config, dtype=torch.float32)


def _pretrain(job: Job, data: Path, folder: Path, keep: int | None) -> None:
    tokenizer, schedule = read_tokenizer(data), job.training.base
    order = mixed_rows(
        all_train_rows(data), schedule.steps * schedule.batch_size, generator(job.seed, "base", "data")
    )
    model, seed = initialise(job, tokenizer), derive(job.seed, "base")
    train(model, order, folder / "training", schedule, seed, keep=keep, tokenizer=tokenizer)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
