"""Table a9: lists of A against those of a target that carries a residual or a neuron gauge."""

from __future__ import annotations

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
from gaugeport.pipeline.stages.lists import HALVES, measure_scores
from gaugeport.pipeline.stages.stage import Built
from gaugeport.pipeline.tasks.shared.lists import list_stages, scores_of, theory
from gaugeport.pipeline.tasks.shared.transfer import Transfer, check_transfer, load_transfer
from gaugeport.pipeline.tasks.task import Row, Task
from gaugeport.transport import transport_model
from gaugeport.transport.neurons import NeuronGauge, match_neurons
from gaugeport.utils.seeds import generator

NAMED = {"none": "raw", "oracle": "oracle"}
"""Matcher of a condition -> how the gauge was named; any other matcher recovers it."""


def measure(job: Job, built: Built) -> list[Row]:
    """Return the rows of one condition for both kinds of planted gauge, its gauge accuracy and the losses.

    The condition without a matcher also runs one plant of each kind for real, which the invariant controls
    are read from. The oracle's also compares lists on different tokens, which no gauge affects.
    """
    pair, (a, b), k = load_transfer(job, built), scores_of(job, built), job.task["k"]
    # matching is equivariant, so a drifted target needs one plant; where it costs little all are matched
    everywhere = job.task["target"] == "identical" and job.matcher != "oracle"
    n = job.task["plants"] if everywhere else pair.plants
    residuals = [pair.condition.residual(pair.nodes, plant) for plant in range(n)]
    rows = audit_rows(a, b, residuals, "residual", k)
    neurons = audit_rows(a, b, _neuron_gauges(job, pair, residuals[0]), "neuron", k)
    rows += [{**r, "evidence": "weights"} if job.matcher not in NAMED else r for r in neurons]
    for row in rows:
        row["theory"] = theory(job, plant_group(pair.condition.evidence), row["metric"], len(a[row["list"]]))
    if job.matcher == "none":
        rows += _run_plants(job, built, pair)
    if job.matcher == "oracle":
        rows += reliability_rows([scores_of(job, built, half) for half in HALVES], k)
    where = {**pair.where, "named": NAMED.get(job.matcher, "recovered"), "k": k}
    return [*({**where, **row} for row in rows), *pair.accuracy()]


def _neuron_gauges(job: Job, pair: Transfer, residual: Element) -> list[SignedPermutation]:
    """Return what is left between A's neuron list and that of B carrying a neuron gauge, once the condition
    named it.

    A recovered gauge is matched by weights after A was moved by the condition's own residual gauge, since
    neurons can only be compared in shared coordinates. One plant suffices: that matching is equivariant.
    """
    plants = [
        NeuronGauge.random(pair.b, generator(job.seed, "neurons", p)) for p in range(job.task["plants"])
    ]
    block = int(pair.site.removeprefix("block"))
    if job.matcher == "none":
        return [p.blocks[block].inverse() for p in plants]
    first = plants[0]
    if job.matcher == "oracle":
        return [SignedPermutation.identity(first.blocks[block].size)]
    matched = match_neurons(transport_model(pair.a, residual), first.apply(pair.b))
    return [compose(first.blocks[block].inverse(), matched.blocks[block])]


def _run_plants(job: Job, built: Built, pair: Transfer) -> list[Row]:
    """Plant one gauge of each kind on B and measure its lists anew."""
    a, b = scores_of(job, built)
    block = int(pair.site.removeprefix("block"))
    residual = GROUPS[pair.chart.group].random(pair.chart.width, generator(job.seed, "audit"))
    assert isinstance(residual, SignedPermutation)  # the lists that are moved are of single coordinates
    neurons = NeuronGauge.random(pair.b, generator(job.seed, "neurons", 0))
    carriers = {
        "residual": (transport_model(pair.b, residual), residual),
        "neuron": (neurons.apply(pair.b), neurons.blocks[block]),
    }
    rows: list[Row] = []
    for planted, (model, plant) in carriers.items():
        rows += audit_run_rows(a, b, measure_scores(model, job, built["data"]), plant, planted, job.task["k"])
    for row in rows:
        moved = LISTS[row["list"]].space == SPACE_MOVED_BY[row["planted"]]
        row["theory"] = 0.0 if moved else 1.0 if job.task["target"] == "identical" else None
    return rows


TASK = Task(measure, list_stages, check_transfer)
