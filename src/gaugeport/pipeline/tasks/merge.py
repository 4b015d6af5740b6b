"""Jobs of merging (table a7): models A and B, the arm's residual gauges, and held-out rows to measure losses on."""

from __future__ import annotations

from typing import Any

import torch

from gaugeport.alignment.routes import BASE
from gaugeport.charts import fold_gains
from gaugeport.models.loading import load_model
from gaugeport.pipeline.data import row_batches, rows_holding
from gaugeport.pipeline.job import Job
from gaugeport.pipeline.measures.merge_barriers import (
    MATCHED_REORDERINGS,
    PLANTED_REORDERINGS,
    check_points,
    merge_barrier_rows,
)
from gaugeport.pipeline.stages.training import base_stage
from gaugeport.pipeline.store.store import Store
from gaugeport.pipeline.tasks.transfer import stages_of as transfer_stages
from gaugeport.pipeline.tasks.transfer import transfer
from gaugeport.utils.devices import default_device

ROTATIONS = ("orthogonal", "mean_preserving_orthogonal")


def stages_of(job: Job) -> tuple[str, ...]:
    """The stages a job stands on. Raises what :func:`check` raises, before any of them is built."""
    check(job)
    return transfer_stages(job)


def measure(job: Job, store: Store) -> list[dict[str, Any]]:
    """The rows of one arm: losses along the line and of merges, the barrier, gauge accuracy and both models' losses."""
    check(job)
    task, found = job.task, transfer(job, store)
    models = {"a": found.a, "b": found.b}
    toward_b = []
    if task["target"] == "finetuned":
        models["base"] = load_model(base_stage(job, store), dtype=torch.float32, device=default_device())
        # along the arm's own walk where that comes through the base, else by the direct link
        on_the_way = found.nodes.index(BASE) if BASE in found.nodes else None
        nodes = [BASE, found.nodes[-1]] if on_the_way is None else found.nodes[on_the_way:]
        toward_b = [found.arm.residual(nodes, plant) for plant in range(found.plants)]
    if task["fold"]:
        models = {name: fold_gains(model) for name, model in models.items()}
    rows = merge_barrier_rows(
        models["a"],
        models["b"],
        found.residuals(),
        list(row_batches(rows_holding(found.rows_test, task["tokens"], key="task.tokens"), 64)),
        points=task["points"],
        planted=task["planted"],
        matched=task["matched"],
        seed=job.seed,
        base=models.get("base"),
        base_residuals=toward_b,
        scalings=task["scalings"],
    )
    how = {"planted": task["planted"], "matched": task["matched"], "folded": task["fold"]}
    return [{**found.where, **how, **row} for row in (*rows, *found.accuracy())]


def check(job: Job) -> None:
    """Raise ``ValueError`` for settings of the task that are unknown, or under which its gauges mean nothing."""
    task = job.task
    of_runs = ("identical", "finetuned")  # between independent models there is no residual to move A by
    for key, allowed in (
        ("target", of_runs),
        ("planted", PLANTED_REORDERINGS),
        ("matched", MATCHED_REORDERINGS),
        ("fold", (False, True)),
    ):
        if task[key] not in allowed:
            raise ValueError(f"task.{key}={task[key]!r}; allowed: {', '.join(map(str, allowed))}")
    for key in ("plants", "tokens"):
        if type(task[key]) is not int or task[key] < 1:
            raise ValueError(f"task.{key}={task[key]!r}; allowed: a positive whole number")
    check_points(task["points"])
    if job.gauge in ROTATIONS and not task["fold"]:
        raise ValueError(
            f"gauge={job.gauge}: a rotation is no symmetry of a model with its gains in place, so what it moves is "
            "another function; allowed: task.fold=true, which folds the gains of all models first"
        )
    if task["planted"] != "none" and (job.matcher == "weights" or task["evidence"] in ("weights", "both")):
        raise ValueError(
            f"task.planted={task['planted']} with weight evidence, which pairs neurons and heads by their place; "
            "allowed: task.evidence=site or pooled (and no matcher=weights), or task.planted=none"
        )
