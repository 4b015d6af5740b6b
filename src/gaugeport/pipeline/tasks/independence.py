"""Jobs of table b12: is a model of a cohort independent of its anchor? Asked before anything is said of seeds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch

from gaugeport.models.loading import load_model
from gaugeport.pipeline.job import Job
from gaugeport.pipeline.rotation.models import independence, subjects
from gaugeport.pipeline.rotation.models.subjects import End
from gaugeport.pipeline.stages import cohorts
from gaugeport.pipeline.stages.training import base_stage, initialised
from gaugeport.pipeline.store.store import Store

Row = dict[str, Any]


def stages(job: Job) -> tuple[str, ...]:
    """Both models. Raises ``ValueError`` for the anchor with itself, and for a cosine that separates nothing."""
    subjects.check_pair(job)
    independence.check_cosine(float(job.task["largest_cosine"]))
    return subjects.model_stages(job)


def measure(job: Job, store: Store) -> list[Row]:
    """Rows by what is compared: the two models, their two initialisations, and the other with its own checkpoints.

    A pair that is not independent is a row that says so; :func:`gaugeport.pipeline.rotation.models.independence.check_independent`
    is what refuses it.
    """
    largest = float(job.task["largest_cosine"])
    shared = cohorts.SHARED if job.task["cohort"] == "A" else ()
    ends: dict[End, Any] = {end: subjects.load_subject(job, store, end).model for end in ("anchor", "other")}
    starts: dict[End, Any] = {end: start(job, store, end) for end in ends}
    digest = independence.model_digest(ends["other"])
    rows: list[Row] = []
    for compared, sides in (("models", ends), ("initialisations", starts)):
        pair = independence.compare(sides["anchor"], sides["other"], shared)
        rows += [{"compared": compared, **row} for row in _rows(pair, largest)]
        if compared == "models":
            rows += [{"compared": compared, **row} for row in _tensor_rows(pair)]
    rows += _training(ends, starts, shared)
    for step in steps(job, store):
        earlier = subjects.load_subject(job, store, "other", step).model
        pair = independence.compare(ends["other"], earlier, shared)
        rows += [{"compared": "own checkpoint", "step": step, **row} for row in _rows(pair, largest)]
    return [{"cohort": job.task["cohort"], "digest": digest, **row} for row in rows]


def start(job: Job, store: Store, end: End) -> Any:
    """The model that one end's training started from; of a fine-tuning run, its base."""
    if subjects.is_dyck(job):
        return cohorts.initialised(job, subjects.seed_of(job, end))
    if job.task["cohort"] == "runs":
        return load_model(base_stage(job, store), dtype=torch.float32)
    if job.model.from_hub:
        return subjects.load_subject(job, store, end, 0).model
    return initialised(subjects.seeded(job, end), store)


def steps(job: Job, store: Store) -> list[int]:
    """The checkpoints of the other's own run that it is compared with."""
    if job.model.from_hub and job.task["cohort"] == "seeds":
        return sorted(job.task["hub_steps"])
    return subjects.saved_steps(job, store, "other")


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


def _training(ends: Mapping[End, Any], starts: Mapping[End, Any], shared: tuple[str, ...]) -> Iterator[Row]:
    """How far each end went from its step 0, in units of its norm, and how alike the two ways are."""
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
