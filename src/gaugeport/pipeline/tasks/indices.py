"""Table a10: lists of A moved by a condition's gauge, against the target's own."""

from __future__ import annotations

from gaugeport.pipeline.job import Job
from gaugeport.pipeline.measures.conditions import plant_group
from gaugeport.pipeline.measures.importance import LISTS
from gaugeport.pipeline.measures.index_lists import moved_list_rows
from gaugeport.pipeline.stages.models import is_copy
from gaugeport.pipeline.stages.stage import Built
from gaugeport.pipeline.tasks.shared.lists import list_stages, scores_of, theory
from gaugeport.pipeline.tasks.shared.transfer import check_transfer, load_transfer
from gaugeport.pipeline.tasks.task import Row, Task


def measure(job: Job, built: Built) -> list[Row]:
    """Return the rows of one condition, its gauge accuracy and the losses of both models."""
    pair, (a, b), k = load_transfer(job, built), scores_of(job, built), job.task["k"]
    exact = plant_group(pair.condition.evidence)
    rows = moved_list_rows(a, b, list(pair.residuals()), k)
    for row in rows:
        if LISTS[row["list"]].space == "coordinate":
            row["theory"] = theory(job, exact, row["metric"], len(a[row["list"]]))
        else:  # invariant under the residual gauge
            row["theory"] = 1.0 if is_copy(job) else None
    return [*({**pair.where, "k": k, **row} for row in rows), *pair.accuracy()]


TASK = Task(measure, list_stages, check_transfer)
