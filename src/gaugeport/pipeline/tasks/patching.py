"""Table b3: integrated gradients and attribution patching as predictors of ablation, on a Dyck-3 model."""

from __future__ import annotations

import math

from gaugeport.charts import fold_gains
from gaugeport.pipeline.job import Job
from gaugeport.pipeline.rotation.toy import bars, components, effects
from gaugeport.pipeline.stages.cohorts import load_own, own_stages
from gaugeport.pipeline.stages.stage import Built
from gaugeport.pipeline.tasks.shared.checks import check_toy
from gaugeport.pipeline.tasks.shared.toy import heldout, with_cohort
from gaugeport.pipeline.tasks.task import Row, Task


def measure(job: Job, built: Built) -> list[Row]:
    """Return effects of all components, predicted and measured, and completeness errors by path points."""
    model = fold_gains(load_own(job, built))
    patched = effects.component_edges(model)
    seen = heldout(job, job.task["rows"], "effects")
    ids, labels = seen["input_ids"], seen["labels"]
    mean = components.mean_outputs(model, ids)
    measured = effects.measure_effects(model, ids, labels, patched, mean)
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
    measured = effects.measure_effects(model, ids, labels, patched, mean)
    for points in job.task["path_points"]:
        found = effects.integrated_gradients(model, ids, labels, patched, mean, points)
        worst = max(abs(found[e] - measured[e]) for e in patched)
        rows.append({"metric": "completeness_error", "points": points, "value": worst})
    return with_cohort(job, rows)


TASK = Task(measure, own_stages, check_toy)
