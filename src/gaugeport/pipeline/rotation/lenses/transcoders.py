"""Lens 2, transcoders: train a sparse map from what an MLP reads to what it writes (paper B, section 3.2).

Transcoders are those of Dunefsky et al. (2024). sae-lens has transcoder classes for inference only, and its
trainer takes the input as the target. :func:`train_transcoder` gives that trainer an SAE whose batches hold
input and target side by side, and returns an ordinary sae-lens ``Transcoder``. sae-lens is imported where it
is used.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from gaugeport.pipeline.rotation.lenses.dictionaries import sample_activations, settings_of_width
from gaugeport.pipeline.training.saes import seeded_training, shuffled, trainer_config
from gaugeport.utils.devices import default_device
from gaugeport.utils.seeds import derive, generator


def train_transcoder(x: Tensor, y: Tensor, settings: Mapping[str, Any], expansion: int, seed: int) -> Any:
    """Train a transcoder with ReLU latents.

    Training is that of sae-lens's ``SAETrainer``: its optimiser, schedules and clipping. Input and target are
    each scaled to a mean norm of √width, and the scales are folded into the weights at the end.

    Args:
        x: What the MLP reads, float[n, width].
        y: What the MLP writes, float[n, out].
        settings: Keys of ``sae`` in ``conf/task/sae.yaml``; ``latents`` is replaced.
        expansion: Latents per coordinate of ``x``.
        seed: Decides the tokens drawn, the initialisation and the order.

    Returns:
        A sae-lens ``Transcoder``.

    Raises:
        ValueError: If a setting is not allowed, the tokens do not fill one batch, or the architecture is not
            ``standard``:
            sae-lens has no transcoder with TopK latents.
    """
    chosen = settings_of_width(settings, x.shape[1], expansion)
    if chosen["architecture"] != "standard":
        raise ValueError(f"architecture={chosen['architecture']!r} of a transcoder; allowed: standard")
    scales = [z.shape[1] ** 0.5 / float(z.norm(dim=1).mean()) for z in (x, y)]
    pairs = sample_activations(torch.cat([x * scales[0], y * scales[1]], 1), chosen, seed)
    return _train_on_pairs(pairs, x.shape[1], chosen, derive(seed, "transcoder"), scales)


def _train_on_pairs(
    pairs: Tensor, width: int, settings: dict[str, Any], seed: int, scales: list[float]
) -> Any:
    """Train on scaled ``pairs`` [n, width + out]; return a ``Transcoder`` of unscaled activations."""
    from sae_lens import StandardTrainingSAE, StandardTrainingSAEConfig, Transcoder, TranscoderConfig
    from sae_lens.saes.sae import mse_loss
    from sae_lens.training.sae_trainer import SAETrainer

    out, latents, device = pairs.shape[1] - width, settings["latents"], default_device()

    class SideBySide(StandardTrainingSAE):
        """Train an SAE whose batches hold inputs and targets side by side."""

        W_dec: torch.nn.Parameter
        process_sae_in = Transcoder.process_sae_in  # b_dec has the target's width and is not subtracted

        def initialize_weights(self) -> None:
            super().initialize_weights()
            norm = self.W_dec.norm(dim=1, keepdim=True)
            self.W_dec = torch.nn.Parameter(
                functional.normalize(torch.randn(latents, out, device=device), dim=1) * norm
            )
            self.b_dec = torch.nn.Parameter(pairs[:, width:].mean(0).to(device))
            self.b_enc = torch.nn.Parameter((-pairs[:, :width].mean(0).to(device) @ self.W_enc).detach())

        def training_forward_pass(self, step_input: Any) -> Any:
            x, y = step_input.sae_in.split([width, out], -1)
            self.mse_loss_fn = lambda guess, _: mse_loss(guess, y)
            return super().training_forward_pass(replace(step_input, sae_in=x))

    config = trainer_config(settings)
    sizes: dict[str, Any] = {
        "d_in": width,
        "d_sae": latents,
        "apply_b_dec_to_input": False,
        "device": device,
    }
    with seeded_training(seed):
        warmup = config.lr_warm_up_steps
        trained = SideBySide(
            StandardTrainingSAEConfig(l1_coefficient=settings["l1"], l1_warm_up_steps=warmup, **sizes)
        )
        SAETrainer(config, trained, shuffled(pairs, settings["batch_size"], generator(seed, "order"))).fit()
        transcoder = Transcoder(TranscoderConfig(d_out=out, **sizes))
    with torch.no_grad():
        transcoder.W_enc.copy_(trained.W_enc * scales[0])
        transcoder.b_enc.copy_(trained.b_enc)
        transcoder.W_dec.copy_(trained.W_dec / scales[1])
        transcoder.b_dec.copy_(trained.b_dec / scales[1])
    return transcoder.eval()
