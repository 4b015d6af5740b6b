"""The two cohorts of Dyck-3 models (paper B, section 4.3), each model a stage in the store.

Cohort A: seed 0 from scratch, the others with its embedding and three unembeddings loaded and frozen. Cohort B: all from
scratch, nothing shared. Seed 0 of a cohort is its *anchor*, which cross-seed measurements compare the others with.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, TrainerCallback

from gaugeport.models.dyck import DyckConfig, DyckModel, by_head
from gaugeport.models.loading import load_model
from gaugeport.pipeline.job import Job
from gaugeport.pipeline.rotation.matching.symmetry import check_sizes
from gaugeport.pipeline.rotation.toy import strings
from gaugeport.pipeline.store.store import Store
from gaugeport.pipeline.training.trainer import checkpoints, drop_broken_checkpoints, train
from gaugeport.utils.seeds import derive

COHORTS = ("A", "B")
ANCHOR = 0
SHARED = ("model.embed_tokens.weight", "lm_head.weight", "depth_head.weight", "valid_head.weight")
"""What seed 0 of cohort A gives to the others, frozen: the boundary of the model."""

STOP_AT = 0.9999
"""Training stops once the least held-out accuracy, over splits and heads, first reaches this (section 4.3)."""

STOP_ROWS = 512
"""Held-out rows of each split that this accuracy is measured on."""


def model_stage(job: Job, store: Store, seed: int) -> Path:
    """The folder of one seed of the job's cohort, as ``save_pretrained`` writes it; trained if it is not there.

    ``training/checkpoint-<step>/`` are the checkpoints of its run.

    Raises ``ValueError`` where a frozen tensor is not bit-identical to the anchor's at the end.
    """

    def build(folder: Path) -> None:
        schedule, longest = job.training.base, longest_trained(job)
        purpose = ("dyck", job.task["cohort"])
        model = initialised(job, seed)
        anchor = None
        if frozen(job, seed):
            anchor = load_model(model_stage(job, store, ANCHOR), dtype=torch.float32)
            freeze(model, anchor)
        rows = job.model.architecture["max_position_embeddings"]
        data = strings.Strings(
            schedule.steps,
            schedule.batch_size,
            longest,
            min(rows, longest + 2),
            derive(seed, *purpose, "data"),
        )
        stop = StopWhenAccurate(longest, rows, job.data.seed)
        drop_broken_checkpoints(folder / "training")
        saved = checkpoints(folder / "training")
        last = load_model(saved[max(saved)], dtype=torch.float32) if saved else None
        if last is not None and stop.reached(last):  # killed after the save that ended it
            model = last
        else:
            train(
                model,
                data,
                folder / "training",
                schedule,
                derive(seed, *purpose),
                keep=None,
                callbacks=[stop],
            )
        model.cpu()
        if anchor is not None:
            check_frozen({"seed 0": anchor, f"seed {seed}": model})
        model.save_pretrained(folder)

    return store.ensure("dyck", model_key(job, seed), build, resumable=True)


def initialised(job: Job, seed: int) -> DyckModel:
    """Step 0 of a seed of the job's cohort, before cohort A's anchor gives it :data:`SHARED`."""
    with torch.random.fork_rng():
        torch.manual_seed(derive(seed, "dyck", job.task["cohort"], "init"))
        return DyckModel(_config(job))


def model_key(job: Job, seed: int) -> dict[str, Any]:
    """What decides one seed of the job's cohort."""
    mine = {
        "architecture": job.model.architecture,
        "longest": longest_trained(job),
        "heldout_seed": job.data.seed,
        "schedule": asdict(job.training.base),
        "cohort": job.task["cohort"],
        "seed": seed,
    }
    return {**mine, "anchor": model_key(job, ANCHOR)} if frozen(job, seed) else mine


def load_seed(job: Job, store: Store, seed: int) -> DyckModel:
    """A trained model of the job's cohort, in evaluation mode."""
    return load_model(model_stage(job, store, seed), dtype=torch.float32)


def steps_trained(job: Job, store: Store, seed: int) -> int:
    """The step at which a seed of the job's cohort stopped."""
    return max(checkpoints(model_stage(job, store, seed) / "training"))


def longest_trained(job: Job) -> int:
    """The longest string that the job's models are trained on: what a row of ``data.length`` tokens holds."""
    return job.data.length - 2


def frozen(job: Job, seed: int) -> bool:
    """Whether a seed of the job's cohort has the anchor's embedding and unembeddings."""
    return job.task["cohort"] == "A" and seed != ANCHOR


def freeze(model: nn.Module, anchor: nn.Module) -> None:
    """Give ``model`` the shared tensors of ``anchor`` and let no optimizer touch them.

    Raises ``ValueError`` where a shape differs.
    """
    check_sizes({"the anchor": anchor, "the model": model})
    with torch.no_grad():
        for name in SHARED:
            model.get_parameter(name).copy_(anchor.get_parameter(name))
            model.get_parameter(name).requires_grad_(False)


def check_frozen(models: Mapping[str, nn.Module]) -> None:
    """Raises ``ValueError`` naming the first shared tensor that is not bit-identical in all of ``models``, by name."""
    check_sizes(models)
    (first, reference), *others = models.items()
    for name, model in others:
        for shared in SHARED:
            mine, theirs = reference.get_parameter(shared), model.get_parameter(shared)
            if not torch.equal(mine, theirs):
                raise ValueError(
                    f"cohort A shares its boundary: {shared} of {name} differs from {first}'s by up to "
                    f"{float((mine - theirs).detach().abs().max()):.3g}; allowed: bit-identical tensors, or cohort B"
                )


@torch.no_grad()
def accuracy(model: nn.Module, rows: Mapping[str, torch.Tensor], batch_size: int = 256) -> dict[str, float]:
    """Share of positions, padding excluded, at which each of :data:`strings.HEADS` is right."""
    right, counted = torch.zeros(len(strings.HEADS)), 0
    where = next(model.parameters()).device
    for ids, labels in zip(
        rows["input_ids"].split(batch_size), rows["labels"].split(batch_size), strict=True
    ):
        found = torch.stack([z.argmax(-1) for z in by_head(model(ids.to(where)).logits)], -1).cpu()
        kept = labels[..., 0] != strings.IGNORED
        right += (found == labels)[kept].sum(0)
        counted += int(kept.sum())
    return {head: float(n) / counted for head, n in zip(strings.HEADS, right, strict=True)}


class StopWhenAccurate(TrainerCallback):
    """Ends training at the first save at which the least held-out accuracy reaches :data:`STOP_AT`."""

    def __init__(self, longest: int, rows: int, seed: int):
        splits = [s for s in strings.SPLITS if s != "long" or longest >= strings.LONG[1]]
        self.heldout = [strings.heldout(split, STOP_ROWS, longest, rows, seed) for split in splits]

    def reached(self, model: nn.Module) -> bool:
        """Whether ``model``, in evaluation mode, is accurate enough."""
        return min(min(accuracy(model, rows).values()) for rows in self.heldout) >= STOP_AT

    def on_save(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> Any:
        control.should_training_stop |= self.reached(model.eval())
        model.train()
        return control


def _config(job: Job) -> DyckConfig:
    architecture = dict(job.model.architecture)
    config = AutoConfig.for_model(architecture.pop("model_type"), **architecture)
    if not isinstance(config, DyckConfig):
        raise ValueError(
            f"model={job.model.name} is a {config.model_type}; allowed with this task: model=dyck3"
        )
    return config
