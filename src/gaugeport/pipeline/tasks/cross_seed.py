"""Table b2: the four bars across seeds, between a Dyck-3 model and the anchor of its cohort."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean
from typing import Any

import torch

from gaugeport.charts import fold_gains
from gaugeport.models.dyck import DyckModel
from gaugeport.pipeline.job import Job
from gaugeport.pipeline.rotation.matching.quotient import floors, quotient_bar
from gaugeport.pipeline.rotation.matching.refine import refine
from gaugeport.pipeline.rotation.matching.search import SymmetryFit, comparable_rows
from gaugeport.pipeline.rotation.matching.symmetry import Symmetry, parameter_name
from gaugeport.pipeline.rotation.toy import bars, components, effects
from gaugeport.pipeline.rotation.toy.components import ALL, Edge
from gaugeport.pipeline.stages.cohorts import load_own, load_toy
from gaugeport.pipeline.stages.stage import Built
from gaugeport.pipeline.tasks.shared.checks import check_toy, thresholds
from gaugeport.pipeline.tasks.shared.symmetry import anchor_and_own, search_symmetry
from gaugeport.pipeline.tasks.shared.toy import bar_b_batches, correlation_row, heldout, with_cohort
from gaugeport.pipeline.tasks.task import Row, Task
from gaugeport.utils.seeds import generator

GROUPS = ("identity", "permutation", "signed_permutation", "orthogonal")
"""Groups of the residual element that the symmetry search is run with, each with all of heads and neurons."""


def measure(job: Job, built: Built) -> list[Row]:
    """Table b2: the four bars of the job's model, aligned, against the anchor's folded specification."""
    limits = thresholds(job)
    anchor, model = load_toy(built["anchor"]), load_own(job, built)
    specification, folded = fold_gains(anchor), fold_gains(model)
    rows = [
        {k: v for k, v in r.items() if k != "variant"}
        for r in bars.divergence(specification, folded, bar_b_batches(job))
    ]
    for row in (r for r in rows if r["metric"] == "bar_b"):
        row["status"] = limits.status("b", row["value"])
    found = _alignments(job, folded, specification)
    for name, alignment in found.items():
        rows += [{"alignment": name, **row} for row in _bar_p(alignment, limits)]
    rows += _raw_groups(job, model, anchor)
    rows += _search(job, found["orthogonal"], found["cayley"], specification)
    best = found["cayley"].symmetry
    least = floors(folded, specification)
    worst = max(least, key=lambda name: least[name])
    rows.append({"metric": "bar_p_floor", "tensor": worst, "value": least[worst]})
    quotient = quotient_bar(folded, specification, best)
    rows.append({"metric": "bar_p_quotient", "tensor": " · ".join(quotient.pair), "value": quotient.max_mse})
    rows.append({"metric": "bar_p_quotient_relative", "value": max(quotient.relative.values())})
    aligned = best.apply(folded)
    for name, other in (("none", folded), ("cayley", aligned)):
        rows += [{"alignment": name, **row} for row in correlations(job, specification, other, limits)]
    rows += [
        {"alignment": "cayley", "component": head, **row} for head, row in head_mse(aligned, specification)
    ]
    return with_cohort(job, rows)


def _alignments(job: Job, model: DyckModel, reference: DyckModel) -> dict[str, SymmetryFit]:
    """Return the best fit in every group of residual elements, and the refined rotation, by name."""
    found = {name: search_symmetry(job, model, reference, name) for name in GROUPS}
    return {**found, "cayley": refine(model, reference, found["orthogonal"], job.task["refine_steps"])}


def _bar_p(alignment: SymmetryFit, limits: bars.Thresholds) -> list[Row]:
    tensors = alignment.per_tensor
    worst = max(tensors, key=lambda name: tensors[name])
    status = limits.status("p", alignment.max_mse)
    rows: list[Row] = [
        {"metric": "bar_p_max_mse", "tensor": worst, "value": alignment.max_mse, "status": status}
    ]
    rows.append({"metric": "bar_p_global_mse", "value": alignment.global_mse})
    rows.append({"metric": "bar_p_objective", "value": _least_objective(alignment)})
    return rows + [
        {"metric": "bar_p_tensor", "tensor": name, "value": value} for name, value in tensors.items()
    ]


def _raw_groups(job: Job, model: DyckModel, reference: DyckModel) -> list[Row]:
    """Search with gains in place, where only signed permutations are symmetries (rotations: to compare)."""
    rows = []
    for name in GROUPS:
        found = search_symmetry(job, model, reference, name, strict=False)
        for metric, value in (
            ("bar_p_raw_max_mse", found.max_mse),
            ("bar_p_raw_objective", _least_objective(found)),
        ):
            rows.append({"metric": metric, "alignment": name, "value": value})
    return rows


def _least_objective(alignment: SymmetryFit) -> float:
    """Return the least sum over tensors of all configurations, which a larger group can only lower."""
    return min((c.objective for c in alignment.configurations), default=sum(alignment.per_tensor.values()))


def head_mse(model: DyckModel, reference: DyckModel) -> Iterator[tuple[str, Row]]:
    """Mean squared difference per entry of each head's four matrices, aligned models given."""
    rows, target = comparable_rows(model, reference)
    for head in components.heads(reference):
        layer, own = components.layer_of(head), int(head.rpartition("H")[2])
        squares = [
            (rows[n][own] - target[n][own]).square().mean()
            for n in (parameter_name(layer, kind) for kind in "qkvo")
        ]
        yield head, {"metric": "bar_p_head", "value": float(torch.stack(squares).mean())}


