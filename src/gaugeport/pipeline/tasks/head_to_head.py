"""Table c1: maps of every group between two models, fitted on the same tokens, measured on the same tasks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from gaugeport.groups import GROUPS, SignedPermutation
from gaugeport.pipeline.job import PROMPT_SOURCES, Job
from gaugeport.pipeline.measures.head_to_head import head_to_head_rows
from gaugeport.pipeline.measures.maps import Map
from gaugeport.pipeline.measures.steering_effects import steering_effect, transported_effect_rows
from gaugeport.pipeline.stages.catalogue import independent_job
from gaugeport.pipeline.stages.models import is_copy
from gaugeport.pipeline.stages.saes import load_sae
from gaugeport.pipeline.stages.stage import Built
from gaugeport.pipeline.tasks.shared.checks import check_choice, check_language_model
from gaugeport.pipeline.tasks.shared.directions import check_prompts, sentiment_directions
from gaugeport.pipeline.tasks.shared.transfer import ModelPair, load_models
from gaugeport.pipeline.tasks.task import Row, Task
from gaugeport.pipeline.training.saes import sae_settings
from gaugeport.streams.activations import streams_at
from gaugeport.streams.massive import leave_out_massive
from gaugeport.texts import row_batches
from gaugeport.utils.seeds import generator

RETENTION_METRICS = ("retention_native", "no_effect_to_transport")
"""What is reported of a moved direction's effect on B."""


def check(job: Job) -> None:
    """Check the target and the SAE's settings.

    Raises:
        ValueError: The target is a copy, which leaves nothing to fit, or a value of the task is not
            allowed.
    """
    check_language_model(job)
    if is_copy(job):
        raise ValueError(
            f"task.target={job.task['target']} leaves nothing to compare; allowed: finetuned, independent"
        )
    check_choice(job, "target", ("finetuned", "independent"))
    if job.task["target"] == "independent":
        independent_job(job)  # refuses a pretrained model
    check_choice(job, "prompts", (None, *PROMPT_SOURCES))
    check_prompts(job)
    sae_settings(job.task["sae"])


def stages(job: Job) -> tuple[str, ...]:
    """Return A, its SAE, and the target."""
    return ("data", "base", "A", "sae", "B" if job.task["target"] == "finetuned" else "other")


def measure(job: Job, built: Built) -> list[Row]:
    """Return the rows of every group between A and the target.

    Raises:
        ValueError: There are too few held-out rows for ``task.tokens``.
    """
    pair = load_models(job, built)
    # 1) the streams of both models, on rows to fit on and on rows to measure on
    rows_fit, rows_test = _rows_to_fit_and_measure_on(job, pair)
    fit, test = (
        leave_out_massive(
            *(_stream(job, pair, model, rows) for model in (pair.a, pair.b)), massive=job.measurement.massive
        )
        for rows in (rows_fit, rows_test)
    )
    # 2) a sentiment direction, and known gauges planted on B
    retention = _retention(job, pair)
    exact = GROUPS[pair.chart.group]
    assert issubclass(exact, SignedPermutation)
    plants = [exact.random(pair.chart.width, generator(job.seed, "c1", p)) for p in range(job.task["plants"])]
    # 3) every group's maps
    rows = head_to_head_rows(
        *fit,
        *test,
        sae=load_sae(built["sae"]),
        retention=retention,
        tokens=job.task["tokens"],
        plants=plants,
        k=job.task["k"],
    )
    where = {
        "target": job.task["target"],
        "site": pair.site,
        "step": pair.step,
        "route": "endpoint",
        "evidence": "site",
    }
    return [{**where, **row} for row in rows]


def _rows_to_fit_and_measure_on(job: Job, pair: ModelPair) -> tuple[torch.Tensor, torch.Tensor]:
    """Return held-out rows from the start of the text, and others from its end.

    They share no document, except one where they meet.
    """
    tokens = job.task["tokens"]
    n_fit = max(tokens) // (pair.rows_fit.shape[1] - job.measurement.skip_first) + 1
    if n_fit > len(pair.rows_fit):
        raise ValueError(
            f"task.tokens={tokens} requires {n_fit} held-out rows, there are {len(pair.rows_fit)}; "
            "allowed: fewer tokens, or more rows (data.documents)"
        )
    rows_test = pair.rows_test[max(n_fit, len(pair.rows_test) - job.task["test_rows"]) :]
    if not len(rows_test):
        raise ValueError(
            f"task.tokens={tokens} leaves none of {len(pair.rows_test)} held-out rows to measure "
            "on; allowed: fewer tokens, or more rows (data.documents)"
        )
    return pair.rows_fit[:n_fit], rows_test


def _retention(job: Job, pair: ModelPair) -> Callable[[Map], dict[str, float]]:
    """Make the function that moves A's sentiment direction by a map and measures what B retains of it."""
    v = sentiment_directions(job, pair)
    effect = steering_effect(v.slot(pair.b), job.task["strength"])

    def retention(m: Map) -> dict[str, float]:
        rows = transported_effect_rows(effect, [m.direction(v.of_a)], v.of_a, v.of_b, v.random_controls())
        return {row["metric"]: row["value"] for row in rows if row["metric"] in RETENTION_METRICS}

    return retention


def _stream(job: Job, pair: ModelPair, model: Any, rows: torch.Tensor) -> torch.Tensor:
    """Return one model's stream at the pair's site, float32[tokens, d], on the CPU."""
    batches = row_batches(rows, job.measurement.batch_size)
    skip = job.measurement.skip_first
    return torch.cat([streams_at(model, pair.chart, b, [pair.site], skip)[pair.site].cpu() for b in batches])


TASK = Task(measure, stages, check)
