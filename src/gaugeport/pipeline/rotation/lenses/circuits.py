"""Lens 3, causal interventions: path patching (Goldowsky-Dill et al. 2023) and ACDC (Conmy et al. 2023).

An edge that is cut carries its mean over held-out tokens. *Path patching* cuts one edge at a time and lets
everything downstream respond. *ACDC* walks the graph from the output backwards and cuts an edge for good if
that costs less than a threshold, on top of the cuts made so far; what remains is the circuit. A head has one
input here, where ACDC's own graphs tell queries, keys and values apart. Paper B, section 3.3.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gaugeport.models.dyck import HEADS, IGNORED, DyckModel, by_head
from gaugeport.pipeline.rotation.lenses.measurement import Row, check_threshold, row
from gaugeport.pipeline.rotation.toy.components import (
    INPUTS,
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
"""What a cut costs: the divergence from the clean output (as in Conmy et al.), or the rise of the loss."""


@dataclass(frozen=True)
class Circuit:
    """Hold what ACDC leaves of a model."""

    kept: list[Edge]
    """In the order of :func:`.components.edges`."""
    loss: float
    """Mean loss of the circuit in nats, all other edges cut."""
    clean_loss: float
    """Mean loss of the whole model in nats."""
    kl: float
    """Mean divergence of the circuit's output from the model's in nats, over heads and positions."""


def path_effects(model: DyckModel, rows: Mapping[str, Tensor]) -> dict[Edge, float]:
    """Measure the rise of the mean loss when an edge alone carries its mean, for every edge.

    Args:
        model: A Dyck-3 model.
        rows: Labelled strings.

    Returns:
        Edge -> rise in nats (:func:`.effects.measure_effects`).
    """
    ids = rows["input_ids"]
    return measure_effects(model, ids, rows["labels"], edges(model), mean_outputs(model, ids))


def kept_by_paths(effects: Mapping[Edge, float], threshold: float) -> dict[str, bool]:
    """Keep the components whose strongest outgoing edge raises the loss enough.

    Args:
        effects: Edge -> rise in nats (:func:`path_effects`).
        threshold: Rise in nats above which a component is kept.

    Returns:
        Component -> whether it is kept.

    Raises:
        ValueError: If the threshold is not positive.
    """
    check_threshold(threshold)
    return {c: effects[edge] > threshold for c, edge in _strongest_edges(effects).items()}


def path_rows(effects: Mapping[Edge, float], threshold: float) -> list[Row]:
    """Put path patching into rows.

    Args:
        effects: Edge -> rise in nats (:func:`path_effects`).
        threshold: As :func:`kept_by_paths`.

    Returns:
        ``edge_effect`` of every edge; ``strongest_edge``, ``direct_effect`` and ``kept`` of every component;
        ``heads_kept`` of the ``model``. The column ``destination`` says where an edge ends.

    Raises:
        ValueError: If the threshold is not positive.
    """
    kept, result = kept_by_paths(effects, threshold), []
    for (source, destination), effect in effects.items():
        result.append(row(PATHS, source, "edge_effect", effect, destination=destination))
    for component, edge in _strongest_edges(effects).items():
        result.append(row(PATHS, component, "strongest_edge", effects[edge], destination=edge[1]))
        result.append(row(PATHS, component, "direct_effect", effects[component, OUTPUT], destination=OUTPUT))
        result.append(row(PATHS, component, "kept", float(kept[component])))
    return [*result, row(PATHS, "model", "heads_kept", _count_heads(kept))]


@torch.no_grad()
def acdc(model: DyckModel, rows: Mapping[str, Tensor], threshold: float, cost: str = "kl") -> Circuit:
    """Find the circuit of a model.

    Destinations are visited from the output backwards, and the edges into one from the latest source to the
    first. An edge is cut if the cost rises by less than the threshold. Edges into a component that no kept
    edge leaves are cut without being tried, because they change nothing.

    Args:
        model: A Dyck-3 model.
        rows: Labelled strings.
        threshold: Nats that an edge has to cost to be kept.
        cost: One of :data:`COSTS`.

    Returns:
        The edges kept, with loss and divergence.

    Raises:
        ValueError: If the cost is unknown or the threshold is not positive.
    """
    check_threshold(threshold)
    if cost not in COSTS:
        raise ValueError(f"cost={cost!r}; allowed: {', '.join(COSTS)}")
    ids, labels = rows["input_ids"], rows["labels"]
    means, clean = mean_outputs(model, ids), run_graph(model, ids)
    cost_of = _cost_function(cost, clean.logits, labels)
    every_edge = edges(model)
    current, current_cost, cut = clean, cost_of(clean.logits), dict[Edge, Tensor]()
    for destination in [OUTPUT, *reversed(components(model))]:
        is_read = destination == OUTPUT or any(e[0] == destination and e not in cut for e in every_edge)
        for edge in reversed([e for e in every_edge if e[1] == destination]):
            patches = {**cut, edge: means[edge[0]]}
            if not is_read:
                cut = patches
                continue
            # no edge into an earlier destination is cut yet: the sources before this one are known
            tried = run_graph(model, ids, patches, unaffected_sources(model, current.written, edge))
            tried_cost = cost_of(tried.logits)
            if tried_cost - current_cost < threshold:
                current, current_cost, cut = tried, tried_cost, patches
    return Circuit(
        kept=[e for e in every_edge if e not in cut],
        loss=float(mean_loss(current.logits, labels)),
        clean_loss=float(mean_loss(clean.logits, labels)),
        kl=mean_kl(clean.logits, current.logits, labels),
    )


def kept_by_acdc(circuit: Circuit, among: Sequence[str]) -> dict[str, bool]:
    """Return component -> whether an edge of the circuit leaves it, for the components ``among``."""
    sources = {source for source, _ in circuit.kept}
    return {c: c in sources for c in among}


def acdc_rows(circuit: Circuit, model: DyckModel) -> list[Row]:
    """Put a circuit into rows.

    Args:
        circuit: What :func:`acdc` found.
        model: The model it was found in.

    Returns:
        ``edge_kept`` of every edge and ``kept`` of every component; of the ``model``, its edges, and the
        circuit's edges, heads, loss and divergence.
    """
    every_edge, kept = edges(model), kept_by_acdc(circuit, components(model))
    result = [row(ACDC, s, "edge_kept", float((s, d) in circuit.kept), destination=d) for s, d in every_edge]
    result += [row(ACDC, c, "kept", float(is_kept)) for c, is_kept in kept.items()]
    of_model = {
        "edges": len(every_edge),
        "edges_kept": len(circuit.kept),
        "heads_kept": _count_heads(kept),
        "loss": circuit.loss,
        "clean_loss": circuit.clean_loss,
        "kl": circuit.kl,
    }
    return result + [row(ACDC, "model", metric, float(value)) for metric, value in of_model.items()]


def mean_kl(clean: Tensor, other: Tensor, labels: Tensor) -> float:
    """Return the mean KL(clean ‖ other) in nats over heads and over positions that are not padding.

    Args:
        clean: Logits, float[b, t, 51].
        other: Logits, float[b, t, 51].
        labels: int64[b, t, 3].

    Returns:
        Nats.
    """
    kept, total = labels[..., 0] != IGNORED, 0.0
    for p, q in zip(by_head(clean), by_head(other), strict=True):
        p, q = p[kept].log_softmax(-1), q[kept].log_softmax(-1)
        total += float((p.exp() * (p - q)).sum(-1).double().mean())
    return total / len(HEADS)


def _cost_function(cost: str, clean: Tensor, labels: Tensor) -> Callable[[Tensor], float]:
    """Return the function from logits to the cost in nats."""
    if cost == "kl":
        return lambda logits: mean_kl(clean, logits, labels)
    return lambda logits: float(mean_loss(logits, labels))


def _strongest_edges(effects: Mapping[Edge, float]) -> dict[str, Edge]:
    """Return component -> its outgoing edge whose cut raises the loss most."""
    strongest: dict[str, Edge] = {}
    for edge, effect in effects.items():
        source = edge[0]
        if source not in INPUTS and (source not in strongest or effect > effects[strongest[source]]):
            strongest[source] = edge
    return strongest


def _count_heads(kept: Mapping[str, bool]) -> float:
    """Count the heads that are kept."""
    return float(sum(is_kept for c, is_kept in kept.items() if not is_mlp(c)))
