"""Jobs on one training run (table b9): an SAE of an early checkpoint on every later one, by group and by route."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import reduce
from typing import Any

from torch import Tensor

from gaugeport.pipeline.job import Job
from gaugeport.pipeline.measures.maps import Map, fit_map
from gaugeport.pipeline.rotation.features.universality import explained_variance, fit_maps
from gaugeport.pipeline.rotation.haar.rank import fit_rotation, spectrum, supported_distance
from gaugeport.pipeline.rotation.haar.statistics import rotation_statistics
from gaugeport.pipeline.rotation.models import subjects
from gaugeport.pipeline.stages import subject_saes
from gaugeport.pipeline.store.store import Store
from gaugeport.pipeline.tasks.dyck import own_stages

Row = dict[str, Any]

GROUPS = ("permutation", "signed_permutation", "orthogonal")
"""Groups whose local elements are composed along the run."""


def stages(job: Job) -> tuple[str, ...]:
    """The run. Raises ``ValueError`` for a cohort of fine-tuning runs: paper A's tables are about those."""
    if job.task["cohort"] == "runs":
        raise ValueError("task.cohort=runs has no pretraining to follow; allowed: A, B, seeds")
    subject_saes.check_saes(job)
    if subjects.is_dyck(job):
        return own_stages(job)
    return ("data",) if job.model.from_hub else ("data", "pretraining")


def measure(job: Job, store: Store) -> list[Row]:
    """Rows by site and step of the run: EV through the end-to-end map and through the composed local ones, distances."""
    source, *targets = steps_of(job, store)
    saes, rows = subject_saes.load_saes(job, store, "other", step=source), []
    anchor = subjects.load_subject(job, store, "other", source)
    before = _streams(job, anchor)
    local: dict[str, dict[str, list[Map]]] = {site: {g: [] for g in GROUPS} for site in before["fit"]}
    first = before
    for step in targets:
        here = _streams(job, subjects.load_subject(job, store, "other", step))
        for site, walked in local.items():
            for group in GROUPS:
                m = replace(fit_map(group, before["fit"][site], here["fit"][site]), scale=1.0)
                walked[group].append(m)
            at = {"cohort": job.task["cohort"], "site": site, "step": step, "source": source}
            found = [
                *_rows(saes[site], first, here, site, walked),
                *_distances(first["fit"][site], here["fit"][site], anchor.rotations),
            ]
            rows += [{**at, **row} for row in found]
        before = here
    last = [
        {**row, "metric": "explained_variance"}
        for row in rows
        if row["step"] == targets[-1]
        and row["metric"] == "explained_variance_by_step"
        and row["route"] == "endpoint"
    ]
    return [*rows, *last]


def steps_of(job: Job, store: Store) -> list[int]:
    """The source, the first checkpoint at or beyond ``task.source`` of the run, and every later one.

    Of several shares in ``task.source``, the first checkpoint at or beyond each. On the hub they are ``task.hub_steps``.
    Raises ``ValueError`` where fewer than two are left.
    """
    source = job.task["source"]
    if job.model.from_hub and not subjects.is_dyck(job):
        steps = sorted(job.task["hub_steps"])
    else:
        saved = subjects.saved_steps(job, store, "other")
        shares = sorted(source) if isinstance(source, list) else [source]
        beyond = [[s for s in saved if s >= share * saved[-1]] for share in shares]
        steps = beyond[0] if len(beyond) == 1 else sorted({later[0] for later in beyond if later})
    if len(steps) < 2:
        raise ValueError(f"task.source={source} leaves the checkpoints {steps}; two are wanted")
    return steps


def composed(walk: list[Map]) -> Map:
    """The maps of a walk one after the other; none has a scale."""
    return reduce(
        lambda a, b: Map(b.to_b @ a.to_b, a.to_a @ b.to_a, a.mean_a, b.mean_b, None),
        walk,
    )


def _rows(
    sae: Any, first: dict[str, Any], here: dict[str, Any], site: str, walked: dict[str, list[Map]]
) -> Iterator[Row]:
    fit, test = (first["fit"][site], here["fit"][site]), here["test"][site]
    yield _ev("self", "endpoint", explained_variance(sae, first["test"][site]))
    for group, m in fit_maps(*fit).items():
        yield _ev(group, "endpoint", explained_variance(sae, test, m))
    for group, walk in walked.items():
        yield _ev(group, "trajectory", explained_variance(sae, test, composed(walk)))


def _distances(a: Tensor, b: Tensor, group: str) -> Iterator[Row]:
    """How far the end-to-end rotation is from the identity, over what a random one is; and on what carries the stream."""
    r = fit_rotation(a, b, group).rotation
    found = {
        "distance_from_identity": rotation_statistics(r, group)["distance_from_identity"],
        "supported_distance": supported_distance(r, spectrum(a).support()),
    }
    yield from (
        {"metric": m, "group": "orthogonal", "route": "endpoint", "value": v} for m, v in found.items()
    )


def _ev(group: str, route: str, value: float) -> Row:
    return {"metric": "explained_variance_by_step", "group": group, "route": route, "value": value}


def _streams(job: Job, subject: subjects.Subject) -> dict[str, dict[str, Tensor]]:
    return {
        "fit": subject.streams("fit", max(job.task["tokens"])),
        "test": subject.streams("test", job.task["test_tokens"]),
    }
