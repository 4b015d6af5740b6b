"""Lens 3: path patching (Goldowsky-Dill et al. 2023) and ACDC (Conmy et al. 2023) over the graph of components.

What is cut out carries its mean over held-out tokens. *Path patching* cuts one edge at a time, everything behind it
responding. *ACDC* walks the graph from the output backwards and cuts for good every edge whose cut, on top of those made,
costs less than a threshold; what is left is the circuit. Heads have one input here, where ACDC's own graphs part it into
queries, keys and values. Paper B, section 3.3.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gaugeport.models.dyck import HEADS, IGNORED, DyckModel, by_head
from gaugeport.pipeline.rotation.lenses.measurement import Row, row
from gaugeport.pipeline.rotation.toy.components import (
    OUTPUT,
    Edge,
    components,
    edges,
    is_mlp,
    mean_loss,
    mean_outputs,
    run_graph,
    unaffected_sources,
)
from gaugeport.pipeline.rotation.toy.effects import measure_effects

PATHS, ACDC = "path_patching", "acdc"
COSTS = ("kl", "loss")
"""What a cut may be charged with: the divergence from the clean output (Conmy et al.'s choice), or the loss's rise."""


@dataclass(frozen=True)
class Circuit:
    """What ACDC leaves of a model."""

    kept: list[Edge]
    """In the order of :func:`components.edges`."""
    loss: float
    """Mean loss of the circuit in nats, all other edges cut."""
    clean_loss: float
    """Mean loss of the whole model."""
    kl: float
    """Mean KL of the circuit's output from the model's in nats, over heads and positions."""


def path_effects(model: DyckModel, rows: Mapping[str, Tensor]) -> dict[Edge, float]:
    """Every edge -> the rise of the mean loss in nats when it alone carries its mean (:func:`effects.measure_effects`)."""
    ids = rows["input_ids"]
    return measure_effects(model, ids, rows["labels"], edges(model), mean_outputs(model, ids))


def kept_by_paths(effects: Mapping[Edge, float], threshold: float) -> dict[str, bool]:
    """Component -> whether its strongest outgoing edge raises the loss by more than ``threshold`` nats.

    Raises ``ValueError`` for a threshold that is not positive.
    """
    _check_threshold(threshold)
    strongest = {c: effects[e] for c, e in _strongest(effects).items()}
    return {c: effect > threshold for c, effect in strongest.items()}


def path_rows(effects: Mapping[Edge, float], threshold: float) -> list[Row]:
    """Rows of :func:`path_effects`: every edge, and of every component its strongest edge, direct effect and ``kept``.

    The ``model`` has ``heads_kept``. The text column ``destination`` says whom an edge goes to.
    """
    kept, found = kept_by_paths(effects, threshold), []
    for (source, destination), effect in effects.items():
        found.append(row(PATHS, source, "edge_effect", effect, destination=destination))
    for component, edge in _strongest(effects).items():
        found.append(row(PATHS, component, "strongest_edge", effects[edge], destination=edge[1]))
        found.append(row(PATHS, component, "direct_effect", effects[component, OUTPUT], destination=OUTPUT))
        found.append(row(PATHS, component, "kept", float(kept[component])))
    return [*found, row(PATHS, "model", "heads_kept", _heads_among(kept))]


@torch.no_grad()
def acdc(model: DyckModel, rows: Mapping[str, Tensor], threshold: float, by: str = "kl") -> Circuit:
    """The circuit of ``model`` on ``rows`` at ``threshold`` nats per edge, charged ``by`` one of :data:`COSTS`.

    Destinations from the output backwards, at each the latest source first. An edge is cut if the cost rises by less than
    the threshold. Edges into a component that nobody reads any more are cut without being tried: nothing could change.

    Raises ``ValueError`` for an unknown cost or a threshold that is not positive.
    """
    _check_threshold(threshold)
    if by not in COSTS:
        raise ValueError(f"by={by!r}; allowed: {', '.join(COSTS)}")
    ids, labels = rows["input_ids"], rows["labels"]
    mean, now = mean_outputs(model, ids), run_graph(model, ids)
    clean = now.logits
    cost_of = _cost(by, clean, labels)
    cost, cut = cost_of(clean), dict[Edge, Tensor]()
    every = edges(model)
    for destination in [OUTPUT, *reversed(components(model))]:
        read = destination == OUTPUT or any(e[0] == destination and e not in cut for e in every)
        for edge in reversed([e for e in every if e[1] == destination]):
            patches = {**cut, edge: mean[edge[0]]}
            if not read:
                cut = patches
                continue
            # no edge is cut yet before this destination, and its peers stay as they are now: both are known
            tried = run_graph(model, ids, patches, unaffected_sources(model, now.written, edge))
            charged = cost_of(tried.logits)
            if charged - cost < threshold:
                cut, now, cost = patches, tried, charged
    final, before = float(mean_loss(now.logits, labels)), float(mean_loss(clean, labels))
    return Circuit([e for e in every if e not in cut], final, before, kl(clean, now.logits, labels))


def kept_by_acdc(circuit: Circuit, among: Sequence[str]) -> dict[str, bool]:
    """Component -> whether the circuit has an edge that leaves it."""
    sources = {source for source, _ in circuit.kept}
    return {c: c in sources for c in among}


def acdc_rows(circuit: Circuit, model: DyckModel) -> list[Row]:
    """Every edge's and component's ``kept``; of the ``model``: edges, heads, loss (also of all edges) and KL of the circuit."""
    every, kept = edges(model), kept_by_acdc(circuit, components(model))
    found = [row(ACDC, s, "edge_kept", float((s, d) in circuit.kept), destination=d) for s, d in every]
    found += [row(ACDC, c, "kept", float(k)) for c, k in kept.items()]
    whole = {
        "edges": len(every),
        "edges_kept": len(circuit.kept),
        "heads_kept": _heads_among(kept),
        "loss": circuit.loss,
        "clean_loss": circuit.clean_loss,
        "kl": circuit.kl,
    }
    return found + [row(ACDC, "model", metric, float(value)) for metric, value in whole.items()]


def kl(clean: Tensor, other: Tensor, labels: Tensor) -> float:
    """Mean KL(clean ‖ other) in nats over heads and positions that are no padding; logits [b, t, 51], labels [b, t, 3]."""
    kept, total = labels[..., 0] != IGNORED, 0.0
    for p, q in zip(by_head(clean), by_head(other), strict=True):
        p, q = p[kept].log_softmax(-1), q[kept].log_softmax(-1)
        total += float((p.exp() * (p - q)).sum(-1).double().mean())
    return total / len(HEADS)


def _cost(by: str, clean: Tensor, labels: Tensor) -> Callable[[Tensor], float]:
    if by == "kl":
        return lambda logits: kl(clean, logits, labels)
    return lambda logits: float(mean_loss(logits, labels))


def _strongest(effects: Mapping[Edge, float]) -> dict[str, Edge]:
    """Component -> its outgoing edge whose cut raises the loss most."""
    found: dict[str, Edge] = {}
    for edge, effect in effects.items():
        source = edge[0]
        if source.startswith("L") and (source not in found or effect > effects[found[source]]):
            found[source] = edge
    return found


def _heads_among(kept: Mapping[str, bool]) -> float:
    return float(sum(k for c, k in kept.items() if not is_mlp(c)))


def _check_threshold(threshold: float) -> None:
    if not 0 < threshold < float("inf"):
        raise ValueError(f"threshold={threshold} nats; allowed: positive numbers")
