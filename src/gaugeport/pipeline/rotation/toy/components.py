"""Describe a Dyck-3 model as a computational graph: what every component writes, and who reads it.

The residual stream is a sum of *sources*: the embedding, the position features, every head and every MLP. A
*destination* (a head, an MLP or the output) reads the sum of the sources before it. A patch replaces what one
source writes, for all destinations (a component) or for one (an edge). Everything downstream of a patch
responds to it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from gaugeport.models.dyck import IGNORED, DyckModel, losses
from gaugeport.pipeline.rotation.toy.strings import PAD

Edge = tuple[str, str]
"""A source and a destination; the destination :data:`ALL` is the patch of a whole component."""

ALL = "all"
OUTPUT = "output"
INPUTS = ("embed", "position")
"""The sources that are not components."""

STRINGS_PER_PASS = 256
"""Strings in one forward pass of the graph."""


def components(model: DyckModel) -> list[str]:
    """List heads and MLPs in order: ``L0H0`` … ``L0M``, ``L1H0`` …; ten of them in paper B's model."""
    names = []
    for layer in range(model.config.num_hidden_layers):
        names += [*heads_of_layer(model, layer), f"L{layer}M"]
    return names


def heads(model: DyckModel) -> list[str]:
    """List the heads among the components."""
    return [c for c in components(model) if not is_mlp(c)]


def heads_of_layer(model: DyckModel, layer: int) -> list[str]:
    """List the heads of one layer."""
    return [f"L{layer}H{h}" for h in range(model.config.num_attention_heads)]


def is_mlp(component: str) -> bool:
    """Return whether a component is an MLP."""
    return component.endswith("M")


def layer_of(source: str) -> int:
    """Return the layer of a component, or -1 for one of :data:`INPUTS`."""
    if source in INPUTS:
        return -1
    return int(source[1 : source.index("M" if is_mlp(source) else "H")])


def edges(model: DyckModel) -> list[Edge]:
    """List every edge of the graph, in the order in which its destination is computed."""
    listed: list[Edge] = []
    sources = list(INPUTS)
    for layer in range(model.config.num_hidden_layers):
        parallel_heads, mlp = heads_of_layer(model, layer), f"L{layer}M"
        listed += [(source, head) for head in parallel_heads for source in sources]
        sources += parallel_heads
        listed += [(source, mlp) for source in sources]
        sources.append(mlp)
    return listed + [(source, OUTPUT) for source in sources]


@dataclass(frozen=True)
class GraphRun:
    """Hold one forward pass through the graph."""

    logits: Tensor
    """float[b, t, 51]: the logits of the three heads side by side."""
    written: dict[str, Tensor]
    """Source -> what it wrote to the stream, float[b, t, d]."""


def run_graph(
    model: DyckModel,
    ids: Tensor,
    patches: Mapping[Edge, Tensor] | None = None,
    known: Mapping[str, Tensor] | None = None,
) -> GraphRun:
    """Run the model component by component, with some edges patched.

    Args:
        model: A Dyck-3 model; its gains may be in place or folded.
        ids: Tokens, int64[b, t].
        patches: Edge -> what it carries instead, broadcast to [b, t, d].
        known: Source -> what it writes, for sources that need not be computed because no patch reaches them
            (:func:`unaffected_sources`).

    Returns:
        Logits, and what every source wrote. A patched source keeps its own value in ``written``.

    Raises:
        ValueError: If a patched edge is not in the graph.
    """
    patches, known = patches or {}, known or {}
    _check_edges(model, patches)
    written = dict(known)
    if "embed" not in written:
        written["embed"] = model.model.embed_tokens(ids)
        written["position"] = model.model.get_buffer("position")[: ids.shape[1]].expand(*ids.shape, -1)

    def stream_for(destination: str, sources: list[str]) -> Tensor:
        """Add up the sources as a destination sees them; the patch of an edge overrides that of a source."""
        total = torch.zeros_like(written["embed"])
        for s in sources:
            total = total + patches.get((s, destination), patches.get((s, ALL), written[s]))
        return total

    sources = list(INPUTS)
    layers: Any = model.model.layers
    for n, layer in enumerate(layers):
        # 1) heads: they read one stream, except where an edge into one of them is patched
        names = heads_of_layer(model, n)
        missing = [name for name in names if name not in written]
        if missing:
            edge_patched = any(destination in names for _, destination in patches)
            if edge_patched:
                streams = [stream_for(name, sources) for name in names]
            else:
                streams = [stream_for(ALL, sources)]
            head_outputs = _head_outputs(layer, streams)
            written |= {name: head_outputs[..., h, :] for h, name in enumerate(names) if name in missing}
        sources += names
        # 2) the MLP reads the stream after them
        mlp = f"L{n}M"
        if mlp not in written:
            written[mlp] = layer.mlp(layer.post_attention_layernorm(stream_for(mlp, sources)))
        sources.append(mlp)
    return GraphRun(model.unembed(model.model.norm(stream_for(OUTPUT, sources))), written)


