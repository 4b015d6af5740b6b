"""The SAE stage: a sparse autoencoder trained by sae-lens's own trainer on run A's last checkpoint, at the mid-stack site.

Its key names run A, the site, the SAE's configuration and the seed; no arm and no target. Its folder is an ordinary
sae-lens one. sae-lens is imported where it is used: that takes seconds.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from gaugeport.charts import chart_of
from gaugeport.models.loading import load_model
from gaugeport.pipeline.data import mixed_rows, row_batches
from gaugeport.pipeline.job import Job
from gaugeport.pipeline.stages.training import data_stage, run_checkpoints, run_key
from gaugeport.pipeline.store.store import Store
from gaugeport.streams.activations import middle_site, streams_at
from gaugeport.utils.devices import default_device, one_thread
from gaugeport.utils.seeds import derive, generator

ARCHITECTURES = {"topk": "k", "standard": "l1"}
"""SAE architecture -> the key of ``task.sae`` that sets its sparsity."""

NUMBERS = ("latents", "k", "l1", "lr", "batch_size", "activations", "tokens")
"""The other keys of ``task.sae``; each is explained in ``conf/task/sae.yaml``."""

WARMUP, DECAY = 0.05, 0.2
"""Shares of training in which the learning rate (and the L1 coefficient) rises, and in which it falls to 0."""


def sae_stage(job: Job, store: Store) -> Path:
    """The folder of the job's SAE: ``cfg.json`` and ``sae_weights.safetensors``, as sae-lens writes and loads them."""

    def build(folder: Path) -> None:
        saved = run_checkpoints(job, store, "A")
        model = load_model(saved[max(saved)], dtype=torch.float32, device=default_device())
        chart = chart_of(model)
        site = middle_site(model, chart)
        settings = sae_settings(job)
        rows = load_file(data_stage(job, store) / "rows.safetensors")
        train = torch.cat([rows["train_0"], rows["train_1"]])
        skip = job.measurement.skip_first
        wanted = min(len(train), -(-settings["activations"] // (train.shape[1] - skip)))
        chosen = mixed_rows(train, wanted, generator(job.seed, "sae", "rows"))
        activations = torch.cat(
            [
                streams_at(model, chart, batch, [site], skip)[site].cpu()
                for batch in row_batches(chosen, job.measurement.batch_size)
            ]
        )
        metadata = {
            "model_name": job.model.name,
            "hook_name": f"blocks.{site.removeprefix('block')}.hook_resid_post",  # the name sae-lens knows the site by
            "context_size": train.shape[1],
            "prepend_bos": True,
        }
        train_sae(activations, settings, derive(job.seed, "sae"), metadata).save_inference_model(folder)

    return store.ensure("sae", sae_key(job), build)


def sae_key(job: Job) -> dict[str, Any]:
    """What decides the SAE: run A, the site, how it is trained."""
    where = {"site": "middle", "skip_first": job.measurement.skip_first}
    return {"run": run_key(job, "A"), **where, "sae": sae_settings(job), "seed": job.seed}


def sae_settings(job: Job) -> dict[str, Any]:
    """``task.sae`` without the sparsity of other architectures. Raises ``ValueError`` naming a bad value and the allowed."""
    sae = dict(job.task["sae"])
    if set(sae) != {"architecture", *NUMBERS}:
        raise ValueError(
            f"task.sae has the keys {', '.join(sae)}; wanted: architecture, {', '.join(NUMBERS)}"
        )
    architecture = sae["architecture"]
    if architecture not in ARCHITECTURES:
        raise ValueError(f"task.sae.architecture={architecture!r}; allowed: {', '.join(ARCHITECTURES)}")
    for other in set(ARCHITECTURES.values()) - {ARCHITECTURES[architecture]}:
        sae.pop(other)
    for name in NUMBERS:
        if name in sae and not (isinstance(sae[name], int | float) and sae[name] > 0):
            raise ValueError(f"task.sae.{name}={sae[name]!r} must be a positive number")
    if architecture == "topk" and sae["k"] > sae["latents"]:
        raise ValueError(
            f"task.sae.k={sae['k']} is more than the {sae['latents']} latents of task.sae.latents"
        )
    if sae["batch_size"] > min(sae["activations"], sae["tokens"]):
        raise ValueError(
            f"task.sae.batch_size={sae['batch_size']} is more than task.sae.activations={sae['activations']} "
            f"or task.sae.tokens={sae['tokens']}"
        )
    return sae


def load_sae(job: Job, store: Store) -> Any:
    """The job's SAE, in evaluation mode."""
    from sae_lens import SAE

    return SAE.load_from_disk(sae_stage(job, store), device=default_device()).eval()


def train_sae(activations: Tensor, settings: dict[str, Any], seed: int, metadata: dict[str, Any]) -> Any:
    """A ``TrainingSAE`` of sae-lens trained by its ``SAETrainer`` on ``activations`` [n, d], n ≥ one batch.

    ``settings`` are the keys of ``conf/task/sae.yaml``. The trainer sees activations scaled to a mean norm of √d, so that
    learning rate and sparsity mean the same in every model, and folds the scale into the weights at the end:
    ``normalize_activations`` is then ``none``. ``b_dec`` begins at the mean activation and is subtracted from the input.
    Both make the SAE a function of the residual stream that is exactly covariant under every gauge.

    One CPU thread (or the GPU where there is one) and seeded: the same arguments give the same weights. The caller's
    random state is left alone. Raises ``ValueError`` for fewer activations than one batch.
    """
    from sae_lens.training.sae_trainer import SAETrainer

    if len(activations) < settings["batch_size"]:
        raise ValueError(f"{len(activations)} activations do not fill one batch of {settings['batch_size']}")
    config = trainer_config(settings)
    mean = activations.mean(0)
    scale = activations.shape[1] ** 0.5 / float(activations.norm(dim=1).mean())
    with seeded_training(seed):
        sae = _untrained(settings, activations.shape[1], config.lr_warm_up_steps, metadata)
        with torch.no_grad():
            sae.b_dec.copy_(mean * scale)
        data = shuffled(activations, settings["batch_size"], generator(seed, "order"))
        trainer: Any = SAETrainer(config, sae, data)
        trainer.activation_scaler.scaling_factor = (
            scale  # of all activations, not the trainer's estimate from a few
        )
        return trainer.fit().eval()


def untrained_sae(settings: dict[str, Any], width: int, seed: int) -> Any:
    """What :func:`train_sae` with that ``seed`` starts from, but for its ``b_dec``: the data's mean there, 0 here."""
    config = trainer_config(settings)
    with seeded_training(seed):
        return _untrained(settings, width, config.lr_warm_up_steps, {}).eval()


def trainer_config(settings: dict[str, Any]) -> Any:
    """sae-lens's ``SAETrainerConfig`` for ``settings`` (keys of ``conf/task/sae.yaml``)."""
    from sae_lens.config import SAETrainerConfig

    steps = settings["tokens"] // settings["batch_size"]
    return SAETrainerConfig(
        total_training_samples=steps * settings["batch_size"],
        train_batch_size_samples=settings["batch_size"],
        lr=settings["lr"],
        lr_end=settings["lr"],  # the constant part's; the decay goes from here to 0
        lr_warm_up_steps=int(WARMUP * steps),
        lr_decay_steps=int(DECAY * steps),
        dead_feature_window=max(1, steps // 5),
        device=default_device(),
    )


@contextmanager
def seeded_training(seed: int) -> Iterator[None]:
    """While open: one CPU thread, torch's generator at ``seed``, and sae-lens's bar only on a terminal; put back after."""
    from sae_lens.training import sae_trainer

    bar = sae_trainer.tqdm
    with one_thread(), torch.random.fork_rng():
        try:
            # no bar in a log file; sae-lens has no setting for it
            sae_trainer.tqdm = functools.partial(bar, disable=None)
            torch.manual_seed(seed)
            yield
        finally:
            sae_trainer.tqdm = bar


def _untrained(settings: dict[str, Any], width: int, warmup: int, metadata: dict[str, Any]) -> Any:
    from sae_lens import (
        StandardTrainingSAE,
        StandardTrainingSAEConfig,
        TopKTrainingSAE,
        TopKTrainingSAEConfig,
    )
    from sae_lens.saes.sae import SAEMetadata

    common: dict[str, Any] = {
        "d_in": width,
        "d_sae": settings["latents"],
        "apply_b_dec_to_input": True,
        "normalize_activations": "expected_average_only_in",
        "metadata": SAEMetadata(**metadata),
        "device": default_device(),
    }
    if settings["architecture"] == "topk":
        return TopKTrainingSAE(TopKTrainingSAEConfig(k=settings["k"], **common))
    return StandardTrainingSAE(
        StandardTrainingSAEConfig(l1_coefficient=settings["l1"], l1_warm_up_steps=warmup, **common)
    )


def shuffled(activations: Tensor, size: int, order: torch.Generator) -> Iterator[Tensor]:
    """Full batches, shuffled anew in every pass, without end."""
    while True:
        passed = torch.randperm(len(activations), generator=order)
        for part in passed[: len(passed) // size * size].split(size):
            yield activations[part]
