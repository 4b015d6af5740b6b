"""Training runs through ``transformers.Trainer``, resumable from the last complete checkpoint."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.utils.data import Dataset
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Trainer,
    TrainingArguments,
    default_data_collator,
)
from transformers.trainer_callback import PrinterCallback, TrainerCallback

from gaugeport.models.loading import load_model
from gaugeport.pipeline.job import Schedule
from gaugeport.transport.optimizer_checkpoint import OPTIMIZER_FILE
from gaugeport.utils.seeds import derive

STATE_FILE = "trainer_state.json"
"""The file of a checkpoint that is written last; it holds the log of the run so far."""


class Rows(Dataset):
    """Packed rows int64[n, length] as causal language modelling examples, in order."""

    def __init__(self, rows: Tensor):
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"input_ids": self.rows[index], "labels": self.rows[index]}


class DropMoments(TrainerCallback):
    """Deletes AdamW's moments from all checkpoints but those of some steps and the newest.

    The newest keeps its own until the next one is complete, so that a killed run can continue.
    """

    def __init__(self, kept: Collection[int]):
        self.kept = kept

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        *older, _ = checkpoints(Path(args.output_dir)).items()
        for step, path in older:
            if step not in self.kept:
                (path / OPTIMIZER_FILE).unlink(missing_ok=True)


class PenaliseWeights(TrainerCallback):
    """Adds the gradient of ``l1 · Σ|w|`` to that of the loss before every step."""

    def __init__(self, l1: float):
        self.l1 = l1

    def on_pre_optimizer_step(
        self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any
    ) -> None:
        for p in model.parameters():
            if p.grad is not None:
                p.grad.add_(p.detach().sign(), alpha=self.l1)


class LogSeconds(TrainerCallback):
    """Adds to every line of the log how many seconds the run has taken, before it was interrupted too."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        before = [line["seconds"] for line in state.log_history if "seconds" in line]
        self.began = time.monotonic() - (before[-1] if before else 0.0)

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        state.log_history[-1]["seconds"] = round(time.monotonic() - self.began, 1)


def train(
    model: PreTrainedModel,
    rows: Tensor | Dataset,
    folder: Path,
    schedule: Schedule,
    seed: int,
    keep: int | None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    callbacks: Sequence[TrainerCallback] = (),
) -> None:
    """Train a model in place on rows in the given order.

    A run that was killed continues from its last complete checkpoint and ends at the same weights, bit for
    bit on as many CPU threads as before. The caller chooses the threads; a GPU is used if there is one.

    Args:
        model: The model.
        rows: int64[steps · batch_size, length], or a dataset of examples as the model takes them.
        folder: Where checkpoints are written.
        schedule: Steps, batch size, learning rate and so on.
        seed: Seed of the Trainer.
        keep: How many checkpoints are kept; None keeps all. ``schedule.moments`` says which keep AdamW's
            moments.
        tokenizer: Saved with every checkpoint if given.
        callbacks: Watch the run and may stop it.

    Raises:
        ValueError: There are fewer rows than the schedule reads.
    """
    drop_broken_checkpoints(folder)
    arguments, saved = _arguments(folder, schedule, seed, keep), checkpoints(folder)
    if saved:
        # Trainer matches names in the file with those of the model and silently skips the others, but
        # transformers renamed some layers (GPT-NeoX: embed_out is lm_head), so the weights are loaded here
        model.load_state_dict(load_model(saved[max(saved)], dtype=torch.float32).state_dict())
    callbacks = [*callbacks, LogSeconds()]
    if schedule.moments is not None:
        callbacks += [DropMoments(schedule.moments)]
    _run(model, rows, schedule, arguments, bool(saved), callbacks, tokenizer)


