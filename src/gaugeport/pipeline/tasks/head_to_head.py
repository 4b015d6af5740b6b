"""Jobs of table c1: maps of every group between two models, fitted on the same tokens, measured on the same tasks."""

from __future__ import annotations

from typing import Any

import torch

from gaugeport.groups import GROUPS, SignedPermutation
from gaugeport.pipeline.data import row_batches
from gaugeport.pipeline.job import Job
from gaugeport.pipeline.measures.head_to_head import head_to_head_rows
from gaugeport.pipeline.measures.maps import Map
from gaugeport.pipeline.measures.steering_effects import steering_effect, transported_effect_rows
from gaugeport.pipeline.store.store import Store
from gaugeport.pipeline.tasks.steering import random_controls, sentiment
from gaugeport.pipeline.tasks.transfer import Ends, load_ends
from gaugeport.pipeline.training.saes import load_sae, sae_settings
from gaugeport.streams.activations import streams_at
from gaugeport.utils.seeds import generator

Row = dict[str, Any]


def stages(job: Job) -> tuple[str, ...]:
    """The stages a job stands on."""
    shared = ("data", "base", "A", "sae")
    if job.task["target"] == "finetuned":
        return (*shared, "B")
    trained_here = job.model.path is None and not job.model.from_hub
    return (*shared, "other") if trained_here else shared  # measure says what is wrong


def measure(job: Job, store: Store) -> list[Row]:
    """The rows of every group between A and the target. Raises ``ValueError`` for an identical target: nothing to fit."""
    if job.task["target"] == "identical":
        raise ValueError("task.target=identical leaves nothing to compare; allowed: finetuned, independent")
    sae_settings(job)
    ends = load_ends(job, store)
    wanted = max(job.task["tokens"]) // (ends.rows_fit.shape[1] - job.measurement.skip_first) + 1
    if wanted > len(ends.rows_fit):
        raise ValueError(
            f"task.tokens={job.task['tokens']} wants {wanted} held-out rows, there are {len(ends.rows_fit)}"
        )
    fit = [_streams(job, ends, model, ends.rows_fit[:wanted]) for model in (ends.a, ends.b)]
    # from the other end of the text: no document but the one where both meet, if they do, is fitted on and measured on
    apart = ends.rows_test[max(wanted, len(ends.rows_test) - job.task["test_rows"]) :]
    if not len(apart):
        raise ValueError(
            f"task.tokens={job.task['tokens']} leaves none of {len(ends.rows_test)} held-out rows to measure on; allowed: "
            "fewer tokens, or more rows (data.documents)"
        )
    test = [_streams(job, ends, model, apart) for model in (ends.a, ends.b)]
    v = sentiment(job, ends)
    effect = steering_effect(v.slot(ends.b), job.task["strength"])

    def retention(m: Map) -> dict[str, float]:
        rows = transported_effect_rows(effect, [m.direction(v.of_a)], v.of_a, v.of_b, random_controls(v))
        return {
            r["metric"]: r["value"]
            for r in rows
            if r["metric"] in ("retention_native", "no_effect_to_transport")
        }

    exact = GROUPS[ends.chart.group]
    assert issubclass(exact, SignedPermutation)
    rows = head_to_head_rows(
        *fit,
        *test,
        sae=load_sae(job, store),
        retention=retention,
        tokens=job.task["tokens"],
        plants=[
            exact.random(ends.chart.width, generator(job.seed, "c1", p)) for p in range(job.task["plants"])
        ],
        k=job.task["k"],
    )
    where = {
        "target": job.task["target"],
        "site": ends.site,
        "step": ends.step,
        "route": "endpoint",
        "evidence": "site",
    }
    return [{**where, **row} for row in rows]


def _streams(job: Job, ends: Ends, model: Any, rows: torch.Tensor) -> torch.Tensor:
    batches = row_batches(rows, job.measurement.batch_size)
    skip = job.measurement.skip_first
    return torch.cat([streams_at(model, ends.chart, b, [ends.site], skip)[ends.site].cpu() for b in batches])
