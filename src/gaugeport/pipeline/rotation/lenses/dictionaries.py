"""Lens 2, sparse autoencoders at every internal site: train and score them (paper B, section 3.2).

SAEs are trained by :func:`gaugeport.pipeline.training.saes.train_sae`. Latents are penalised by the norms of
their decoder rows. That is the paper's decoder of unit norm, with the norm moved into the latent.
Transcoders, the other half of this lens, are in :mod:`.transcoders`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from gaugeport.pipeline.measures.sae_transfer import SAE_CHUNK_TOKENS, nmse
from gaugeport.pipeline.rotation.lenses.measurement import Row
from gaugeport.pipeline.training.saes import ARCHITECTURES, NUMBERS, train_sae, untrained_sae
from gaugeport.utils.seeds import derive, generator

LENS = "dictionaries"


def settings_of_width(settings: Mapping[str, Any], width: int, expansion: int) -> dict[str, Any]:
    """Complete the settings of an SAE for a site's width.

    Args:
        settings: Keys of ``sae`` in ``conf/task/sae.yaml``; ``latents`` is replaced.
        width: Width of the site.
        expansion: Latents per coordinate of the site; the paper's are 4 and 16.

    Returns:
        The settings with ``expansion * width`` latents, without the sparsity keys of other architectures.

    Raises:
        ValueError: If a setting is not allowed.
    """
    if not isinstance(expansion, int) or expansion < 1:
        raise ValueError(f"expansion={expansion!r}; allowed: whole numbers from 1")
    chosen = {**settings, "latents": expansion * width}
    architecture = chosen.get("architecture")
    if architecture not in ARCHITECTURES:
        raise ValueError(f"architecture={architecture!r}; allowed: {', '.join(ARCHITECTURES)}")
    sparsity = ARCHITECTURES[architecture]
    sparsity_of_others = set(ARCHITECTURES.values()) - {sparsity}
    for name in sparsity_of_others:
        chosen.pop(name, None)
    for name in {*NUMBERS, sparsity} - sparsity_of_others:
        if not (isinstance(chosen.get(name), int | float) and chosen[name] > 0):
            raise ValueError(f"{name}={chosen.get(name)!r}; allowed: positive numbers")
    if architecture == "topk" and chosen["k"] > chosen["latents"]:
        raise ValueError(
            f"k={chosen['k']}; allowed: up to {expansion} × {width} = {chosen['latents']} latents"
        )
    return chosen


def train_dictionary(
    x: Tensor, settings: Mapping[str, Any], expansion: int, seed: int, site: str, model: str = "dyck3"
) -> Any:
    """Train an SAE on the activations of a site.

    Args:
        x: Activations, float[n, width]; ``settings["activations"]`` of them are drawn, or all if there are
            fewer.
        settings: As :func:`settings_of_width`.
        expansion: Latents per coordinate.
        seed: Decides the activations drawn, the initialisation and the order.
        site: Name of the site, for the SAE's metadata.
        model: Name of the model, for the SAE's metadata.

    Returns:
        A sae-lens SAE.

    Raises:
        ValueError: If a setting is not allowed, or the activations do not fill one batch.
    """
    chosen = settings_of_width(settings, x.shape[1], expansion)
    metadata = {"model_name": model, "hook_name": site, "prepend_bos": True}
    return train_sae(sample_activations(x, chosen, seed), chosen, derive(seed, "dictionary"), metadata)


def untrained_dictionary(settings: Mapping[str, Any], expansion: int, width: int, seed: int) -> Any:
    """Return the SAE that :func:`train_dictionary` starts from, except for its ``b_dec``.

    Args are those of :func:`train_dictionary`, with ``width`` instead of activations. Raises as
    :func:`settings_of_width`.
    """
    return untrained_sae(settings_of_width(settings, width, expansion), width, derive(seed, "dictionary"))


@torch.no_grad()
def dictionary_rows(
    dictionary: Any,
    component: str,
    x: Tensor,
    y: Tensor | None = None,
    text: Mapping[str, str | int] | None = None,
) -> list[Row]:
    """Score an SAE or a transcoder on held-out activations.

    Args:
        dictionary: A sae-lens SAE or ``Transcoder``.
        component: Its site or MLP, for the rows.
        x: Input activations, float[n, width].
        y: Targets of a transcoder, float[n, out]; None for an SAE, whose target is ``x``.
        text: Further columns of every row.

    Returns:
        Rows of ``explained_variance``, 1 − Σ‖y − ŷ‖² / Σ‖y − mean‖²; ``l0``, the mean number of active
        latents per token; ``dead_share``, the share of latents that no token activates; and ``width``, the
        number of latents.

    Raises:
        ValueError: If all targets are the same.
    """
    target = x if y is None else y
    reconstruction, active_tokens = torch.empty_like(target), torch.zeros(dictionary.cfg.d_sae).double()
    chunks = zip(x.split(SAE_CHUNK_TOKENS), reconstruction.split(SAE_CHUNK_TOKENS), strict=True)
    for part, out in chunks:
        latents = dictionary.encode(part.to(dictionary.device))
        out.copy_(dictionary.decode(latents))
        active_tokens += (latents != 0).sum(0).cpu()
    values = {
        "explained_variance": 1 - nmse(target, reconstruction),
        "l0": float(active_tokens.sum()) / len(x),
        "dead_share": float((active_tokens == 0).double().mean()),
        "width": float(len(active_tokens)),
    }
    columns = {"lens": LENS, "component": component}
    return [{**columns, "metric": metric, "value": v, **(text or {})} for metric, v in values.items()]


def sample_activations(x: Tensor, settings: Mapping[str, Any], seed: int) -> Tensor:
    """Draw the activations that a dictionary is trained on.

    Args:
        x: Activations, float[n, width].
        settings: ``activations`` is the number to draw (all, if there are fewer), ``batch_size`` the fewest
            allowed.
        seed: Decides which are drawn.

    Returns:
        float[drawn, width].

    Raises:
        ValueError: If the activations do not fill one batch.
    """
    n = min(len(x), int(settings["activations"]))
    if n < settings["batch_size"]:
        raise ValueError(f"{n} activations do not fill one batch of {settings['batch_size']}")
    if n == len(x):
        return x
    return x[torch.randperm(len(x), generator=generator(seed, "activations"))[:n]]
