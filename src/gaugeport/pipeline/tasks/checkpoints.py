"""Table b9: an SAE of an early checkpoint of a training run on every later one, by group and by route."""

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
from gaugeport.pipeline.stages import pair_saes, pairs
from gaugeport.pipeline.stages.pairs import PairedModel
from gaugeport.pipeline.stages.stage import Built
from gaugeport.pipeline.tasks.shared.checks import check_cohort
from gaugeport.pipeline.tasks.task import Row, Task

GROUPS = ("permutation", "signed_permutation", "orthogonal")
"""Groups whose local elements are composed along the run."""


def check(job: Job) -> None:
    """Check the cohort and the SAEs' settings.

    Raises:
        ValueError: The cohort has no pretraining to follow, or a setting is not allowed.
    """
    check_cohort(job)
    if job.task["cohort"] == "runs":
        raise ValueError("task.cohort=runs has no pretraining to follow; allowed: A, B, seeds")
    pair_saes.check_saes(job)


def measure(job: Job, built: Built) -> list[Row]:
    """Return, by site and step, explained variance through end-to-end and composed maps, and distances."""
    source, *targets = steps_of(job, built)
    saes, rows = _source_saes(job, built, source), []
    anchor = pairs.load_side(job, built.folders, "other", source)
    before = _streams(job, anchor)
    local: dict[str, dict[str, list[Map]]] = {site: {g: [] for g in GROUPS} for site in before["fit"]}
    first = before
    for step in targets:
        here = _streams(job, pairs.load_side(job, built.folders, "other", step))
        for site, walked in local.items():
            for group in GROUPS:
                m = replace(fit_map(group, before["fit"][site], here["fit"][site]), scale=1.0)
                walked[group].append(m)
            at = {"cohort": job.task["cohort"], "site": site, "step": step, "source": source}
            found = [
                *_rows(saes[site], first, here, site, walked),
                *_distances(first["fit"][site], here["fit"][site], anchor.rotation_group),
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


def steps_of(job: Job, built: Built) -> list[int]:
    """Return the steps to compare: the first checkpoint at or beyond the share ``task.source``, and every
    later one.

    For several shares in ``task.source`` it is the first checkpoint at or beyond each; on the hub,
    ``task.hub_steps``.

    Raises:
        ValueError: Fewer than two steps are left.
    """
    source = job.task["source"]
    if job.model.from_hub and not pairs.is_toy(job):
        steps = sorted(job.task["hub_steps"])
    else:
        saved = pairs.saved_steps(job, built.folders, "other")
        shares = sorted(source) if isinstance(source, list) else [source]
        beyond = [[s for s in saved if s >= share * saved[-1]] for share in shares]
        steps = beyond[0] if len(beyond) == 1 else sorted({later[0] for later in beyond if later})
    if len(steps) < 2:
        raise ValueError(f"task.source={source} leaves the checkpoints {steps}; expected at least two")
    return steps


def _source_saes(job: Job, built: Built, step: int) -> dict[str, Any]:
    """Train the SAEs of the source checkpoint, or find them; only the finished run tells its step."""
    key = pair_saes.saes_key(job, "other", step)
    folder = built.cache.ensure(
        "subject_saes", key, lambda f: pair_saes.build_saes(job, built.folders, f, "other", step)
    )
    return pair_saes.load_saes(folder)


def composed(walk: list[Map]) -> Map:
    """Compose the maps of a walk; none has a scale."""
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
    """Return the end-to-end rotation's distance from the identity over a random one's, and on the support."""
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


def _streams(job: Job, paired: PairedModel) -> dict[str, dict[str, Tensor]]:
    return {
        "fit": paired.streams("fit", max(job.task["tokens"])),
        "test": paired.streams("test", job.task["test_tokens"]),
    }


TASK = Task(measure, pairs.other_stages, check)
