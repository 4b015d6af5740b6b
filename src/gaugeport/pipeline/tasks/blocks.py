"""Table b3, second half: predictors of what ablating a language model's block costs (paper B, appendix D)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from statistics import median

from gaugeport.charts import chart_of
from gaugeport.pipeline.job import Job
from gaugeport.pipeline.rotation.models import block_effects
from gaugeport.pipeline.rotation.toy import bars
from gaugeport.pipeline.stages import pairs
from gaugeport.pipeline.stages.rows import heldout_rows
from gaugeport.pipeline.stages.stage import Built
from gaugeport.pipeline.tasks.shared.checks import check_cohort
from gaugeport.pipeline.tasks.task import Row, Task
from gaugeport.texts import row_batches, rows_holding


def check(job: Job) -> None:
    """Refuse the cohorts of Dyck-3 models, whose components the task ``patching`` ablates.

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
    task = job.task
    # 1) the model, the tokens to measure on, and fewer of them for the errors of longer paths
    model = pairs.load_side(job, built.folders, "other").model
    chart = chart_of(model)
    heldout = heldout_rows(built["data"])[1][:, : task["longest"]]
    batches, path_batches = (
        list(row_batches(rows_holding(heldout, task[key], key=f"task.{key}"), job.measurement.batch_size))
        for key in ("tokens", "path_tokens")
    )
    mean = block_effects.mean_streams(model, chart, batches)
    rows: list[Row] = [{"metric": "cross_entropy", "value": block_effects.cross_entropy(model, batches)}]
    for ablated in block_effects.ABLATED:
        # 2) effects and their predictions
        ablation = (model, chart, batches, mean, ablated)
        measured = block_effects.measure_effects(*ablation)
        predictions = {
            "integrated_gradients": block_effects.integrated_gradients(*ablation, task["points"]),
            "attribution_patching": block_effects.attribution_patching(*ablation),
        }
        comparison = list(_comparison_rows(measured, predictions, task["points"]))
        # 3) errors of integrated gradients by the number of points on the path
        ablation = (model, chart, path_batches, mean, ablated)
        measured = block_effects.measure_effects(*ablation)
        for points in task["path_points"]:
            error = _largest_error(block_effects.integrated_gradients(*ablation, points), measured)
            comparison.append({"metric": "completeness_error", "points": points, "value": error})
        rows += [{"ablated": ablated, **row} for row in comparison]
    return [{"cohort": task["cohort"], **row} for row in rows]


def _comparison_rows(
    measured: Mapping[str, float], predictions: Mapping[str, Mapping[str, float]], points: int
) -> Iterator[Row]:
    """Yield every effect, and how well each predictor foretells them.

    Of each predictor: its correlation with the effects (none where one side is constant), and the median
    share of an effect that it predicts, signs ignored, which a correlation does not show. Of integrated
    gradients also the largest error.
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
