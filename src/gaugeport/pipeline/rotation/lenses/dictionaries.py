"""Lens 2: sparse autoencoders at every internal site (paper B, section 3.2); transcoders are in :mod:`.transcoders`.

SAEs are trained by :func:`gaugeport.pipeline.training.saes.train_sae`. Latents are penalised by the norms of their decoder rows,
which is the paper's unit-norm decoder with the norm moved into the latent.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from gaugeport.alignment.assignment import solve
from gaugeport.models.dyck import DyckModel
from gaugeport.pipeline.measures.sae_transfer import SAE_CHUNK_TOKENS, nmse
from gaugeport.pipeline.rotation.lenses.rows import ROWS_AT_ONCE, Row
from gaugeport.pipeline.rotation.toy.components import components, is_mlp, layer_of, run
from gaugeport.pipeline.rotation.toy.strings import PAD
from gaugeport.pipeline.training.saes import ARCHITECTURES, NUMBERS, train_sae, untrained_sae
from gaugeport.utils.seeds import derive, generator

LENS = "dictionaries"
EXPANSIONS = (4, 16)
"""Latents per coordinate of the site (section 3.2)."""

PLACES = ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_pre", "mlp_post")
"""What a layer has SAEs on; ``mlp_pre`` are the neurons before, ``mlp_post`` after the ReLU."""

ENDS = ("mlp_in", "mlp_out")
"""What a transcoder maps between: the normed stream that the MLP reads, and what it writes."""


def sites_of(layers: int) -> list[str]:
    """``resid_pre_0`` … ``mlp_post_1``: the sites of a model of so many layers that may have SAEs."""
    return [f"{place}_{layer}" for layer in range(layers) for place in PLACES]


def value_at(model: DyckModel, wrote: Mapping[str, Tensor], site: str) -> Tensor:
    """The activation [b, t, width] at ``site``, of what every source ``wrote`` (:func:`components.run`).

    Raises ``ValueError`` for a site that the model does not have.
    """
    place, _, number = site.rpartition("_")
    layers = model.config.num_hidden_layers
    if place not in (*PLACES, *ENDS) or number not in map(str, range(layers)):
        raise ValueError(
            f"unknown site {site!r}; allowed: one of {', '.join((*PLACES, *ENDS))}, then _0 to _{layers - 1}"
        )
    n = int(number)
    here = [c for c in components(model) if layer_of(c) == n and not is_mlp(c)]
    if place == "attn_out":
        return _sum(wrote, here)
    if place == "mlp_out":
        return wrote[f"L{n}M"]
    before = ["embed", "position", *(c for c in components(model) if layer_of(c) < n)]
    if place == "resid_pre":
        return _sum(wrote, before)
    mid = _sum(wrote, before + here)
    if place == "resid_mid":
        return mid
    if place == "resid_post":
        return mid + wrote[f"L{n}M"]
    layer = model.model.layers[n]
    normed = layer.post_attention_layernorm(mid)
    if place == "mlp_in":
        return normed
    pre = layer.mlp.up_proj(normed)
    return functional.relu(pre) if place == "mlp_post" else pre


@torch.no_grad()
def chunks_at(model: DyckModel, rows: Mapping[str, Tensor], site: str) -> Iterator[Tensor]:
    """:func:`activations_at` in parts of :data:`ROWS_AT_ONCE` strings."""
    for ids in rows["input_ids"].split(ROWS_AT_ONCE):
        yield value_at(model, run(model, ids).wrote, site)[ids != PAD]


def activations_at(model: DyckModel, rows: Mapping[str, Tensor], site: str) -> Tensor:
    """What ``site`` holds at every token of ``rows`` but padding, BOS and EOS included: float32[tokens, width].

    BOS stays: its activations are no larger than others' here, and the model is scored there too.
    """
    return torch.cat(list(chunks_at(model, rows, site)))


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


@dataclass(frozen=True)
class Match:
    """Decoder rows of one dictionary and their counterparts in another."""

    columns: Tensor
    """int64[latents]: the row of the other dictionary in the one-to-one matching of greatest total cosine."""
    matched: Tensor
    """float32[latents]: the cosine to that row."""
    best: Tensor
    """float32[latents]: the greatest cosine to any row, which several rows may share."""

    def values(self, threshold: float) -> dict[str, float]:
        """Shares of rows whose cosine, matched and best, is above ``threshold``, and the mean cosines.

        Raises ``ValueError`` for a threshold that is no cosine.
        """
        if not 0 < threshold < 1:
            raise ValueError(f"threshold={threshold} of a cosine; allowed: between 0 and 1")
        found = {}
        for name, cosine in (("matched", self.matched), ("max", self.best)):
            found[f"{name}_above"] = float((cosine > threshold).double().mean())
            found[f"mean_{name}_cosine"] = float(cosine.double().mean())
        return found


def match_decoders(a: Tensor, b: Tensor) -> Match:
    """Which decoder row of ``b`` [latents, width] is which of ``a``, by signed cosine: ReLU latents have a direction.

    Rows of zero norm have cosine 0 with all. Raises ``ValueError`` for shapes that differ. Source: section 7.1.
    """
    if a.dim() != 2 or a.shape != b.shape:
        raise ValueError(
            f"decoders of shapes {tuple(a.shape)} and {tuple(b.shape)}; wanted: the same [latents, width]"
        )
    cosine = (
        functional.normalize(a.detach().float(), dim=1) @ functional.normalize(b.detach().float(), dim=1).T
    )
    columns = torch.from_numpy(solve(cosine).columns).long()
    return Match(columns, cosine.gather(1, columns[:, None])[:, 0], cosine.max(1).values)


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


def _sum(wrote: Mapping[str, Tensor], sources: list[str]) -> Tensor:
    total = wrote[sources[0]]
    for source in sources[1:]:
        total = total + wrote[source]
    return total
