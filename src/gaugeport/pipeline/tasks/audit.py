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
from gaugeport.pipeline.stages.models import is_copy
from gaugeport.pipeline.stages.stage import Built
from gaugeport.pipeline.tasks.shared.lists import list_stages, scores_of, theory
from gaugeport.pipeline.tasks.shared.transfer import Transfer, check_transfer, load_transfer
from gaugeport.pipeline.tasks.task import Row, Task
from gaugeport.transport import transport_model
from gaugeport.transport.neurons import NeuronGauge, match_neurons
from gaugeport.utils.seeds import generator

HOW_NAMED = {"none": "raw", "oracle": "oracle"}
"""Matcher of a condition -> how its gauge was found; any other matcher recovers it."""


def measure(job: Job, built: Built) -> list[Row]:
    """Return the rows of one condition for both kinds of planted gauge, its gauge accuracy and the losses.

    The condition without a matcher also runs a model with one planted gauge of each kind, which the invariant
    controls are read from. The oracle's also compares lists on different tokens, which no gauge affects.
    """
    pair, (a, b), k = load_transfer(job, built), scores_of(job, built), job.task["k"]
    # 1) lists against a target that carries a residual gauge
    # matching is equivariant, so a drifted target needs one plant; where it costs little all are matched
    every_plant = is_copy(job) and job.matcher != "oracle"
    n = job.task["plants"] if every_plant else pair.plants
    residuals = [pair.condition.residual(pair.nodes, plant) for plant in range(n)]
    rows = audit_rows(a, b, residuals, "residual", k)
    # 2) lists against a target that carries a neuron gauge; it is recovered from weights alone
    of_neurons = audit_rows(a, b, _neuron_residuals(job, pair, residuals[0]), "neuron", k)
    if job.matcher not in HOW_NAMED:
        of_neurons = [{**row, "evidence": "weights"} for row in of_neurons]
    rows += of_neurons
    for row in rows:
        width = len(a[row["list"]])
        row["theory"] = theory(job, plant_group(pair.condition.evidence), row["metric"], width)
    # 3) what needs only one condition
    if job.matcher == "none":
        rows += _rows_of_run_plants(job, built, pair)
    if job.matcher == "oracle":
        rows += reliability_rows([scores_of(job, built, half) for half in HALVES], k)
    where = {**pair.where, "named": HOW_NAMED.get(job.matcher, "recovered"), "k": k}
    return [*({**where, **row} for row in rows), *pair.accuracy()]


def _neuron_residuals(job: Job, pair: Transfer, residual: Element) -> list[SignedPermutation]:
    """Return what is left between A's neuron list and that of a B with a planted neuron gauge.

    Without a matcher it is the planted gauge; with the oracle, nothing. A recovered gauge is matched by
    weights after A was moved by the condition's own residual gauge, since neurons can only be compared in
    shared coordinates. One plant suffices, because that matching is equivariant.
    """
    plants = [
        NeuronGauge.random(pair.b, generator(job.seed, "neurons", plant))
        for plant in range(job.task["plants"])
    ]
    block = _block(pair)
    if job.matcher == "none":
        return [plant.blocks[block].inverse() for plant in plants]
    planted = plants[0]
    if job.matcher == "oracle":
        return [SignedPermutation.identity(planted.blocks[block].size)]
    matched = match_neurons(transport_model(pair.a, residual), planted.apply(pair.b))
    return [compose(planted.blocks[block].inverse(), matched.blocks[block])]


def _rows_of_run_plants(job: Job, built: Built, pair: Transfer) -> list[Row]:
    """Plant one gauge of each kind on B and re-measure its lists."""
    a, b = scores_of(job, built)
    residual = GROUPS[pair.chart.group].random(pair.chart.width, generator(job.seed, "audit"))
    assert isinstance(residual, SignedPermutation)  # the lists that are moved are of single coordinates
    neurons = NeuronGauge.random(pair.b, generator(job.seed, "neurons", 0))
    carriers = {
        "residual": (transport_model(pair.b, residual), residual),
        "neuron": (neurons.apply(pair.b), neurons.blocks[_block(pair)]),
    }
    rows: list[Row] = []
    for planted, (model, plant) in carriers.items():
        re_measured = measure_scores(model, job, built["data"])
        rows += audit_run_rows(a, b, re_measured, plant, planted, job.task["k"])
    for row in rows:
        row["theory"] = _theory_of_run(job, row)
    return rows


def _theory_of_run(job: Job, row: Row) -> float | None:
    """Return what theory says of a re-measured list: a gauge moves one space and leaves the others alone."""
    if LISTS[row["list"]].space == SPACE_MOVED_BY[row["planted"]]:
        return 0.0
    return 1.0 if is_copy(job) else None


def _block(pair: Transfer) -> int:
    """Return the index of the block that the pair's site is behind."""
    return int(pair.site.removeprefix("block"))


TASK = Task(measure, list_stages, check_transfer)
