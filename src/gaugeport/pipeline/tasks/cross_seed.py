"""Table b2: the four bars across seeds, between a Dyck-3 model and the anchor of its cohort.

Paper B, section 7.
"""

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
from gaugeport.pipeline.rotation.matching.search import SymmetryFit, comparable_rows, mean_squares
from gaugeport.pipeline.rotation.matching.symmetry import Symmetry, parameter_name
from gaugeport.pipeline.rotation.toy import bars, components, effects
from gaugeport.pipeline.rotation.toy.components import ALL, Edge
from gaugeport.pipeline.stages.cohorts import load_own, load_toy
from gaugeport.pipeline.stages.pairs import pair_stages, stage_of
from gaugeport.pipeline.stages.stage import Built
from gaugeport.pipeline.tasks.shared.checks import check_toy, thresholds
from gaugeport.pipeline.tasks.shared.symmetry import search_symmetry
from gaugeport.pipeline.tasks.shared.toy import bar_b_batches, correlation_row, heldout, with_cohort
from gaugeport.pipeline.tasks.task import Row, Task
from gaugeport.utils.seeds import generator

GROUPS = ("identity", "permutation", "signed_permutation", "orthogonal")
"""Groups of the residual element that the symmetry search is run with, each with all of heads and neurons."""


def measure(job: Job, built: Built) -> list[Row]:
    """Return the four bars of the job's model against the anchor's folded specification, by alignment."""
    limits = thresholds(job)
    anchor, model = load_toy(built[stage_of(job, "anchor")]), load_own(job, built)
    specification, folded = fold_gains(anchor), fold_gains(model)
    # 1) Bar B, which no alignment changes
    rows = _bar_b(job, specification, folded, limits)
    # 2) Bar P under every alignment, and with gains in place
    alignments = _alignments(job, folded, specification)
    best = alignments["cayley"]
    sizes = mean_squares(specification)
    for name, alignment in alignments.items():
        rows += [{"alignment": name, **row} for row in _bar_p(alignment, limits, sizes)]
    rows += _raw_groups(job, model, anchor)
    rows += _search(job, alignments["orthogonal"], best, specification)
    # 3) what no symmetry of the models can remove from Bar P
    rows += _irreducible(folded, specification, best.symmetry)
    # 4) bars C and Pr, before and after the best alignment, and Bar P head by head
    aligned = best.symmetry.apply(folded)
    for name, other in (("none", folded), ("cayley", aligned)):
        rows += [{"alignment": name, **row} for row in correlations(job, specification, other, limits)]
    rows += [{"alignment": "cayley", **row} for row in head_rows(aligned, specification)]
    return with_cohort(job, rows)


def _bar_b(job: Job, specification: DyckModel, model: DyckModel, limits: bars.Thresholds) -> list[Row]:
    """Return Bar B's rows without their variant; the bar's own row has its status."""
    rows: list[Row] = []
    for row in bars.divergence(specification, model, bar_b_batches(job)):
        kept = {key: value for key, value in row.items() if key != "variant"}
        if kept["metric"] == "bar_b":
            kept["status"] = limits.status("b", kept["value"])
        rows.append(kept)
    return rows


def _alignments(job: Job, model: DyckModel, reference: DyckModel) -> dict[str, SymmetryFit]:
    """Return the best fit in every group of residual elements, and the refined rotation, by name."""
    fits = {name: search_symmetry(job, model, reference, name) for name in GROUPS}
    refined = refine(model, reference, fits["orthogonal"], job.task["refine_steps"])
    return {**fits, "cayley": refined}


