"""What the tasks on Dyck-3 models share: held-out strings, and correlations with their status under a bar."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from gaugeport.pipeline.job import Job
from gaugeport.pipeline.rotation.toy import bars, strings
from gaugeport.pipeline.rotation.toy.components import Edge
from gaugeport.pipeline.stages.cohorts import longest_trained
from gaugeport.pipeline.tasks.task import Row
from gaugeport.utils.seeds import derive


def heldout(job: Job, n: int, purpose: str, split: str = "train") -> dict[str, Any]:
    """Draw ``n`` held-out strings, different ones for each purpose.

    They are as long as those trained on, except in the split ``long``.
    """
    length = job.model.architecture["max_position_embeddings"] if split == "long" else job.data.length
    seed = derive(job.data.seed, purpose)
    return strings.heldout(split, n, longest_trained(job), length, seed, job.data.depth_label)


def bar_b_batches(job: Job) -> Any:
    """Draw the held-out strings of Bar B."""
    context = job.model.architecture["max_position_embeddings"]  # long strings fit, whatever was trained on
    data = job.data
    return bars.heldout_batches(data.documents, longest_trained(job), context, data.seed, data.depth_label)


def correlation_row(
    metric: str,
    bar: str,
    predicted: Mapping[Edge, float],
    measured: Mapping[Edge, float],
    limits: bars.Thresholds,
) -> Row:
    """Return the row of a bar that is a Pearson correlation, with its status.

    Args:
        metric: The name of the row's metric, without ``_pearson``.
        bar: The bar whose threshold applies.
        predicted: Effects by edge.
        measured: Effects of at least the same edges.
        limits: The thresholds.

    Returns:
        A row ``<metric>_pearson``, or ``<metric>_pearson_undefined`` where one side is constant.
    """
    r = bars.pearson(list(predicted.values()), [measured[edge] for edge in predicted])
    if math.isnan(r):
        return {"metric": f"{metric}_pearson_undefined", "value": 1.0, "status": limits.status(bar, r)}
    return {"metric": f"{metric}_pearson", "value": r, "status": limits.status(bar, r)}


def with_cohort(job: Job, rows: list[Row]) -> list[Row]:
    """Return the rows with the job's cohort in each."""
    return [{"cohort": job.task["cohort"], **row} for row in rows]
