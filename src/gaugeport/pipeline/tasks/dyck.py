"""Jobs on single Dyck-3 models: the bars within a seed (b1), predictors of ablation (b3), lengths (b11)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from gaugeport.charts import fold_gains
from gaugeport.models.dyck import DyckModel
from gaugeport.pipeline.job import Job
from gaugeport.pipeline.rotation.matching.search import comparable_rows, tensor_mse
from gaugeport.pipeline.rotation.toy import bars, components, effects, strings
from gaugeport.pipeline.rotation.toy.components import Edge
from gaugeport.pipeline.stages.cohorts import (
    ANCHOR,
    accuracy,
    check_frozen,
    frozen,
    load_seed,
    longest_trained,
    steps_trained,
)
from gaugeport.pipeline.store.store import Store
from gaugeport.pipeline.tasks.dyck_check import thresholds
from gaugeport.utils.seeds import derive

Row = dict[str, Any]

ACCURACY_ROWS = 1024
"""Held-out rows of each split that accuracies are reported on."""


def own_stages(job: Job) -> tuple[str, ...]:
    """What a job on one model stands on: its model, and before that the anchor whose boundary it shares."""
    if job.seed == ANCHOR:
        return ("anchor",)
    return ("anchor", "replica") if frozen(job, job.seed) else ("replica",)


def heldout(job: Job, n: int, purpose: str, split: str = "train") -> dict[str, Any]:
    """``n`` held-out rows, others for every purpose; strings are as long as those trained on, but for the long split."""
    length = job.model.architecture["max_position_embeddings"] if split == "long" else job.data.length
    return strings.heldout(split, n, longest_trained(job), length, derive(job.data.seed, purpose))


def batches(job: Job) -> Any:
    """The held-out strings of Bar B."""
    context = job.model.architecture["max_position_embeddings"]  # long strings fit, whatever was trained on
    return bars.heldout_batches(job.data.documents, longest_trained(job), context, job.data.seed)


def trained(job: Job, store: Store) -> DyckModel:
    """The job's own model; in cohort A its boundary is checked against the anchor's."""
    model = load_seed(job, store, job.seed)
    if frozen(job, job.seed):
        check_frozen({f"seed {ANCHOR}": load_seed(job, store, ANCHOR), f"seed {job.seed}": model})
    return model


def measure_bars(job: Job, store: Store) -> list[Row]:
    """Table b1: the bars of the job's model and of its decoy against the model's own folded specification."""
    limits = thresholds(job)
    model = trained(job, store)
    specification = fold_gains(model)
    variants = {"real": model, "decoy": bars.decoy(model)}
    rows = bars.bar_b(variants, batches(job))
    for row in (r for r in rows if r["metric"] == "bar_b"):
        row["status"] = limits.status("b", row["value"])
    for variant, other in variants.items():  # as they stand: nothing is aligned
        tensors = tensor_mse(*comparable_rows(fold_gains(other), specification))
        worst = max(tensors, key=lambda name: tensors[name])
        status = limits.status("p", tensors[worst])
        rows.append(
            {
                "metric": "bar_p",
                "variant": variant,
                "tensor": worst,
                "value": tensors[worst],
                "status": status,
            }
        )
    rows += _correlations(job, specification, limits)
    rows.append({"metric": "steps_trained", "value": steps_trained(job, store, job.seed)})
    for split in strings.SPLITS:
        found = accuracy(model, heldout(job, ACCURACY_ROWS, "accuracy", split))
        rows += [
            {"metric": f"accuracy_{head}", "split": split, "value": value} for head, value in found.items()
        ]
    return [{"cohort": job.task["cohort"], **row} for row in rows]


def _correlations(job: Job, model: DyckModel, limits: bars.Thresholds) -> list[Row]:
    """Bars C (components and edges: the effects of the rows that they are predicted from) and Pr (other rows)."""
    rows = []
    parts = (
        ("bar_c", "rows", effects.component_edges(model)),
        ("bar_c_edges", "edge_rows", components.edges(model)),
    )
    for metric, size, patched in parts:
        seen = heldout(job, job.task[size], "effects")
        mean = components.means(model, seen["input_ids"])
        points = job.task["points"]
        predicted = effects.integrated_gradients(
            model, seen["input_ids"], seen["labels"], patched, mean, points
        )
        measured = effects.measured(model, seen["input_ids"], seen["labels"], patched, mean)
        rows.append(correlation(metric, "c", predicted, measured, limits))
        if metric == "bar_c":
            fresh = heldout(job, job.task[size], "ablation losses")
            ablated = effects.measured(model, fresh["input_ids"], fresh["labels"], patched, mean)
            rows.append(correlation("bar_pr", "pr", predicted, ablated, limits))
    return rows


def correlation(
    metric: str,
    bar: str,
    predicted: Mapping[Edge, float],
    measured: Mapping[Edge, float],
    limits: bars.Thresholds,
) -> Row:
    """The row of one bar that is a Pearson correlation, with its status; no value where one side is constant."""
    r = bars.pearson(list(predicted.values()), [measured[edge] for edge in predicted])
    if math.isnan(r):
        return {"metric": f"{metric}_pearson_undefined", "value": 1.0, "status": limits.status(bar, r)}
    return {"metric": f"{metric}_pearson", "value": r, "status": limits.status(bar, r)}


def measure_patching(job: Job, store: Store) -> list[Row]:
    """Table b3: effects of the ten components, predicted and measured, and the completeness error by path points."""
    model = fold_gains(trained(job, store))
    patched = effects.component_edges(model)
    seen = heldout(job, job.task["rows"], "effects")
    ids, labels = seen["input_ids"], seen["labels"]
    mean = components.means(model, ids)
    measured = effects.measured(model, ids, labels, patched, mean)
    predictions = {
        "integrated_gradients": effects.integrated_gradients(
            model, ids, labels, patched, mean, job.task["points"]
        ),
        "attribution_patching": effects.attribution_patching(model, ids, labels, patched, mean),
    }
    rows: list[Row] = [{"metric": "effect", "component": e[0], "value": v} for e, v in measured.items()]
    for name, predicted in predictions.items():
        rows += [
            {"metric": "effect", "component": e[0], "predictor": name, "value": v}
            for e, v in predicted.items()
        ]
        r = bars.pearson(list(predicted.values()), list(measured.values()))
        if not math.isnan(r):
            rows.append({"metric": "predictor_pearson", "predictor": name, "value": r})
    error = max(abs(predictions["integrated_gradients"][e] - measured[e]) for e in patched)
    rows.append({"metric": "prediction_error", "points": job.task["points"], "value": error})
    few = heldout(job, job.task["path_rows"], "effects")
    ids, labels = few["input_ids"], few["labels"]
    measured = effects.measured(model, ids, labels, patched, mean)
    for points in job.task["path_points"]:
        found = effects.integrated_gradients(model, ids, labels, patched, mean, points)
        worst = max(abs(found[e] - measured[e]) for e in patched)
        rows.append({"metric": "completeness_error", "points": points, "value": worst})
    return [{"cohort": job.task["cohort"], **row} for row in rows]


def measure_lengths(job: Job, store: Store) -> list[Row]:
    """Table b11: accuracy of each head on held-out strings of the trained lengths and on those of 50 to 60."""
    model, n = trained(job, store), job.data.documents // len(strings.SPLITS)
    context = job.model.architecture["max_position_embeddings"]
    sets = {
        "trained": heldout(job, n, "lengths"),
        "longer": strings.heldout("long", n, longest_trained(job), context, derive(job.data.seed, "lengths")),
    }
    rows: list[Row] = []
    for lengths, held in sets.items():
        found = accuracy(model, held)
        rows += [{"metric": f"{head}_accuracy", "lengths": lengths, "value": v} for head, v in found.items()]
    return [{"cohort": job.task["cohort"], "longest": longest_trained(job), **row} for row in rows]
