"""Table b12: whether a model of a cohort is independent of its anchor, as claims about seeds require."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch

from gaugeport.models.loading import load_model
from gaugeport.pipeline.job import Job
from gaugeport.pipeline.rotation.models import independence
from gaugeport.pipeline.stages import cohorts, pairs
from gaugeport.pipeline.stages.base import initialise
from gaugeport.pipeline.stages.pairs import Side
from gaugeport.pipeline.stages.rows import read_tokenizer
from gaugeport.pipeline.stages.stage import Built
from gaugeport.pipeline.tasks.shared.checks import check_cohort
from gaugeport.pipeline.tasks.task import Row, Task


def check(job: Job) -> None:
    """Check the cohort and the largest cosine of independent models.

    Raises:
        ValueError: A value is not allowed.
    """
    check_cohort(job)
    independence.check_cosine(float(job.task["largest_cosine"]))


def measure(job: Job, built: Built) -> list[Row]:
    """Compare the models, their initialisations, and the other model with its own checkpoints.

    A pair that is not independent gets a row that says so; it is
    :func:`gaugeport.pipeline.rotation.models.independence.check_independent` that refuses such pairs.
    """
    largest = float(job.task["largest_cosine"])
    shared = cohorts.SHARED if job.task["cohort"] == "A" else ()
    # 1) both models at the end and at the start of their training
    ends: dict[Side, Any] = {side: pairs.load_side(job, built.folders, side).model for side in pairs.SIDES}
    starts: dict[Side, Any] = {side: start(job, built, side) for side in ends}
    digest = independence.model_digest(ends["other"])
    # 2) the models, tensor by tensor too, and their initialisations
    pair = independence.compare(ends["anchor"], ends["other"], shared)
    rows = [{"compared": "models", **row} for row in (*_pair_rows(pair, largest), *_tensor_rows(pair))]
    pair = independence.compare(starts["anchor"], starts["other"], shared)
    rows += [{"compared": "initialisations", **row} for row in _pair_rows(pair, largest)]
    # 3) how far and where training moved them
    rows += _training_rows(ends, starts, shared)
    # 4) the other model and its own checkpoints, which are not independent of it
    for step in compared_steps(job, built):
        earlier = pairs.load_side(job, built.folders, "other", step).model
        pair = independence.compare(ends["other"], earlier, shared)
        at = {"compared": "own checkpoint", "step": step}
        rows += [{**at, **row} for row in _pair_rows(pair, largest)]
    return [{"cohort": job.task["cohort"], "digest": digest, **row} for row in rows]


def start(job: Job, built: Built, side: Side) -> Any:
    """Return the model that one side's training started from; of a fine-tuning run, its base.

    Args:
        job: The job.
        built: The folders of its stages.
        side: ``anchor`` or ``other``.
    """
    if pairs.is_toy(job):
        return cohorts.initialised(job, pairs.seed_of(job, side))
    if job.task["cohort"] == "runs":
        return load_model(built["base"], dtype=torch.float32)
    if job.model.from_hub:
        return pairs.load_side(job, built.folders, side, 0).model
    return initialise(pairs.with_seed_of(job, side), read_tokenizer(built["data"]))


def compared_steps(job: Job, built: Built) -> list[int]:
    """Return the steps of the other model's own run that it is compared with.

    Args:
        job: The job.
        built: The folders of its stages.
    """
    if job.model.from_hub and job.task["cohort"] == "seeds":
        return sorted(job.task["hub_steps"])
    return pairs.saved_steps(job, built.folders, "other")


def _pair_rows(pair: independence.WeightComparison, largest: float) -> Iterator[Row]:
    """Yield the verdict on two models, and what it rests on."""
    verdict = pair.verdict(largest)
    name, spectrum = pair.spectrum
    yield {"metric": "independent", "value": float(verdict == "independent"), "status": verdict}
    yield {"metric": "identical_share", "value": pair.identical_share}
    if pair.matrices:
        yield {"metric": "weight_cosine", "value": pair.cosine}
        yield {"metric": "relative_distance", "value": pair.distance}
        yield {"metric": "spectrum_distance", "tensor": name, "value": spectrum}


def _tensor_rows(pair: independence.WeightComparison) -> Iterator[Row]:
    """Yield which tensors are equal, and how near each of the others is."""
    for name in pair.identical:
        yield {"metric": "identical", "tensor": name, "value": 1.0}
    for name, why in pair.constructed.items():
        yield {"metric": "equal_by_construction", "tensor": name, "status": why, "value": 1.0}
    for name, (cosine, distance, spectrum) in pair.matrices.items():
        yield {"metric": "tensor_cosine", "tensor": name, "value": cosine}
        yield {"metric": "tensor_distance", "tensor": name, "value": distance}
        yield {"metric": "tensor_spectrum", "tensor": name, "value": spectrum}


def _training_rows(
    ends: Mapping[Side, Any], starts: Mapping[Side, Any], shared: tuple[str, ...]
) -> Iterator[Row]:
    """Yield how far each side moved from its step 0 (over its norm), and how alike the two updates are."""
    cosine_and_distance = independence.cosine_and_distance
    updates = {side: independence.weight_changes(ends[side], starts[side]) for side in ends}
    names = [n for n in updates["other"] if n not in shared and n in updates["anchor"]]
    cosine, _ = cosine_and_distance(updates["anchor"], updates["other"], names)
    yield {"metric": "update_cosine", "value": cosine}
    for side, update in updates.items():
        before, after = independence.tensors(starts[side]), independence.tensors(ends[side])
        distance = _norm(update, names) / _norm(before, names)
        yield {"metric": "distance_to_start", "end": side, "value": distance}
        cosine, _ = cosine_and_distance(after, before, names)
        yield {"metric": "cosine_to_start", "end": side, "value": cosine}


def _norm(weights: Mapping[str, torch.Tensor], names: list[str]) -> float:
    """Return the norm of several tensors taken together."""
    return float(torch.stack([weights[n].double().norm().cpu() for n in names]).norm())


TASK = Task(measure, pairs.pair_stages, check)