def _search(job: Job, baseline: SymmetryFit, refined: SymmetryFit, reference: DyckModel) -> list[Row]:
    """Return the spread over the search's configurations, and what it leaves of a planted element."""
    ends = [c.max_mse for c in baseline.configurations]
    planted = Symmetry.random(reference, generator(job.seed, "planted symmetry"))
    floor = search_symmetry(job, planted.apply(reference), reference, "orthogonal").max_mse
    return [
        {"metric": "configurations", "value": len(ends)},
        {"metric": "configurations_least", "value": min(ends)},
        {"metric": "configurations_largest", "value": max(ends)},
        {"metric": "self_alignment_mse", "value": floor},
        {"metric": "uniqueness_factor", "value": refined.max_mse / max(floor, 1e-30)},
    ]


def correlations(job: Job, anchor: DyckModel, model: DyckModel, limits: bars.Thresholds) -> list[Row]:
    """Compare effects that the anchor predicts with those measured on the model, by component and edge."""
    seen = heldout(job, job.task["rows"], "effects")
    ids, labels = seen["input_ids"], seen["labels"]
    patched = effects.component_edges(anchor)
    theirs, mine = components.mean_outputs(anchor, ids), components.mean_outputs(model, ids)
    predicted = effects.integrated_gradients(anchor, ids, labels, patched, theirs, job.task["points"])
    measured = effects.measure_effects(model, ids, labels, patched, mine)
    rows = [
        correlation_row("bar_c", "c", predicted, measured, limits),
        *_null(anchor, predicted, measured, limits),
    ]
    rows += [{"metric": "effect", "component": edge[0], "value": rise} for edge, rise in measured.items()]
    rows += [
        {"metric": "effect_predicted", "component": edge[0], "value": rise}
        for edge, rise in predicted.items()
    ]
    edges = components.edges(anchor)
    first, second = (
        effects.measure_effects(m, ids, labels, edges, x) for m, x in ((anchor, theirs), (model, mine))
    )
    rows.append(correlation_row("bar_c_edges", "c", first, second, limits))
    order = sorted(patched, key=lambda edge: -predicted[edge])
    first, second = (_cumulative(m, seen, order, x) for m, x in ((anchor, theirs), (model, mine)))
    return [*rows, correlation_row("bar_pr", "pr", first, second, limits)]


def _null(
    anchor: DyckModel,
    predicted: Mapping[Edge, float],
    measured: Mapping[Edge, float],
    limits: bars.Thresholds,
) -> list[Row]:
    """Bar C with the heads of each layer in any order, as a mean over orders: how much of it no matching of
    heads earns, since a layer whose heads matter stays apart from one whose heads do not. And heads alone,
    their null likewise."""
    heads = [(head, ALL) for head in components.heads(anchor)]
    layers = [
        [e for e in heads if components.layer_of(e[0]) == n] for n in range(anchor.config.num_hidden_layers)
    ]
    rows: list[Row] = []
    for name, edges in (("bar_c_any_order", list(predicted)), ("bar_c_heads_any_order", heads)):
        null = []
        for orders in itertools.product(*(itertools.permutations(layer) for layer in layers)):
            renamed = dict(zip(itertools.chain(*layers), itertools.chain(*orders), strict=True))
            null.append(
                bars.pearson([predicted[e] for e in edges], [measured[renamed.get(e, e)] for e in edges])
            )
        null = [r for r in null if not math.isnan(r)]
        rows += [{"metric": name, "value": fmean(null)}] if null else []
    return [*rows, correlation_row("bar_c_heads", "c", {e: predicted[e] for e in heads}, measured, limits)]


def _cumulative(
    model: DyckModel, rows: Mapping[str, Any], order: Sequence[Edge], means: Mapping[str, Any]
) -> dict[Edge, float]:
    """Rise of the loss when the first k components of ``order`` are ablated together, by the k-th."""
    sets = [tuple(source for source, _ in order[: k + 1]) for k in range(len(order))]
    found = [effects.measure_joint_effect(model, rows["input_ids"], rows["labels"], s, means) for s in sets]
    return {(s[-1], ALL): rise for s, rise in zip(sets, found, strict=True)}


TASK = Task(measure, anchor_and_own, check_toy)
