"""Table b3: integrated gradients and attribution patching as predictors of ablation, on a Dyck-3 model.

Paper B, section 3.3.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from gaugeport.charts import fold_gains
from gaugeport.pipeline.job import Job
from gaugeport.pipeline.rotation.toy import bars, components, effects
from gaugeport.pipeline.rotation.toy.components import Edge
from gaugeport.pipeline.stages.cohorts import load_own, own_stages
from gaugeport.pipeline.stages.stage import Built
from gaugeport.pipeline.tasks.shared.checks import check_toy
from gaugeport.pipeline.tasks.shared.toy import heldout, with_cohort
from gaugeport.pipeline.tasks.task import Row, Task


def measure(job: Job, built: Built) -> list[Row]:
    """Return effects of all components, predicted and measured, and completeness errors by path points."""
    task = job.task
    model = fold_gains(load_own(job, built))
    patched = effects.component_edges(model)
    # 1) effects, and their predictions
    strings = heldout(job, task["rows"], "effects")
    ids, labels = strings["input_ids"], strings["labels"]
    mean = components.mean_outputs(model, ids)
    measured = effects.measure_effects(model, ids, labels, patched, mean)
    predictions = {
        "integrated_gradients": effects.integrated_gradients(
            model, ids, labels, patched, mean, task["points"]
        ),
        "attribution_patching": effects.attribution_patching(model, ids, labels, patched, mean),
    }
    # 2) how well each predictor foretells them
    rows: list[Row] = [{"metric": "effect", "component": e[0], "value": v} for e, v in measured.items()]
    for name, predicted in predictions.items():
        rows += [
            {"metric": "effect", "component": edge[0], "predictor": name, "value": value}
            for edge, value in predicted.items()
        ]
        r = bars.pearson(list(predicted.values()), list(measured.values()))
        if not math.isnan(r):
            rows.append({"metric": "predictor_pearson", "predictor": name, "value": r})
    error = _largest_error(predictions["integrated_gradients"], measured)
    rows.append({"metric": "prediction_error", "points": task["points"], "value": error})
    # 3) errors of integrated gradients by the number of points on the path, on fewer strings
    strings = heldout(job, task["path_rows"], "effects")
    ids, labels = strings["input_ids"], strings["labels"]
    measured = effects.measure_effects(model, ids, labels, patched, mean)
    for points in task["path_points"]:
        predicted = effects.integrated_gradients(model, ids, labels, patched, mean, points)
        error = _largest_error(predicted, measured)
        rows.append({"metric": "completeness_error", "points": points, "value": error})
    return with_cohort(job, rows)


def _largest_error(predicted: Mapping[Edge, float], measured: Mapping[Edge, float]) -> float:
    return max(abs(predicted[edge] - value) for edge, value in measured.items())


TASK = Task(measure, own_stages, check_toy)
