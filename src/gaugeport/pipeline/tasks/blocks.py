"""Jobs on the blocks of one language model: predictors of mean ablation (appendix D, the second half of table b3)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from statistics import median
from typing import Any

from gaugeport.charts import chart_of
from gaugeport.pipeline.data import row_batches, rows_holding
from gaugeport.pipeline.job import Job
from gaugeport.pipeline.rotation.models import block_effects, subjects
from gaugeport.pipeline.rotation.toy import bars
from gaugeport.pipeline.stages.training import heldout_rows
from gaugeport.pipeline.store.store import Store

Row = dict[str, Any]


def stages(job: Job) -> tuple[str, ...]:
    """The model. Raises ``ValueError`` for a cohort of Dyck-3 models, which table b3 has by component."""
    if subjects.is_dyck(job):
        allowed = ", ".join(subjects.LANGUAGE_COHORTS)
        raise ValueError(
            f"task=blocks with task.cohort={job.task['cohort']}: Dyck-3 models are no language models; allowed: "
            f"{allowed}, or task=patching"
        )
    if job.task["cohort"] == "runs":
        return ("data", "base", "B")
    return ("data",) if job.model.from_hub else ("data", "pretraining")


def measure(job: Job, store: Store) -> list[Row]:
    """Effects of every block, predicted and measured, both ablations; completeness errors by path points; the loss."""
    model = subjects.load_subject(job, store, "other").model
    chart, size = chart_of(model), job.measurement.batch_size
    rows = heldout_rows(job, store)[1][:, : job.task["longest"]]
    seen, few = (
        list(row_batches(rows_holding(rows, job.task[key], key=f"task.{key}"), size))
        for key in ("tokens", "path_tokens")
    )
    mean = block_effects.mean_streams(model, chart, seen)
    found: list[Row] = [{"metric": "cross_entropy", "value": block_effects.cross_entropy(model, seen)}]
    for ablated in block_effects.ABLATED:
        here = (model, chart, seen, mean, ablated)
        measured = block_effects.measured_effects(*here)
        predictions = {
            "integrated_gradients": block_effects.integrated_gradients(*here, job.task["points"]),
            "attribution_patching": block_effects.attribution_patching(*here),
        }
        rows_here = list(_compared(measured, predictions, job.task["points"]))
        here = (model, chart, few, mean, ablated)
        measured = block_effects.measured_effects(*here)
        for points in job.task["path_points"]:
            error = _largest_error(block_effects.integrated_gradients(*here, points), measured)
            rows_here.append({"metric": "completeness_error", "points": points, "value": error})
        found += [{"ablated": ablated, **row} for row in rows_here]
    return [{"cohort": job.task["cohort"], **row} for row in found]


def _compared(
    measured: Mapping[str, float], predictions: Mapping[str, Mapping[str, float]], points: int
) -> Iterator[Row]:
    """Every effect; of each predictor its correlation (none where one side is constant) and the median share of an
    effect that it predicts, signs aside, which a correlation does not see; the largest error of integrated gradients.
    """
    for block, value in measured.items():
        yield {"metric": "effect", "component": block, "value": value}
    for name, predicted in predictions.items():
        for block, value in predicted.items():
            yield {"metric": "effect", "component": block, "predictor": name, "value": value}
        r = bars.pearson(list(predicted.values()), list(measured.values()))
        if not math.isnan(r):
            yield {"metric": "predictor_pearson", "predictor": name, "value": r}
        shares = [abs(predicted[block] / value) for block, value in measured.items() if value]
        if shares:
            yield {"metric": "predicted_share", "predictor": name, "value": median(shares)}
    error = _largest_error(predictions["integrated_gradients"], measured)
    yield {"metric": "prediction_error", "points": points, "value": error}


def _largest_error(predicted: Mapping[str, float], measured: Mapping[str, float]) -> float:
    return max(abs(predicted[block] - value) for block, value in measured.items())
