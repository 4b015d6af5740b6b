"""Table a7: merges of A and B aligned by the condition's gauge, and the loss barrier between them."""

from __future__ import annotations

import torch

from gaugeport.alignment.routes import BASE
from gaugeport.charts import fold_gains
from gaugeport.models.loading import load_model
from gaugeport.pipeline.job import Job
from gaugeport.pipeline.measures.merge_barriers import (
    MATCHED_REORDERINGS,
    PLANTED_REORDERINGS,
    check_points,
    merge_barrier_rows,
)
from gaugeport.pipeline.stages.models import COPIES
from gaugeport.pipeline.stages.stage import Built
from gaugeport.pipeline.tasks.shared.checks import check_choice
from gaugeport.pipeline.tasks.shared.transfer import check_transfer, load_transfer, transfer_stages
from gaugeport.pipeline.tasks.task import Row, Task
from gaugeport.texts import row_batches, rows_holding
from gaugeport.utils.devices import default_device

ROTATIONS = ("orthogonal", "mean_preserving_orthogonal")
"""Groups that are symmetries of folded models only."""

ROWS_PER_BATCH = 64
"""Rows of held-out tokens that losses are measured on at a time."""


def check(job: Job) -> None:
    """Check the settings of a merge.

    Raises:
        ValueError: A setting is not allowed, or the condition's gauges mean nothing under it.
    """
    check_transfer(job)
    task = job.task
    check_choice(job, "target", (*COPIES, "finetuned"))  # no gauge relates independent models
    check_choice(job, "planted", tuple(PLANTED_REORDERINGS))
    check_choice(job, "matched", tuple(MATCHED_REORDERINGS))
    check_choice(job, "fold", (False, True))
    for key in ("plants", "tokens"):
        if type(task[key]) is not int or task[key] < 1:
            raise ValueError(f"task.{key}={task[key]!r}; allowed: a positive whole number")
    check_points(task["points"])
    if job.gauge in ROTATIONS and not task["fold"]:
        raise ValueError(
            f"gauge={job.gauge}: a rotation is not a symmetry of a model with its gains in place, so it "
            "would change its function; allowed: task.fold=true, which folds the gains of all models first"
        )
    if task["planted"] != "none" and (job.matcher == "weights" or task["evidence"] in ("weights", "both")):
        raise ValueError(
            f"task.planted={task['planted']} with weight evidence, which pairs neurons and heads by index; "
            "allowed: task.evidence=site or pooled (and no matcher=weights), or task.planted=none"
        )


def measure(job: Job, built: Built) -> list[Row]:
    """Return losses along the line and of merges, the barrier, gauge accuracy and both models' losses."""
    task, pair = job.task, load_transfer(job, built)
    models = {"a": pair.a, "b": pair.b}
    # 1) the base of fine-tuned models, which task vectors start from, and its gauges to B
    base_residuals = []
    if task["target"] == "finetuned":
        models["base"] = load_model(built["base"], dtype=torch.float32, device=default_device())
        # along the condition's own walk where that passes through the base, else by the direct link
        nodes = pair.nodes[pair.nodes.index(BASE) :] if BASE in pair.nodes else [BASE, pair.nodes[-1]]
        base_residuals = [pair.condition.residual(nodes, plant) for plant in range(pair.plants)]
    if task["fold"]:
        models = {name: fold_gains(model) for name, model in models.items()}
    # 2) the merges, on held-out tokens
    heldout = rows_holding(pair.rows_test, task["tokens"], key="task.tokens")
    rows = merge_barrier_rows(
        models["a"],
        models["b"],
        pair.residuals(),
        list(row_batches(heldout, ROWS_PER_BATCH)),
        points=task["points"],
        planted=task["planted"],
        matched=task["matched"],
        seed=job.seed,
        base=models.get("base"),
        base_residuals=base_residuals,
        scalings=task["scalings"],
    )
    settings = {"planted": task["planted"], "matched": task["matched"], "folded": task["fold"]}
    return [{**pair.where, **settings, **row} for row in (*rows, *pair.accuracy())]


TASK = Task(measure, transfer_stages, check)
