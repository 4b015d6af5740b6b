"""A Dyck-3 model as a computational graph: what every component writes, and who reads it.

The residual stream is a sum of *sources*: the embedding, the position features, every head, every MLP. A *destination* (a
head, an MLP, the output) reads the sum of the sources before it. Patching replaces what one source writes, for all
destinations (a component) or for one (an edge); everything downstream responds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from gaugeport.models.dyck import DyckModel, losses
from gaugeport.pipeline.rotation.toy.strings import IGNORED, PAD

Edge = tuple[str, str]
"""A source and a destination; the destination ``ALL`` stands for every one: the patch of a component."""

ALL = "all"
OUTPUT = "output"
INPUTS = ("embed", "position")
"""The sources that are no component."""


def components(model: DyckModel) -> list[str]:
    """Heads and MLPs in order: ``L0H0`` … ``L0M``, ``L1H0`` …; ten of them in paper B's model."""
    config = model.config
    return [
        f"L{layer}{part}"
        for layer in range(config.num_hidden_layers)
        for part in (*(f"H{h}" for h in range(config.num_attention_heads)), "M")
    ]


def heads(model: DyckModel) -> list[str]:
    """The heads among the components."""
    return [c for c in components(model) if not is_mlp(c)]


def is_mlp(component: str) -> bool:
    """Whether a component is an MLP."""
    return component.endswith("M")


def layer_of(component: str) -> int:
    """The layer of a component; the inputs stand before the first, the output behind the last."""
    return (
        -1 if component in INPUTS else int(component[1 : component.index("M" if is_mlp(component) else "H")])
    )


def edges(model: DyckModel) -> list[Edge]:
    """Every edge of the graph, in the order in which its destination is computed."""
    found = []
    before = list(INPUTS)
    for layer in range(model.config.num_hidden_layers):
        here = [c for c in heads(model) if layer_of(c) == layer]
        found += [(source, head) for head in here for source in before]
        before += here
        found += [(source, f"L{layer}M") for source in before]
        before.append(f"L{layer}M")
    return found + [(source, OUTPUT) for source in before]


@dataclass(frozen=True)
class Run:
    """One forward pass: ``logits`` [b, t, 51], and what every source ``wrote``, source -> [b, t, d]."""

    logits: Tensor
    wrote: dict[str, Tensor]


def run(
    model: DyckModel,
    ids: Tensor,
    patches: Mapping[Edge, Tensor] | None = None,
    known: Mapping[str, Tensor] | None = None,
) -> Run:
    """The model on ``ids`` int64[b, t], with ``patches`` (an edge -> what it carries instead, broadcast to [b, t, d]).

    A patched source keeps its own value in ``wrote``. ``known`` are sources that need no computing, because nothing that
    they depend on is patched. Raises ``ValueError`` for an edge that the graph does not have.
    """
    patches, known = patches or {}, known or {}
    _check(model, patches)
    wrote = dict(known)
    if "embed" not in wrote:
        wrote["embed"] = model.model.embed_tokens(ids)
        wrote["position"] = model.model.get_buffer("position")[: ids.shape[1]].expand(*ids.shape, -1)

    def read(destination: str, sources: list[str]) -> Tensor:
        parts = [patches.get((s, destination), patches.get((s, ALL), wrote[s])) for s in sources]
        total = torch.zeros_like(wrote["embed"])
        for part in parts:
            total = total + part
        return total

    before = list(INPUTS)
    layers: Any = model.model.layers
    for n, layer in enumerate(layers):
        here = [f"L{n}H{h}" for h in range(model.config.num_attention_heads)]
        missing = [h for h in here if h not in wrote]
        if missing:
            apart = any(destination in here for _, destination in patches)
            streams = [read(h, before) for h in here] if apart else [read(ALL, before)] * len(here)
            written = _heads(layer, streams, shared=not apart)
            wrote |= {h: written[..., k, :] for k, h in enumerate(here) if h in missing}
        before += here
        mlp = f"L{n}M"
        if mlp not in wrote:
            wrote[mlp] = layer.mlp(layer.post_attention_layernorm(read(mlp, before)))
        before.append(mlp)
    return Run(model.unembed(model.model.norm(read(OUTPUT, before))), wrote)


