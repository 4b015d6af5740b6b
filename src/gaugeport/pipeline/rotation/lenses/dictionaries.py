"""Lens 2: sparse autoencoders at every internal site (paper B, section 3.2); transcoders are in :mod:`.transcoders`.

SAEs are trained by :func:`gaugeport.pipeline.training.saes.train_sae`. Latents are penalised by the norms of their decoder rows,
which is the paper's unit-norm decoder with the norm moved into the latent.
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
EXPANSIONS = (4, 16)
"""Latents per coordinate of the site (section 3.2)."""


def expanded(settings: Mapping[str, Any], width: int, expansion: int) -> dict[str, Any]:
    """``settings`` (keys of ``conf/task/sae.yaml``'s ``sae``) for ``expansion * width`` latents, without unused keys.

    Raises ``ValueError`` naming a bad value and what is allowed.
    """
    if not isinstance(expansion, int) or expansion < 1:
        raise ValueError(f"expansion={expansion!r}; allowed: whole numbers from 1, as {EXPANSIONS}")
    found = {**settings, "latents": expansion * width}
    if found.get("architecture") not in ARCHITECTURES:
        raise ValueError(f"architecture={found.get('architecture')!r}; allowed: {', '.join(ARCHITECTURES)}")
    for other in set(ARCHITECTURES.values()) - {ARCHITECTURES[found["architecture"]]}:
        found.pop(other, None)
    for name in {*NUMBERS, *ARCHITECTURES.values()} - {"k", "l1"} | {ARCHITECTURES[found["architecture"]]}:
        if not (isinstance(found.get(name), int | float) and found[name] > 0):
            raise ValueError(f"{name}={found.get(name)!r} must be a positive number")
    if found["architecture"] == "topk" and found["k"] > found["latents"]:
        raise ValueError(
            f"k={found['k']} is more than the {found['latents']} latents of {expansion} × {width}"
        )
    return found


def train_dictionary(
    x: Tensor, settings: Mapping[str, Any], expansion: int, seed: int, site: str, model: str = "dyck3"
) -> Any:
    """An SAE of ``expansion`` times the width on ``settings["activations"]`` of the tokens ``x`` [n, width] (or all).

    Raises ``ValueError`` for bad settings, and for fewer tokens than one batch.
    """
    chosen = expanded(settings, x.shape[1], expansion)
    metadata = {"model_name": model, "hook_name": site, "prepend_bos": True}
    return train_sae(some(x, chosen, seed), chosen, derive(seed, "dictionary"), metadata)


def untrained_dictionary(settings: Mapping[str, Any], expansion: int, width: int, seed: int) -> Any:
    """The SAE that :func:`train_dictionary` with that ``seed`` starts from, but for its ``b_dec``."""
    return untrained_sae(expanded(settings, width, expansion), width, derive(seed, "dictionary"))


@torch.no_grad()
def dictionary_rows(
    dictionary: Any,
    component: str,
    x: Tensor,
    y: Tensor | None = None,
    text: Mapping[str, str | int] | None = None,
) -> list[Row]:
    """How an SAE does on held-out tokens ``x`` [n, width], or a transcoder from ``x`` to ``y``; ``text`` goes on each row.

    Explained variance is ``1 - Σ‖y - ŷ‖² / Σ‖y - mean‖²``, L0 the mean number of active latents a token, dead the share of
    latents that no token activates, width the number of latents. Raises ``ValueError`` for tokens that are all alike.
    """
    target = x if y is None else y
    guess, fired = torch.empty_like(target), torch.zeros(dictionary.cfg.d_sae, dtype=torch.float64)
    for part, out in zip(x.split(SAE_CHUNK_TOKENS), guess.split(SAE_CHUNK_TOKENS), strict=True):
        latents = dictionary.encode(part.to(dictionary.device))
        out.copy_(dictionary.decode(latents))
        fired += (latents != 0).sum(0).cpu()
    values = {
        "explained_variance": 1 - nmse(target, guess),
        "l0": float(fired.sum()) / len(x),
        "dead_share": float((fired == 0).double().mean()),
        "width": float(len(fired)),
    }
    return [
        {"lens": LENS, "component": component, "metric": m, "value": v, **(text or {})}
        for m, v in values.items()
    ]


def some(x: Tensor, settings: Mapping[str, Any], seed: int) -> Tensor:
    """``settings["activations"]`` tokens of ``x``, or all. Raises ``ValueError`` for fewer than one batch."""
    wanted = min(len(x), int(settings["activations"]))
    if wanted < settings["batch_size"]:
        raise ValueError(f"{wanted} activations do not fill one batch of {settings['batch_size']}")
    return (
        x
        if wanted == len(x)
        else x[torch.randperm(len(x), generator=generator(seed, "activations"))[:wanted]]
    )
