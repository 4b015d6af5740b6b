"""The importance scores of the runs' last checkpoints (tables a9, a10): a stage, so that all arms share them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from gaugeport.charts import chart_of
from gaugeport.models.loading import load_model
from gaugeport.pipeline.data import row_batches, rows_holding
from gaugeport.pipeline.job import Job
from gaugeport.pipeline.measures.importance import Scores, agreement_by_chance, score_importance
from gaugeport.pipeline.stages.training import heldout_rows, run_checkpoints, run_key
from gaugeport.pipeline.store.store import Store
from gaugeport.pipeline.tasks import transfer
from gaugeport.streams.activations import middle_site
from gaugeport.utils.devices import default_device

EXACT = {
    ("signed_permutation", "oracle"),
    ("signed_permutation", "hungarian_abs"),
    ("signed_permutation", "weights"),
    ("global_sign_permutation", "hungarian_raw"),
    ("global_sign_permutation", "weights"),
}
"""Arms that name the gauge of a functionally identical target rightly, where their group is the models' exact one."""


WHOLE, *HALVES = PARTS = ("scores", "first", "second")
"""Files of scores: on all the tokens, and on either half of them, which say how far a list is one of the model."""


def stages_of(job: Job) -> tuple[str, ...]:
    """The stages a job about lists stands on."""
    lists = ("lists_A",) if job.task["target"] == "identical" else ("lists_A", "lists_B")
    return (*transfer.stages_of(job), *lists)


def lists_stage(job: Job, store: Store, run: str) -> Path:
    """float64 scores of every list, of the last checkpoint of a run at its middle block: a file for each of :data:`PARTS`."""

    def build(folder: Path) -> None:
        saved = run_checkpoints(job, store, run)
        model = load_model(saved[max(saved)], dtype=torch.float32, device=default_device())
        for part in PARTS:
            save_file(measure_scores(model, job, store, part), folder / f"{part}.safetensors")

    return store.ensure("lists", lists_key(job, run), build)


def lists_key(job: Job, run: str) -> dict[str, Any]:
    """What decides the scores: the run, the tokens, and how attributions are made."""
    task = {k: job.task[k] for k in ("tokens", "ig_steps", "baseline")}
    return {"run": run_key(job, run), "skip_first": job.measurement.skip_first, **task}


def measure_scores(model: Any, job: Job, store: Store, part: str = WHOLE) -> Scores:
    """The scores of a model on one of :data:`PARTS` of the job's held-out tokens.

    Raises ``ValueError`` where there are too few of them.
    """
    return score_importance(
        model,
        _batches(job, heldout_rows(job, store)[1], part),
        middle_site(model, chart_of(model)),
        ig_steps=job.task["ig_steps"],
        baseline=job.task["baseline"],
        skip_first=job.measurement.skip_first,
    )


def scores_of(job: Job, store: Store, part: str = WHOLE) -> tuple[Scores, Scores]:
    """The stored scores of A and of the job's target, on one of :data:`PARTS` of the tokens."""
    a = load_file(lists_stage(job, store, "A") / f"{part}.safetensors")
    if job.task["target"] == "identical":
        return a, a
    return a, load_file(lists_stage(job, store, "B") / f"{part}.safetensors")


def theory(job: Job, exact_group: str, metric: str, width: int) -> float | None:
    """What a metric of moved lists has to be: chance where no gauge is named, 1 where it is named rightly.

    ``exact_group`` is the group the planted gauges were drawn from. None where theory says nothing, as under drift.
    """
    if metric not in ("jaccard", "precision", "rank_correlation", "sign_agreement"):
        return None
    if job.matcher == "none":
        return agreement_by_chance(metric, width, job.task["k"])
    if job.task["target"] != "identical":
        return None
    if job.gauge == exact_group and (job.gauge, job.matcher) in EXACT:
        return 1.0
    if (job.gauge, job.matcher) == ("permutation", "hungarian_abs"):  # the right index, its sign dropped
        return 0.5 if metric == "sign_agreement" else 1.0
    return None


def _batches(job: Job, rows: Tensor, part: str) -> Sequence[dict[str, Tensor]]:
    held = rows_holding(rows, job.task["tokens"], job.measurement.skip_first, "task.tokens")
    middle = len(held) // 2
    kept = {WHOLE: held, "first": held[:middle], "second": held[middle:]}[part]
    return list(row_batches(kept, job.measurement.batch_size))
