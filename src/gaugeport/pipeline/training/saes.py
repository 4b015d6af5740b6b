"""Train sparse autoencoders by sae-lens's own trainer, which is imported late: it takes seconds."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from gaugeport.utils.devices import default_device
from gaugeport.utils.seeds import generator

ARCHITECTURES = {"topk": "k", "standard": "l1"}
"""SAE architecture -> the key of ``task.sae`` that sets its sparsity."""

NUMBERS = ("latents", "k", "l1", "lr", "batch_size", "activations", "tokens")
"""The other keys of ``task.sae``; each is explained in ``conf/task/sae.yaml``."""

WARMUP, DECAY = 0.05, 0.2
"""Shares of training in which the learning rate (and the L1 coefficient) rises, and falls to 0."""


def sae_settings(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``task.sae`` without the sparsity keys of other architectures.

    Raises:
        ValueError: A key is missing or unknown, or a value is not allowed; the message names both.
    """
    sae = dict(given)
    if set(sae) != {"architecture", *NUMBERS}:
        raise ValueError(
            f"task.sae has the keys {', '.join(sae)}; expected architecture, {', '.join(NUMBERS)}"
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


def train_sae(activations: Tensor, settings: dict[str, Any], seed: int, metadata: dict[str, Any]) -> Any:
    """A ``TrainingSAE`` of sae-lens trained by its ``SAETrainer`` on ``activations`` [n, d], n ≥ one batch.

    ``settings`` are the keys of ``conf/task/sae.yaml``, and ``decoder_norm``, the length of decoder rows at
    the start, where it is not sae-lens's own. The trainer sees activations scaled to a mean norm of
    √d, so that
    learning rate and sparsity mean the same in every model, and folds the scale into the weights at the end:
    ``normalize_activations`` is then ``none``. ``b_dec`` begins at the mean activation and is subtracted from
    the input. Both make the SAE a function of the residual stream that is exactly covariant under every
    gauge.

    Seeded: on as many CPU threads as before, the same arguments give the same weights. A GPU is used where
    there is one. The caller's random state is left alone. Raises ``ValueError`` for fewer activations than
    one batch.
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
    """Return what :func:`train_sae` starts from with that ``seed``, except that its ``b_dec`` is 0."""
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
    """While open, seed torch, and show sae-lens's progress bar only on a terminal."""
    from sae_lens.training import sae_trainer

    bar = sae_trainer.tqdm
    with torch.random.fork_rng():
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
    if "decoder_norm" in settings:
        common["decoder_init_norm"] = settings["decoder_norm"]
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