def resume(
    model: PreTrainedModel,
    rows: Tensor,
    checkpoint: Path,
    schedule: Schedule,
    seed: int,
    callbacks: Sequence[TrainerCallback],
    scratch: Path,
) -> None:
    """Continue from a checkpoint as the run of :func:`train` that wrote it would have; save nothing.

    Args:
        model: A model with the checkpoint's weights, trained in place.
        rows: All rows of that run, int64[steps · batch_size, length], including those before the checkpoint.
        checkpoint: A folder as the Trainer writes it.
        schedule: The run's schedule.
        seed: The run's seed.
        callbacks: Watch the run and may stop it.
        scratch: A folder for what the Trainer may leave.

    Raises:
        ValueError: There are fewer rows than the schedule reads.
    """
    arguments = _arguments(scratch, schedule, seed, None, save_strategy="no")
    _run(model, rows, schedule, arguments, str(checkpoint), callbacks)


def _run(
    model: PreTrainedModel,
    rows: Tensor | Dataset,
    schedule: Schedule,
    arguments: TrainingArguments,
    resume_from: bool | str,
    callbacks: Sequence[TrainerCallback],
    tokenizer: PreTrainedTokenizerBase | None = None,
) -> None:
    examples: Any = Rows(rows) if isinstance(rows, Tensor) else rows
    if len(examples) < schedule.steps * schedule.batch_size:
        raise ValueError(
            f"{schedule.steps} steps of {schedule.batch_size} rows require "
            f"{schedule.steps * schedule.batch_size} examples, got {len(examples)}"
        )
    if schedule.l1:
        callbacks = [*callbacks, PenaliseWeights(schedule.l1)]
    # Trainer seeds the global generators: keep the caller's state
    with torch.random.fork_rng():
        trainer = Trainer(
            model=model,
            args=arguments,
            train_dataset=examples,
            data_collator=default_data_collator,  # rows are full: no padding, which some tokenizers cannot do
            processing_class=tokenizer,
            callbacks=list(callbacks),
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train(resume_from_checkpoint=resume_from)


def checkpoints(folder: Path) -> dict[int, Path]:
    """Return the checkpoints of a run, step -> folder, in order of step."""
    saved = {int(p.name.removeprefix("checkpoint-")): p for p in folder.glob("checkpoint-*") if p.is_dir()}
    return dict(sorted(saved.items()))


def drop_broken_checkpoints(folder: Path) -> None:
    """Delete checkpoints that a killed process left incomplete (:data:`STATE_FILE` is written last).

    Those after the last one that has AdamW's moments are deleted too: no run can continue from them.
    """
    for path in checkpoints(folder).values():
        if not _is_whole(path):
            shutil.rmtree(path)
    for path in reversed(checkpoints(folder).values()):
        if (path / OPTIMIZER_FILE).exists():
            break
        shutil.rmtree(path)


def _is_whole(checkpoint: Path) -> bool:
    try:
        json.loads((checkpoint / STATE_FILE).read_text())
        for shard in checkpoint.glob("*.safetensors"):
            with safe_open(shard, framework="pt"):
                pass
    except (OSError, ValueError, SafetensorError):
        return False
    return True


MIN_LR_RATE = 0.02
"""The final learning rate of ``cosine_with_min_lr`` over the peak one (paper B, section 4.3)."""


def _arguments(
    folder: Path, schedule: Schedule, seed: int, keep: int | None, **changes: Any
) -> TrainingArguments:
    fixed: dict[str, Any] = {
        "report_to": [],
        "save_strategy": "steps",
        "train_sampling_strategy": "sequential",
        "logging_steps": max(1, schedule.steps // 20),
        "dataloader_pin_memory": False,
        "disable_tqdm": not sys.stderr.isatty(),
        "log_level": "warning",
        **changes,
    }
    if schedule.scheduler == "cosine_with_min_lr":
        fixed["lr_scheduler_kwargs"] = {"min_lr_rate": MIN_LR_RATE}
    return TrainingArguments(
        output_dir=str(folder),
        max_steps=schedule.steps,
        per_device_train_batch_size=schedule.batch_size,
        learning_rate=schedule.lr,
        lr_scheduler_type=schedule.scheduler,
        warmup_steps=schedule.warmup_steps,
        weight_decay=schedule.weight_decay,
        save_steps=schedule.save_every,
        save_total_limit=keep,
        bf16=schedule.bf16,
        seed=derive(seed, "trainer"),
        **fixed,
    )
