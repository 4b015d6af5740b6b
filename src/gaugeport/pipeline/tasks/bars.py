"""Table b1: the four bars of a Dyck-3 model against its own folded specification, and of a decoy.

Paper B, section 6.
"""

from __future__ import annotations

import math
from statistics import fmean

from torch import Tensor

from gaugeport.charts import fold_gains
from gaugeport.models.dyck import HEADS, IGNORED, MAX_DEPTH, DyckModel
from gaugeport.pipeline.job import Job
from gaugeport.pipeline.rotation.matching.search import comparable_rows, tensor_mse
from gaugeport.pipeline.rotation.toy import bars, components, effects, strings
from gaugeport.pipeline.rotation.toy.sampled import sampling_rows
from gaugeport.pipeline.stages.cohorts import accuracy, load_own, own_stages, stage_of, steps_trained
from gaugeport.pipeline.stages.stage import Built
from gaugeport.pipeline.tasks.shared.checks import check_toy, thresholds
from gaugeport.pipeline.tasks.shared.toy import bar_b_batches, correlation_row, heldout, with_cohort
from gaugeport.pipeline.tasks.task import Row, Task
from gaugeport.utils.seeds import generator

ACCURACY_ROWS = 1024
"""Held-out strings of each split that accuracies are reported on."""


def measure(job: Job, built: Built) -> list[Row]:
    """Return the bars of the job's model and of its decoy against the model's own folded specification."""
    limits = thresholds(job)
    model = load_own(job, built)
    specification = fold_gains(model)
    variants = {"real": model, "decoy": bars.make_decoy(model)}
    # 1) Bar B
    rows = bars.bar_b(variants, bar_b_batches(job))
    for row in rows:
        if row["metric"] == "bar_b":
            row["status"] = limits.status("b", row["value"])
    # 2) Bar P; nothing is aligned
    for variant, other in variants.items():
        rows.append(_bar_p(variant, other, specification, limits))
    # 3) bars C and Pr
    rows += _correlations(job, specification, limits)
    # 4) how the training of the model ended
    rows.append({"metric": "steps_trained", "value": steps_trained(built[stage_of(job.seed)])})
    penalty = job.training.base.l1 * sum(float(p.detach().abs().sum()) for p in model.parameters())
    rows.append({"metric": "l1_penalty", "value": penalty})
    shares = []
    for split in strings.SPLITS:
        drawn = heldout(job, ACCURACY_ROWS, "accuracy", split)
        for head, value in accuracy(model, drawn).items():
            rows.append({"metric": f"accuracy_{head}", "split": split, "value": value})
        shares.append(deepest_share(drawn["labels"]))
        rows.append({"metric": "deepest_share", "split": split, "value": shares[-1]})
    # 5) what the decoy costs at least: ln 2 at every depth whose row is averaged with another's
    least = (1 - fmean(shares)) * math.log(2) / len(HEADS)
    rows.append({"metric": "decoy_at_least", "value": least})
    return with_cohort(job, rows)


def deepest_share(labels: Tensor) -> float:
    """Return the share of positions of the largest depth, whose unembedding the decoy leaves alone.

    Args:
        labels: int64[n, length, heads], as of :func:`gaugeport.pipeline.rotation.toy.strings.label_rows`.
    """
    depth = labels[..., HEADS.index("depth")]
    return float((depth[depth != IGNORED] == MAX_DEPTH).double().mean())


def _bar_p(variant: str, model: DyckModel, specification: DyckModel, limits: bars.Thresholds) -> Row:
    """Return Bar P: the mean squared difference of the worst tensor."""
    tensors = tensor_mse(*comparable_rows(fold_gains(model), specification))
    worst = max(tensors, key=lambda name: tensors[name])
    value = tensors[worst]
    row: Row = {"metric": "bar_p", "variant": variant, "tensor": worst, "value": value}
    return {**row, "status": limits.status("p", value)}


def _correlations(job: Job, model: DyckModel, limits: bars.Thresholds) -> list[Row]:
    """Return Bar C of components and of edges, on the strings they are predicted from, and Pr on others."""
    rows = []
    for metric, size, patched in (
        ("bar_c", "rows", effects.component_edges(model)),
        ("bar_c_edges", "edge_rows", components.edges(model)),
    ):
        # 1) Bar C
        drawn = heldout(job, job.task[size], "effects")
        ids, labels = drawn["input_ids"], drawn["labels"]
        mean = components.mean_outputs(model, ids)
        predicted = effects.integrated_gradients(model, ids, labels, patched, mean, job.task["points"])
        measured = effects.measure_effects(model, ids, labels, patched, mean)
        rows.append(correlation_row(metric, "c", predicted, measured, limits))
        samples = sampling_rows(predicted, measured, generator(job.seed, "sampled", metric))
        rows += [{**row, "bar": metric} for row in samples]
        # 2) Bar Pr
        if metric == "bar_c":
            fresh = heldout(job, job.task[size], "ablation losses")
            ids, labels = fresh["input_ids"], fresh["labels"]
            ablated = effects.measure_effects(model, ids, labels, patched, mean)
            rows.append(correlation_row("bar_pr", "pr", predicted, ablated, limits))
    return rows


TASK = Task(measure, own_stages, check_toy)
