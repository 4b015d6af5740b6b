"""The two cohorts of Dyck-3 models (paper B, section 4.3); each model is a stage.

In cohort A seed 0 is trained from scratch, and the other seeds have its embedding and three unembeddings,
frozen. In cohort B every seed is trained from scratch and shares nothing. Seed 0 is a cohort's *anchor*:
cross-seed measurements compare the other seeds with it, unless they name another (:mod:`.pairs`).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, TrainerCallback

from gaugeport.models.dyck import HEADS, IGNORED, DyckConfig, DyckModel, by_head
from gaugeport.models.loading import load_model
from gaugeport.pipeline.job import Job, counted
from gaugeport.pipeline.rotation.matching.symmetry import check_sizes
from gaugeport.pipeline.rotation.toy import strings
from gaugeport.pipeline.rotation.toy.training_strings import TrainingStrings
from gaugeport.pipeline.stages.stage import Built, Folders
from gaugeport.pipeline.training.trainer import checkpoints, drop_broken_checkpoints, train
from gaugeport.utils.seeds import derive

COHORTS = ("A", "B")
ANCHOR = 0
SHARED = ("model.embed_tokens.weight", "lm_head.weight", "depth_head.weight", "valid_head.weight")
"""What seed 0 of cohort A gives to the others, frozen: the boundary of the model."""

STOP_AT = 0.9999
"""Training stops once the least held-out accuracy over splits and heads reaches this (section 4.3)."""

STOP_ROWS = 512
"""Held-out rows of each split that this accuracy is measured on."""


def build_model(job: Job, required: Folders, folder: Path, seed: int) -> None:
    """Train one seed of the job's cohort and write it as ``save_pretrained`` does.

    Args:
        job: The job.
        required: The folders of the required stages: the anchor's, where its boundary is shared.
        folder: Where to write; the run's checkpoints are in ``training/checkpoint-<step>/``.
        seed: The seed to train.

    Raises:
        ValueError: A frozen tensor is not bit-identical to the anchor's at the end.
    """
    # 1) the model, its frozen boundary, its strings and its stop rule
    schedule, longest = job.training.base, longest_trained(job)
    purpose = ("dyck", job.task["cohort"])
    model = initialised(job, seed)
    anchor = load_toy(required["anchor"]) if frozen(job, seed) else None
    if anchor is not None:
        freeze(model, anchor)
    context = job.model.architecture["max_position_embeddings"]
    row_length = min(context, longest + 2)
    data = TrainingStrings(
        schedule.steps,
        schedule.batch_size,
        longest,
        row_length,
        derive(seed, *purpose, "data"),
        job.data.depth_label,
    )
    stop = stop_rule(job)
    # 2) train, unless an earlier process was killed after the save that ended training
    drop_broken_checkpoints(folder / "training")
    saved = checkpoints(folder / "training")
    last = load_toy(saved[max(saved)]) if saved else None
    if last is not None and stop.reached(last):
        model = last
    else:
        train(model, data, folder / "training", schedule, derive(seed, *purpose), keep=None, callbacks=[stop])
    # 3) check and save
    model.cpu()
    if anchor is not None:
        check_frozen({"seed 0": anchor, f"seed {seed}": model})
    model.save_pretrained(folder)


def initialised(job: Job, seed: int) -> DyckModel:
    """Return the untrained model of a seed, before cohort A's anchor gives it :data:`SHARED`.

    Args:
        job: The job, which names the cohort and the sizes.
        seed: The seed.
    """
    with torch.random.fork_rng():
        torch.manual_seed(derive(seed, "dyck", job.task["cohort"], "init"))
        return DyckModel(_config(job))


def model_key(job: Job, seed: int) -> dict[str, Any]:
    """Return what decides one trained model of the job's cohort.

    Args:
        job: The job, which names the cohort, the sizes and the schedule.
        seed: The model's seed.

    Returns:
        The key of its stage; it holds the anchor's key where the model shares the anchor's boundary.
    """
    key = {
        "architecture": job.model.architecture,
        "longest": longest_trained(job),
        "heldout_seed": job.data.seed,
        "schedule": job.training.base.key(),
        "cohort": job.task["cohort"],
        "seed": seed,
        **counted({"depth_label": job.data.depth_label}, ""),
    }
    return {**key, "anchor": model_key(job, ANCHOR)} if frozen(job, seed) else key


def stage_of(seed: int) -> str:
    """Return the name of the stage that holds a seed of the job's cohort."""
    return "anchor" if seed == ANCHOR else "replica"


def own_stages(job: Job) -> tuple[str, ...]:
    """Return the stage of the job's own model, after that of the anchor if it shares its boundary."""
    if job.seed == ANCHOR:
        return ("anchor",)
    return ("anchor", "replica") if frozen(job, job.seed) else ("replica",)


def load_toy(folder: Path) -> DyckModel:
    """Load a trained model in evaluation mode."""
    return load_model(folder, dtype=torch.float32)


def load_own(job: Job, built: Built) -> DyckModel:
    """Load the job's own model; in cohort A, check its boundary against the anchor's.

    Args:
        job: The job.
        built: The folders of its stages.

    Raises:
        ValueError: A frozen tensor is not bit-identical to the anchor's.
    """
    model = load_toy(built[stage_of(job.seed)])
    if frozen(job, job.seed):
        check_frozen({f"seed {ANCHOR}": load_toy(built["anchor"]), f"seed {job.seed}": model})
    return model


