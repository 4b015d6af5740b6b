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
    """Return rows by what is compared: the models, their initialisations, and the other with its own
    checkpoints.

    A pair that is not independent gets a row that says so;
    :func:`gaugeport.pipeline.rotation.models.independence.check_independent` is what refuses it.
    """
    largest = float(job.task["largest_cosine"])
    shared = cohorts.SHARED if job.task["cohort"] == "A" else ()
    ends: dict[Side, Any] = {side: pairs.load_side(job, built.folders, side).model for side in pairs.SIDES}
    starts: dict[Side, Any] = {side: start(job, built, side) for side in ends}
    digest = independence.model_digest(ends["other"])
    rows: list[Row] = []
    for compared, sides in (("models", ends), ("initialisations", starts)):
        pair = independence.compare(sides["anchor"], sides["other"], shared)
        rows += [{"compared": compared, **row} for row in _rows(pair, largest)]
        if compared == "models":
            rows += [{"compared": compared, **row} for row in _tensor_rows(pair)]
    rows += _training(ends, starts, shared)
    for step in compared_steps(job, built):
        earlier = pairs.load_side(job, built.folders, "other", step).model
        pair = independence.compare(ends["other"], earlier, shared)
        rows += [{"compared": "own checkpoint", "step": step, **row} for row in _rows(pair, largest)]
    return [{"cohort": job.task["cohort"], "digest": digest, **row} for row in rows]


def start(job: Job, built: Built, side: Side) -> Any:
    """Return the model that one side's training started from; of a fine-tuning run, its base."""
    if pairs.is_toy(job):
        return cohorts.initialised(job, pairs.seed_of(job, side))
    if job.task["cohort"] == "runs":
        return load_model(built["base"], dtype=torch.float32)
    if job.model.from_hub:
        return pairs.load_side(job, built.folders, side, 0).model
    return initialise(pairs.with_seed_of(job, side), read_tokenizer(built["data"]))


def compared_steps(job: Job, built: Built) -> list[int]:
    """Return the steps of the other's own run that it is compared with."""
    if job.model.from_hub and job.task["cohort"] == "seeds":
        return sorted(job.task["hub_steps"])
    return pairs.saved_steps(job, built.folders, "other")


def _rows(pair: independence.WeightComparison, largest: float) -> Iterator[Row]:
    verdict = pair.verdict(largest)
    name, spectrum = pair.spectrum
    yield {"metric": "independent", "value": float(verdict == "independent"), "status": verdict}
    yield {"metric": "identical_share", "value": pair.identical_share}
    if pair.matrices:
        yield {"metric": "weight_cosine", "value": pair.cosine}
        yield {"metric": "relative_distance", "value": pair.distance}
        yield {"metric": "spectrum_distance", "tensor": name, "value": spectrum}


def _tensor_rows(pair: independence.WeightComparison) -> Iterator[Row]:
    for name in pair.identical:
        yield {"metric": "identical", "tensor": name, "value": 1.0}
    for name, why in pair.constructed.items():
        yield {"metric": "equal_by_construction", "tensor": name, "status": why, "value": 1.0}
    for name, (cosine, distance, spectrum) in pair.matrices.items():
        yield {"metric": "tensor_cosine", "tensor": name, "value": cosine}
        yield {"metric": "tensor_distance", "tensor": name, "value": distance}
        yield {"metric": "tensor_spectrum", "tensor": name, "value": spectrum}


def _training(ends: Mapping[Side, Any], starts: Mapping[Side, Any], shared: tuple[str, ...]) -> Iterator[Row]:
    """Return how far each side moved from its step 0 (over its norm), and how alike the updates are."""
    ways = {end: independence.weight_changes(ends[end], starts[end]) for end in ends}
    names = [n for n in ways["other"] if n not in shared and n in ways["anchor"]]
    yield {
        "metric": "update_cosine",
        "value": independence.cosine_and_distance(ways["anchor"], ways["other"], names)[0],
    }
    for end, way in ways.items():
        before, after = independence.tensors(starts[end]), independence.tensors(ends[end])
        yield {"metric": "distance_to_start", "end": end, "value": _norm(way, names) / _norm(before, names)}
        yield {
            "metric": "cosine_to_start",
            "end": end,
            "value": independence.cosine_and_distance(after, before, names)[0],
        }


def _norm(side: Mapping[str, torch.Tensor], names: list[str]) -> float:
    return float(torch.stack([side[n].double().norm().cpu() for n in names]).norm())


TASK = Task(measure, pairs.pair_stages, check)