def _bar_p(alignment: SymmetryFit, limits: bars.Thresholds, sizes: Mapping[str, float]) -> list[Row]:
    """Return Bar P of one alignment with its status, the mean, the objective, and every tensor's value.

    ``sizes`` are the reference's :func:`~.search.mean_squares`. Beside the paper's absolute bar stands the
    largest share of them: what a bar says in other units of the weights.
    """
    tensors = alignment.per_tensor
    worst = max(tensors, key=lambda name: tensors[name])
    shares = {name: value / sizes[name] for name, value in tensors.items() if sizes[name]}
    worst_share = max(shares, key=lambda name: shares[name])
    status = limits.status("p", alignment.max_mse)
    return [
        {"metric": "bar_p_max_mse", "tensor": worst, "value": alignment.max_mse, "status": status},
        {"metric": "bar_p_max_relative", "tensor": worst_share, "value": shares[worst_share]},
        {"metric": "bar_p_global_mse", "value": alignment.global_mse},
        {"metric": "bar_p_objective", "value": _least_objective(alignment)},
        *({"metric": "bar_p_tensor", "tensor": name, "value": value} for name, value in tensors.items()),
    ]


def _raw_groups(job: Job, model: DyckModel, reference: DyckModel) -> list[Row]:
    """Search with gains in place, where only signed permutations are symmetries (rotations: to compare)."""
    rows: list[Row] = []
    for name in GROUPS:
        fit = search_symmetry(job, model, reference, name, strict=False)
        rows.append({"metric": "bar_p_raw_max_mse", "alignment": name, "value": fit.max_mse})
        rows.append({"metric": "bar_p_raw_objective", "alignment": name, "value": _least_objective(fit)})
    return rows


def _least_objective(alignment: SymmetryFit) -> float:
    """Return the least sum over tensors of all configurations, which a larger group can only lower."""
    return min((c.objective for c in alignment.configurations), default=sum(alignment.per_tensor.values()))


def _search(job: Job, searched: SymmetryFit, refined: SymmetryFit, reference: DyckModel) -> list[Row]:
    """Return the spread over the search's configurations, and what it leaves of a planted element."""
    values = [c.max_mse for c in searched.configurations]
    planted = Symmetry.random(reference, generator(job.seed, "planted symmetry"))
    floor = search_symmetry(job, planted.apply(reference), reference, "orthogonal").max_mse
    return [
        {"metric": "configurations", "value": len(values)},
        {"metric": "configurations_least", "value": min(values)},
        {"metric": "configurations_largest", "value": max(values)},
        {"metric": "self_alignment_mse", "value": floor},
        {"metric": "uniqueness_factor", "value": refined.max_mse / max(floor, 1e-30)},
    ]


def _irreducible(model: DyckModel, reference: DyckModel, best: Symmetry) -> list[Row]:
    """Return the lower bound of Bar P over all symmetries, and Bar P of products that none of them moves."""
    least = floors(model, reference)
    worst = max(least, key=lambda name: least[name])
    quotient = quotient_bar(model, reference, best)
    return [
        {"metric": "bar_p_floor", "tensor": worst, "value": least[worst]},
        {"metric": "bar_p_quotient", "tensor": " · ".join(quotient.pair), "value": quotient.max_mse},
        {"metric": "bar_p_quotient_relative", "value": max(quotient.relative.values())},
    ]


def head_rows(model: DyckModel, reference: DyckModel) -> Iterator[Row]:
    """Yield each head's mean squared difference per entry, over its four matrices.

    Args:
        model: A folded model, aligned to the reference.
        reference: The folded reference.

    Yields:
        One row ``bar_p_head`` for every head.
    """
    rows, target = comparable_rows(model, reference)
    for head in components.heads(reference):
        layer, index = components.layer_of(head), int(head.rpartition("H")[2])
        squares = []
        for kind in "qkvo":
            name = parameter_name(layer, kind)
            squares.append((rows[name][index] - target[name][index]).square().mean())
        yield {"component": head, "metric": "bar_p_head", "value": float(torch.stack(squares).mean())}


