"""Table b3, second half (paper B, appendix D): predictors of mean ablation on a language model's blocks."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from statistics import median

from gaugeport.charts import chart_of
from gaugeport.pipeline.data import row_batches, rows_holding
from gaugeport.pipeline.job import Job
from gaugeport.pipeline.rotation.models import block_effects
from gaugeport.pipeline.rotation.toy import bars
from gaugeport.pipeline.stages import pairs
from gaugeport.pipeline.stages.rows import heldout_rows
from gaugeport.pipeline.stages.stage import Built
from gaugeport.pipeline.tasks.shared.checks import check_cohort
from gaugeport.pipeline.tasks.task import Row, Task


def check(job: Job) -> None:
    """Refuse the cohorts of Dyck-3 models, which table b3 has by component.

    Raises:
        ValueError: The cohort is one of Dyck-3 models, or not allowed with the job's model.
    """
    check_cohort(job)
    if pairs.is_toy(job):
        raise ValueError(
            f"task=blocks with task.cohort={job.task['cohort']}: Dyck-3 models are not language models; "
            f"allowed: {', '.join(pairs.LANGUAGE_COHORTS)}, or task=patching"
        )


def measure(job: Job, built: Built) -> list[Row]:
    """Return effects of every block, predicted and measured, completeness errors, and the loss."""
    model = pairs.load_side(job, built.folders, "other").model
    chart, size = chart_of(model), job.measurement.batch_size
    rows = heldout_rows(built["data"])[1][:, : job.task["longest"]]
    seen, few = (
        list(row_batches(rows_holding(rows, job.task[key], key=f"task.{key}"), size))
        for key in ("tokens", "path_tokens")
    )
    mean = block_effects.mean_streams(model, chart, seen)
    found: list[Row] = [{"metric": "cross_entropy", "value": block_effects.cross_entropy(model, seen)}]
    for ablated in block_effects.ABLATED:
        here = (model, chart, seen, mean, ablated)
        measured = block_effects.measure_effects(*here)
        predictions = {
            "integrated_gradients": block_effects.integrated_gradients(*here, job.task["points"]),
            "attribution_patching": block_effects.attribution_patching(*here),
        }
        rows_here = list(_compared(measured, predictions, job.task["points"]))
        here = (model, chart, few, mean, ablated)
        measured = block_effects.measure_effects(*here)
        for points in job.task["path_points"]:
            error = _largest_error(block_effects.integrated_gradients(*here, points), measured)
            rows_here.append({"metric": "completeness_error", "points": points, "value": error})
        found += [{"ablated": ablated, **row} for row in rows_here]
    return [{"cohort": job.task["cohort"], **row} for row in found]


def _compared(
    measured: Mapping[str, float], predictions: Mapping[str, Mapping[str, float]], points: int
) -> Iterator[Row]:
    """Every effect; of each predictor its correlation (none where one side is constant) and the median share
    of an effect that it predicts, signs aside, which a correlation does not see; the largest error of
    integrated gradients.
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


TASK = Task(measure, pairs.other_stages, check)
