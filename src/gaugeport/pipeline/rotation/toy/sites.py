"""Read and replace the activations of a Dyck-3 model at named sites.

A site is a place and a layer: ``resid_pre_0``, ``mlp_post_1``. Activations are computed from what every
source of the graph wrote (:func:`.components.run_graph`), so that one forward pass serves all sites.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from gaugeport.models.dyck import DyckModel
from gaugeport.pipeline.rotation.toy.components import (
    INPUTS,
    STRINGS_PER_PASS,
    components,
    heads_of_layer,
    layer_of,
    run_graph,
)
from gaugeport.pipeline.rotation.toy.strings import PAD

STREAM_PLACES = ("resid_pre", "resid_mid", "resid_post")
"""The residual stream before a layer's attention, between attention and MLP, and after the MLP."""

SAE_PLACES = (*STREAM_PLACES, "attn_out", "mlp_pre", "mlp_post")
"""The places that have SAEs (paper B, section 3.2); ``mlp_pre`` is before the ReLU, ``mlp_post`` after it."""

TRANSCODER_PLACES = ("mlp_in", "mlp_out")
"""The places that a transcoder maps between: the normed stream that an MLP reads, and what it writes."""


def sae_sites(layers: int) -> list[str]:
    """List the sites that may have SAEs in a model of so many layers: ``resid_pre_0`` … ``mlp_post_1``."""
    return [f"{place}_{layer}" for layer in range(layers) for place in SAE_PLACES]


def value_at(model: DyckModel, written: Mapping[str, Tensor], site: str) -> Tensor:
    """Compute the activation at a site from what every source wrote.

    Args:
        model: A Dyck-3 model.
        written: Source -> what it wrote, float[b, t, d] (:func:`.components.run_graph`).
        site: A place of :data:`SAE_PLACES` or :data:`TRANSCODER_PLACES`, ``_`` and a layer.

    Returns:
        float[b, t, width]; the width is d in the stream, and the number of neurons at ``mlp_pre`` and
        ``mlp_post``.

    Raises:
        ValueError: If the model has no such site.
    """
    place, n = _split(model, site, (*SAE_PLACES, *TRANSCODER_PLACES))
    attention, mlp = heads_of_layer(model, n), f"L{n}M"
    if place == "attn_out":
        return _sum(written, attention)
    if place == "mlp_out":
        return written[mlp]
    earlier = [*INPUTS, *(c for c in components(model) if layer_of(c) < n)]
    if place == "resid_pre":
        return _sum(written, earlier)
    mid = _sum(written, earlier + attention)
    if place == "resid_mid":
        return mid
    if place == "resid_post":
        return mid + written[mlp]
    layer = model.model.layers[n]
    normed = layer.post_attention_layernorm(mid)
    if place == "mlp_in":
        return normed
    pre = layer.mlp.up_proj(normed)
    return functional.relu(pre) if place == "mlp_post" else pre


def activations_at(model: DyckModel, rows: Mapping[str, Tensor], site: str) -> Tensor:
    """Return the activation at a site for every token that is not padding.

    BOS and EOS are included: in these models their activations are not larger than others, and the model is
    scored on them too.

    Args:
        model: A Dyck-3 model.
        rows: Labelled strings (:func:`.strings.label_rows`).
        site: As :func:`value_at`.

    Returns:
        float32[tokens, width].

    Raises:
        ValueError: If the model has no such site.
    """
    return torch.cat(list(activation_batches(model, rows, site)))


@torch.no_grad()
def activation_batches(model: DyckModel, rows: Mapping[str, Tensor], site: str) -> Iterator[Tensor]:
    """Yield :func:`activations_at` in parts, one for every :data:`STRINGS_PER_PASS` strings."""
    for ids in rows["input_ids"].split(STRINGS_PER_PASS):
        yield value_at(model, run_graph(model, ids).written, site)[ids != PAD]


def run_from_site(model: DyckModel, site: str, x: Tensor) -> Tensor:
    """Run the model on from a site of the stream, whose activation is given.

    Args:
        model: A Dyck-3 model.
        site: A place of :data:`STREAM_PLACES`, ``_`` and a layer.
        x: The stream there, float[b, t, d].

    Returns:
        Logits, float[b, t, 51].

    Raises:
        ValueError: If the model has no such site.
    """
    place, n = _split(model, site, STREAM_PLACES)
    layers: Any = model.model.layers
    if place == "resid_mid":
        x = x + layers[n].mlp(layers[n].post_attention_layernorm(x))
    for layer in layers[n if place == "resid_pre" else n + 1 :]:
        x = layer(x)
    return model.unembed(model.model.norm(x))


def _split(model: DyckModel, site: str, places: tuple[str, ...]) -> tuple[str, int]:
    """Split a site into place and layer; refuse other places, and layers that the model does not have."""
    place, _, number = site.rpartition("_")
    layers = model.config.num_hidden_layers
    if place not in places or number not in map(str, range(layers)):
        raise ValueError(
            f"unknown site {site!r}; allowed: one of {', '.join(places)}, followed by _0 to _{layers - 1}"
        )
    return place, int(number)


def _sum(written: Mapping[str, Tensor], sources: list[str]) -> Tensor:
    """Add up what some sources wrote, in order."""
    total = written[sources[0]]
    for source in sources[1:]:
        total = total + written[source]
    return total
