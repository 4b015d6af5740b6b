"""Table b1: the four bars of a Dyck-3 model against its own folded specification, and of a decoy."""

from __future__ import annotations

from gaugeport.charts import fold_gains
from gaugeport.models.dyck import DyckModel
from gaugeport.pipeline.job import Job
from gaugeport.pipeline.rotation.matching.search import comparable_rows, tensor_mse
from gaugeport.pipeline.rotation.toy import bars, components, effects, strings
from gaugeport.pipeline.stages.cohorts import accuracy, load_own, own_stages, stage_of, steps_trained
from gaugeport.pipeline.stages.stage import Built
from gaugeport.pipeline.tasks.shared.checks import check_toy, thresholds
from gaugeport.pipeline.tasks.shared.toy import bar_b_batches, correlation_row, heldout, with_cohort
from gaugeport.pipeline.tasks.task import Row, Task

ACCURACY_ROWS = 1024
"""Held-out strings of each split that accuracies are reported on."""


def measure(job: Job, built: Built) -> list[Row]:
    """Return the bars of the job's model and of its decoy against the model's own folded specification."""
    limits = thresholds(job)
    model = load_own(job, built)
    specification = fold_gains(model)
    variants = {"real": model, "decoy": bars.make_decoy(model)}
    rows = bars.bar_b(variants, bar_b_batches(job))
    for row in (r for r in rows if r["metric"] == "bar_b"):
        row["status"] = limits.status("b", row["value"])
    for variant, other in variants.items():  # nothing is aligned
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
    rows.append({"metric": "steps_trained", "value": steps_trained(built[stage_of(job.seed)])})
    for split in strings.SPLITS:
        found = accuracy(model, heldout(job, ACCURACY_ROWS, "accuracy", split))
        rows += [
            {"metric": f"accuracy_{head}", "split": split, "value": value} for head, value in found.items()
        ]
    return with_cohort(job, rows)


def _correlations(job: Job, model: DyckModel, limits: bars.Thresholds) -> list[Row]:
    """Return Bar C of components and of edges, on the rows they are predicted from, and Pr on other rows."""
    rows = []
    parts = (
        ("bar_c", "rows", effects.component_edges(model)),
        ("bar_c_edges", "edge_rows", components.edges(model)),
    )
    for metric, size, patched in parts:
        seen = heldout(job, job.task[size], "effects")
        mean = components.mean_outputs(model, seen["input_ids"])
        points = job.task["points"]
        predicted = effects.integrated_gradients(
            model, seen["input_ids"], seen["labels"], patched, mean, points
        )
        measured = effects.measure_effects(model, seen["input_ids"], seen["labels"], patched, mean)
        rows.append(correlation_row(metric, "c", predicted, measured, limits))
        if metric == "bar_c":
            fresh = heldout(job, job.task[size], "ablation losses")
            ablated = effects.measure_effects(model, fresh["input_ids"], fresh["labels"], patched, mean)
            rows.append(correlation_row("bar_pr", "pr", predicted, ablated, limits))
    return rows


TASK = Task(measure, own_stages, check_toy)