def upstream(model: DyckModel, wrote: Mapping[str, Tensor], edge: Edge) -> dict[str, Tensor]:
    """Of a clean run's sources, those that a patch of ``edge`` leaves as they are: what ``run`` may take as known."""
    source, destination = edge
    order = [*INPUTS, *components(model)]
    if destination == OUTPUT:
        return dict(wrote)
    if destination == ALL:
        same = (
            [c for c in order if layer_of(c) == layer_of(source) and not is_mlp(c)] if source in order else []
        )
        first = len(INPUTS) if source in INPUTS else order.index(source) + 1
        return {s: wrote[s] for s in {*order[:first], *(same if source not in INPUTS else [])}}
    peers = [
        c for c in order if layer_of(c) == layer_of(destination) and not is_mlp(destination) and not is_mlp(c)
    ]
    return {s: wrote[s] for s in {*order[: order.index(destination)], *peers} if s != destination}


def _heads(layer: Any, streams: list[Tensor], shared: bool) -> Tensor:
    """What every head writes, [b, t, heads, d]. ``shared``: all heads read one stream."""
    attention = layer.self_attn
    normed = [layer.input_layernorm(x) for x in (streams[:1] if shared else streams)]
    q, k, v = (
        _project(p.weight, normed, attention.heads)
        for p in (attention.q_proj, attention.k_proj, attention.v_proj)
    )
    z = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
    out = attention.o_proj.weight.unflatten(1, (attention.heads, -1))
    return torch.einsum("bhtk,dhk->bthd", z, out)


def _project(weight: Tensor, streams: list[Tensor], n: int) -> Tensor:
    """Each head's rows of ``weight`` on its stream (or all on the one there is): [b, heads, t, head width]."""
    if len(streams) == 1:
        return functional.linear(streams[0], weight).unflatten(-1, (n, -1)).transpose(1, 2)
    return torch.stack([functional.linear(x, w) for x, w in zip(streams, weight.chunk(n), strict=True)], 1)


def attention_weights(model: DyckModel, ids: Tensor) -> dict[str, Tensor]:
    """Head -> its attention probabilities [b, t, t] on a clean run."""
    wrote = run(model, ids).wrote
    found: dict[str, Tensor] = {}
    x = wrote["embed"] + wrote["position"]
    layers: Any = model.model.layers
    for n, layer in enumerate(layers):
        normed = [layer.input_layernorm(x)]
        q, k = (
            _project(p.weight, normed, layer.self_attn.heads)
            for p in (layer.self_attn.q_proj, layer.self_attn.k_proj)
        )
        scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
        hidden = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
        weights = scores.masked_fill(hidden, float("-inf")).softmax(-1)
        found |= {f"L{n}H{h}": weights[:, h] for h in range(layer.self_attn.heads)}
        x = x + sum(wrote[c] for c in components(model) if layer_of(c) == n)
    return found


def mean_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean −log p of the true labels in nats, over heads and positions that are no padding."""
    return losses(logits, labels).sum() / (labels != IGNORED).sum()


@torch.no_grad()
def means(model: DyckModel, ids: Tensor) -> dict[str, Tensor]:
    """Source -> the mean [d] of what it writes over samples and positions of ``ids``, padding excluded."""
    kept = ids != PAD
    return {source: x[kept].mean(0) for source, x in run(model, ids).wrote.items()}


def _check(model: DyckModel, patches: Mapping[Edge, Tensor]) -> None:
    if not patches:
        return
    allowed = {*edges(model), *((s, ALL) for s in (*INPUTS, *components(model)))}
    unknown = [e for e in patches if e not in allowed]
    if unknown:
        raise ValueError(
            f"no edge {unknown[0]} in this model; allowed: {sorted(allowed)[:6]} … ({len(allowed)} in all)"
        )