def correlations(job: Job, anchor: DyckModel, model: DyckModel, limits: bars.Thresholds) -> list[Row]:
    """Correlate effects that the anchor predicts with those measured on the model.

    Args:
        job: The job; ``task.rows`` strings are measured on, with ``task.points`` points on the path.
        anchor: The folded anchor.
        model: The folded model, aligned or not.
        limits: Thresholds of the bars.

    Returns:
        Rows of bars C (components, edges, heads) and Pr (losses when components are ablated one after the
        other), and of every effect.
    """
    strings = heldout(job, job.task["rows"], "effects")
    ids, labels = strings["input_ids"], strings["labels"]
    means_anchor, means_model = components.mean_outputs(anchor, ids), components.mean_outputs(model, ids)
    sides = ((anchor, means_anchor), (model, means_model))
    # 1) Bar C of components: the anchor's integrated gradients against the model's ablation effects
    patched = effects.component_edges(anchor)
    points = job.task["points"]
    predicted = effects.integrated_gradients(anchor, ids, labels, patched, means_anchor, points)
    measured = effects.measure_effects(model, ids, labels, patched, means_model)
    rows = [
        correlation_row("bar_c", "c", predicted, measured, limits),
        *_any_order(anchor, predicted, measured, limits),
    ]
    for metric, by_edge in (("effect", measured), ("effect_predicted", predicted)):
        rows += [{"metric": metric, "component": edge[0], "value": rise} for edge, rise in by_edge.items()]
    # 2) Bar C of edges: both models' ablation effects
    edges = components.edges(anchor)
    theirs, mine = (effects.measure_effects(m, ids, labels, edges, means) for m, means in sides)
    rows.append(correlation_row("bar_c_edges", "c", theirs, mine, limits))
    # 3) Bar Pr: both models' losses as components are ablated in the order that the anchor predicts
    order = sorted(patched, key=lambda edge: -predicted[edge])
    theirs, mine = (_cumulative(m, strings, order, means) for m, means in sides)
    return [*rows, correlation_row("bar_pr", "pr", theirs, mine, limits)]


def _any_order(
    anchor: DyckModel,
    predicted: Mapping[Edge, float],
    measured: Mapping[Edge, float],
    limits: bars.Thresholds,
) -> list[Row]:
    """Return Bar C's mean over all orders of heads within their layers, with and without other components.

    This much of Bar C is no evidence that heads match one to one: a layer whose heads matter stays apart from
    a layer whose heads do not, in any order. The last row is Bar C of heads alone.
    """
    heads = [(head, ALL) for head in components.heads(anchor)]
    layers = [
        [e for e in heads if components.layer_of(e[0]) == n] for n in range(anchor.config.num_hidden_layers)
    ]
    rows: list[Row] = []
    for name, edges in (("bar_c_any_order", list(predicted)), ("bar_c_heads_any_order", heads)):
        effects_predicted = [predicted[e] for e in edges]
        by_order = []
        for orders in itertools.product(*(itertools.permutations(layer) for layer in layers)):
            renamed = dict(zip(itertools.chain(*layers), itertools.chain(*orders), strict=True))
            by_order.append(bars.pearson(effects_predicted, [measured[renamed.get(e, e)] for e in edges]))
        defined = [r for r in by_order if not math.isnan(r)]
        if defined:
            rows.append({"metric": name, "value": fmean(defined)})
    of_heads = {head: predicted[head] for head in heads}
    return [*rows, correlation_row("bar_c_heads", "c", of_heads, measured, limits)]


def _cumulative(
    model: DyckModel, strings: Mapping[str, Any], order: Sequence[Edge], means: Mapping[str, Any]
) -> dict[Edge, float]:
    """Return the rise of the loss when the first k components of ``order`` are ablated, by the k-th."""
    rises = {}
    for k in range(1, len(order) + 1):
        ablated = tuple(source for source, _ in order[:k])
        rise = effects.measure_joint_effect(model, strings["input_ids"], strings["labels"], ablated, means)
        rises[ablated[-1], ALL] = rise
    return rises


TASK = Task(measure, pair_stages, check_toy)
