"""Jobs of the gauge audit (table a9): lists of A against those of a target that carries a residual or a neuron gauge."""

from __future__ import annotations

from typing import Any

from gaugeport.groups import GROUPS, Element, SignedPermutation, compose
from gaugeport.pipeline.job import Job
from gaugeport.pipeline.measures.conditions import plant_group
from gaugeport.pipeline.measures.importance import LISTS
from gaugeport.pipeline.measures.index_audit import (
    SPACE_MOVED_BY,
    audit_rows,
    audit_run_rows,
    reliability_rows,
)
from gaugeport.pipeline.store.store import Store
from gaugeport.pipeline.tasks.lists import HALVES, measure_scores, scores_of, theory
from gaugeport.pipeline.tasks.transfer import Transfer, transfer
from gaugeport.transport import transport_model
from gaugeport.transport.neurons import NeuronGauge, match_neurons
from gaugeport.utils.seeds import generator

Row = dict[str, Any]

NAMED = {"none": "raw", "oracle": "oracle"}
"""Matcher of an arm -> how the gauge was named; any other recovers it."""


def measure(job: Job, store: Store) -> list[Row]:
    """The rows of one arm: both kinds of planted gauge named as the arm names them, gauge accuracy and losses.

    The arm of no matcher also runs one plant of each kind for real, which the invariant controls are read from; the
    oracle's also compares lists of different tokens, which gauges have no part in.
    """
    found, (a, b), k = transfer(job, store), scores_of(job, store), job.task["k"]
    # matching is equivariant, so a drifted target needs one plant; where it costs little all are matched
    everywhere = job.task["target"] == "identical" and job.matcher != "oracle"
    n = job.task["plants"] if everywhere else found.plants
    residuals = [found.arm.residual(found.nodes, plant) for plant in range(n)]
    rows = audit_rows(a, b, residuals, "residual", k)
    neurons = audit_rows(a, b, _neuron_gauges(job, found, residuals[0]), "neuron", k)
    rows += [{**r, "evidence": "weights"} if job.matcher not in NAMED else r for r in neurons]
    for row in rows:
        row["theory"] = theory(job, plant_group(found.arm.evidence), row["metric"], len(a[row["list"]]))
    if job.matcher == "none":
        rows += _run(job, store, found)
    if job.matcher == "oracle":
        rows += reliability_rows([scores_of(job, store, half) for half in HALVES], k)
    where = {**found.where, "named": NAMED.get(job.matcher, "recovered"), "k": k}
    return [*({**where, **row} for row in rows), *found.accuracy()]


def _neuron_gauges(job: Job, found: Transfer, residual: Element) -> list[SignedPermutation]:
    """What stands between A's neuron list and that of B carrying a neuron gauge, once named as the arm does.

    A recovered one is matched by weights, after moving A by the arm's own residual gauge: neurons can only be compared
    in shared coordinates. One plant, since that matching is equivariant.
    """
    plants = [
        NeuronGauge.random(found.b, generator(job.seed, "neurons", p)) for p in range(job.task["plants"])
    ]
    block = int(found.site.removeprefix("block"))
    if job.matcher == "none":
        return [p.blocks[block].inverse() for p in plants]
    first = plants[0]
    if job.matcher == "oracle":
        return [SignedPermutation.identity(first.blocks[block].size)]
    matched = match_neurons(transport_model(found.a, residual), first.apply(found.b))
    return [compose(first.blocks[block].inverse(), matched.blocks[block])]


def _run(job: Job, store: Store, found: Transfer) -> list[Row]:
    """One plant of each kind on B, really run."""
    a, b = scores_of(job, store)
    block = int(found.site.removeprefix("block"))
    residual = GROUPS[found.chart.group].random(found.chart.width, generator(job.seed, "audit"))
    assert isinstance(residual, SignedPermutation)  # the lists that are moved are of single coordinates
    neurons = NeuronGauge.random(found.b, generator(job.seed, "neurons", 0))
    carriers = {
        "residual": (transport_model(found.b, residual), residual),
        "neuron": (neurons.apply(found.b), neurons.blocks[block]),
    }
    rows: list[Row] = []
    for planted, (model, plant) in carriers.items():
        rows += audit_run_rows(a, b, measure_scores(model, job, store), plant, planted, job.task["k"])
    for row in rows:
        moved = LISTS[row["list"]].space == SPACE_MOVED_BY[row["planted"]]
        row["theory"] = 0.0 if moved else 1.0 if job.task["target"] == "identical" else None
    return rows