def unaffected_sources(model: DyckModel, written: Mapping[str, Tensor], edge: Edge) -> dict[str, Tensor]:
    """Select the sources of a clean run that a patch of ``edge`` leaves as they are.

    Args:
        model: The model that was run.
        written: Source -> what it wrote in the clean run, [b, t, d].
        edge: The edge to be patched.

    Returns:
        The part of ``written`` that :func:`run_graph` may take as ``known``.
    """
    source, destination = edge
    if destination == OUTPUT:
        return dict(written)
    order = [*INPUTS, *components(model)]
    if destination == ALL and source in INPUTS:
        unaffected = list(INPUTS)
    elif destination == ALL:
        # the heads of a layer run side by side: none of them sees another
        unaffected = order[: order.index(source) + 1] + heads_of_layer(model, layer_of(source))
    else:
        unaffected = order[: order.index(destination)]
        if not is_mlp(destination):
            unaffected += heads_of_layer(model, layer_of(destination))
    return {s: written[s] for s in unaffected if s != destination}


def attention_weights(model: DyckModel, ids: Tensor) -> dict[str, Tensor]:
    """Return every head's attention probabilities on a clean run.

    Args:
        model: A Dyck-3 model.
        ids: Tokens, int64[b, t].

    Returns:
        Head -> probabilities, float[b, t, t].
    """
    written = run_graph(model, ids).written
    probabilities: dict[str, Tensor] = {}
    x = written["embed"] + written["position"]
    layers: Any = model.model.layers
    for n, layer in enumerate(layers):
        attention, normed = layer.self_attn, [layer.input_layernorm(x)]
        q, k = (_project(p.weight, normed, attention.heads) for p in (attention.q_proj, attention.k_proj))
        scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
        hidden = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
        weights = scores.masked_fill(hidden, float("-inf")).softmax(-1)
        probabilities |= {name: weights[:, h] for h, name in enumerate(heads_of_layer(model, n))}
        x = x + sum(written[c] for c in components(model) if layer_of(c) == n)
    return probabilities


def mean_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the mean −log p of the true labels in nats, over heads and over positions that are not padding.

    Args:
        logits: float[b, t, 51].
        labels: int64[b, t, 3].

    Returns:
        A scalar.
    """
    return losses(logits, labels).sum() / (labels != IGNORED).sum()


@torch.no_grad()
def mean_outputs(model: DyckModel, ids: Tensor) -> dict[str, Tensor]:
    """Return source -> the mean of what it writes, float[d], over all tokens but padding."""
    kept = ids != PAD
    return {source: x[kept].mean(0) for source, x in run_graph(model, ids).written.items()}


def _head_outputs(layer: Any, streams: list[Tensor]) -> Tensor:
    """Return what every head writes, [b, t, heads, d], given one stream for all heads or one for each."""
    attention = layer.self_attn
    normed = [layer.input_layernorm(x) for x in streams]
    q, k, v = (
        _project(p.weight, normed, attention.heads)
        for p in (attention.q_proj, attention.k_proj, attention.v_proj)
    )
    z = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
    out = attention.o_proj.weight.unflatten(1, (attention.heads, -1))
    return torch.einsum("bhtk,dhk->bthd", z, out)


def _project(weight: Tensor, streams: list[Tensor], n_heads: int) -> Tensor:
    """Apply each head's rows of ``weight`` to its stream (or to the only one): [b, heads, t, head width]."""
    if len(streams) == 1:
        return functional.linear(streams[0], weight).unflatten(-1, (n_heads, -1)).transpose(1, 2)
    per_head = zip(streams, weight.chunk(n_heads), strict=True)
    return torch.stack([functional.linear(x, w) for x, w in per_head], 1)


def _check_edges(model: DyckModel, patches: Mapping[Edge, Tensor]) -> None:
    """Refuse edges that are not in the graph."""
    if not patches:
        return
    allowed = {*edges(model), *((s, ALL) for s in (*INPUTS, *components(model)))}
    unknown = [e for e in patches if e not in allowed]
    if unknown:
        shown = f"{sorted(allowed)[:6]} … ({len(allowed)} in all)"
        raise ValueError(f"the model has no edge {unknown[0]}; allowed: {shown}")