def steps_trained(folder: Path) -> int:
    """Return the step at which training stopped."""
    return max(checkpoints(folder / "training"))


def longest_trained(job: Job) -> int:
    """Return the number of brackets in the longest training string: a row less its start and end tokens."""
    return job.data.length - 2


def frozen(job: Job, seed: int) -> bool:
    """Return whether a seed of the job's cohort shares the anchor's embedding and unembeddings."""
    return job.task["cohort"] == "A" and seed != ANCHOR


def freeze(model: nn.Module, anchor: nn.Module) -> None:
    """Copy the tensors that cohort A shares into a model, and exclude them from its training.

    Args:
        model: The Dyck-3 model to change.
        anchor: The model to copy from.

    Raises:
        ValueError: A shape differs.
    """
    check_sizes({"the anchor": anchor, "the model": model})
    with torch.no_grad():
        for name in SHARED:
            model.get_parameter(name).copy_(anchor.get_parameter(name))
            model.get_parameter(name).requires_grad_(False)


def check_frozen(models: Mapping[str, nn.Module]) -> None:
    """Check that the tensors that cohort A shares are bit-identical in all models.

    Args:
        models: Two models or more, by name.

    Raises:
        ValueError: A tensor differs; the message names it and the two models.
    """
    check_sizes(models)
    (first, reference), *others = models.items()
    for name, model in others:
        for shared in SHARED:
            expected, actual = reference.get_parameter(shared), model.get_parameter(shared)
            if not torch.equal(expected, actual):
                largest = float((expected - actual).detach().abs().max())
                raise ValueError(
                    f"cohort A shares its boundary: {shared} of {name} differs from {first}'s by up to "
                    f"{largest:.3g}; allowed: bit-identical tensors, or cohort B"
                )


@torch.no_grad()
def accuracy(model: nn.Module, rows: Mapping[str, torch.Tensor], batch_size: int = 256) -> dict[str, float]:
    """Return the share of positions, padding excluded, at which each of :data:`HEADS` is right.

    Args:
        model: A Dyck-3 model in evaluation mode.
        rows: ``input_ids``, int64[n, length], and ``labels``, int64[n, length, heads].
        batch_size: Rows of one pass.
    """
    correct, positions = torch.zeros(len(HEADS)), 0
    device = next(model.parameters()).device
    batches = zip(rows["input_ids"].split(batch_size), rows["labels"].split(batch_size), strict=True)
    for ids, labels in batches:
        logits = by_head(model(ids.to(device)).logits)
        predicted = torch.stack([z.argmax(-1) for z in logits], -1).cpu()
        kept = labels[..., 0] != IGNORED
        correct += (predicted == labels)[kept].sum(0)
        positions += int(kept.sum())
    return {head: float(n) / positions for head, n in zip(HEADS, correct, strict=True)}


def stop_rule(job: Job) -> StopWhenAccurate:
    """Return the stop rule of the job's models, which holds the strings it looks at."""
    context = job.model.architecture["max_position_embeddings"]
    return StopWhenAccurate(longest_trained(job), context, job.data.seed, job.data.depth_label)


class StopWhenAccurate(TrainerCallback):
    """End training at the first save at which the least held-out accuracy reaches :data:`STOP_AT`."""

    def __init__(self, longest: int, context: int, seed: int, depth: str):
        splits = [s for s in strings.SPLITS if s != "long" or longest >= strings.LONG_LENGTHS[1]]
        self.heldout = {s: strings.heldout(s, STOP_ROWS, longest, context, seed, depth) for s in splits}

    def accuracies(self, model: nn.Module) -> dict[str, dict[str, float]]:
        """Return the accuracy of a model in evaluation mode, by held-out split and head."""
        return {split: accuracy(model, rows) for split, rows in self.heldout.items()}

    def reached(self, model: nn.Module) -> bool:
        """Return whether ``model``, in evaluation mode, is accurate enough."""
        return _least(self.accuracies(model)) >= STOP_AT

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        """Log what the run had measured after the save that it goes on from."""
        if state.global_step:
            self._log(state, model)

    def on_save(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> Any:
        """Tell the Trainer, which calls this after each save, whether to stop."""
        control.should_training_stop |= self._log(state, model) >= STOP_AT
        return control

    def _log(self, state: Any, model: Any) -> float:
        """Add the accuracies of a model in training to the log of its run; return the least."""
        by_split = self.accuracies(model.eval())
        model.train()
        state.log_history.append({"step": state.global_step, "heldout_accuracy": by_split})
        return _least(by_split)


def _least(accuracies: Mapping[str, Mapping[str, float]]) -> float:
    return min(min(by_head.values()) for by_head in accuracies.values())


def _config(job: Job) -> DyckConfig:
    """Return the sizes of the job's model; raise ``ValueError`` if it is no Dyck-3 model."""
    architecture = dict(job.model.architecture)
    config = AutoConfig.for_model(architecture.pop("model_type"), **architecture)
    if not isinstance(config, DyckConfig):
        raise ValueError(
            f"model={job.model.name} is a {config.model_type}; allowed with this task: model=dyck3"
        )
    return config
