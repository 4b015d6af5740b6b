"""Jobs of index transport (table a10): lists of A moved by an arm's gauge, against the target's own."""

from __future__ import annotations

from typing import Any

from gaugeport.pipeline.job import Job
from gaugeport.pipeline.measures.conditions import plant_group
from gaugeport.pipeline.measures.importance import LISTS
from gaugeport.pipeline.measures.index_lists import moved_list_rows
from gaugeport.pipeline.store.store import Store
from gaugeport.pipeline.tasks.lists import scores_of, theory
from gaugeport.pipeline.tasks.transfer import transfer

Row = dict[str, Any]


def measure(job: Job, store: Store) -> list[Row]:
    """The rows of one arm, its gauge accuracy and the losses of both models."""
    found, (a, b), k = transfer(job, store), scores_of(job, store), job.task["k"]
    rows = moved_list_rows(a, b, list(found.residuals()), k)
    exact, identical = plant_group(found.arm.evidence), job.task["target"] == "identical"
    for row in rows:
        if LISTS[row["list"]].space == "coordinate":
            row["theory"] = theory(job, exact, row["metric"], len(a[row["list"]]))
        else:  # invariant under the residual gauge
            row["theory"] = 1.0 if identical else None
    return [*({**found.where, "k": k, **row} for row in rows), *found.accuracy()]
