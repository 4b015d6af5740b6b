"""Table b9: an SAE of an early checkpoint of a training run on every later one, by group and by route.

Paper B, section 8.7.
"""

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
from gaugeport.pipeline.tasks.shared.streams import Streams as Paired
from gaugeport.pipeline.tasks.shared.streams import kept_streams
from gaugeport.pipeline.tasks.task import Row, Task

GROUPS = ("permutation", "signed_permutation", "orthogonal")
"""Groups whose maps from each checkpoint to the next are composed along the run."""

Streams = dict[str, dict[str, Tensor]]
"""Part (``fit``, ``test``) -> site -> float32[tokens, d]."""


def check(job: Job) -> None:
    """Check the cohort and the SAEs' settings.

    Raises:
        ValueError: The cohort has no pretraining to follow, or a setting is not allowed.
    """
    check_cohort(job)
    if job.task["cohort"] == "runs":
        raise ValueError("task.cohort=runs has no pretraining to follow; allowed: A, B, seeds")
    if job.task["anchor"]:
        raise ValueError(f"task.anchor={job.task['anchor']}: a run is compared with itself; allowed: 0")
    pair_saes.check_saes(job)


def measure(job: Job, built: Built) -> list[Row]:
    """Return, by site and step, explained variance through end-to-end and composed maps, and distances."""
    source, *targets = steps_of(job, built)
    # 1) the source checkpoint: its SAEs, and its streams
    saes = _source_saes(job, built, source)
    model = pairs.load_side(job, built.folders, "other", source)
    first = before = _streams(job, model)
    rows: list[Row] = [_loss_row(job, model, source, source)]
    # 2) every later checkpoint: one more map of each group's walk, and what the SAEs explain
    walks: dict[str, dict[str, list[Map]]] = {site: {g: [] for g in GROUPS} for site in first["fit"]}
    for step in targets:
        later = pairs.load_side(job, built.folders, "other", step)
        streams = _streams(job, later)
        rows.append(_loss_row(job, later, step, source))
        for site, walk_of in walks.items():
            neighbours = kept_streams(job, before["fit"], streams["fit"], site)
            fit, test = (kept_streams(job, first[part], streams[part], site) for part in ("fit", "test"))
            for group, walk in walk_of.items():
                link = fit_map(group, *neighbours)
                walk.append(replace(link, scale=1.0))
            at = {"cohort": job.task["cohort"], "site": site, "step": step, "source": source}
            explained = _explained_rows(saes[site], fit, test, walk_of)
            distances = _distance_rows(*fit, model.rotation_group)
            rows += [{**at, **row} for row in (*explained, *distances)]
        before = streams
    # 3) the end of the run once more, under the metric's own name
    return [*rows, *_at_the_end(rows, targets[-1])]


def _at_the_end(rows: list[Row], step: int) -> Iterator[Row]:
    """Yield the end-to-end explained variances of the last step as ``explained_variance``."""
    for row in rows:
        by_step = row["metric"] == "explained_variance_by_step"
        if by_step and row["step"] == step and row["route"] == "endpoint":
            yield {**row, "metric": "explained_variance"}


def steps_of(job: Job, built: Built) -> list[int]:
    """Return the steps to compare; the first is the source.

    For one share in ``task.source`` they are the first saved step at or beyond that share of the run, and
    every later one. For several shares they are the first saved step at or beyond each. On the hub they are
    ``task.hub_steps``.

    Args:
        job: The job.
        built: The folders of its stages.

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
        if len(shares) == 1:
            steps = beyond[0]
        else:
            steps = sorted({later[0] for later in beyond if later})
    if len(steps) < 2:
        raise ValueError(f"task.source={source} leaves the checkpoints {steps}; expected at least two")
    return steps


def _loss_row(job: Job, model: PairedModel, step: int, source: int) -> Row:
    """Return the held-out loss of the checkpoint of a step."""
    loss = model.loss(job.task["test_tokens"])
    return {"cohort": job.task["cohort"], "step": step, "source": source, "metric": "loss", "value": loss}


def _source_saes(job: Job, built: Built, step: int) -> dict[str, Any]:
    """Load the SAEs of the source checkpoint; train them if the store has none.

    They are no stage of the job, because only a finished run tells which step the source is.
    """
    key = pair_saes.saes_key(job, "other", step)
    folder = built.cache.ensure(
        "subject_saes", key, lambda f: pair_saes.build_saes(job, built.folders, f, "other", step)
    )
    return pair_saes.load_saes(folder)


def composed(walk: list[Map]) -> Map:
    """Compose the maps of a walk, the first one first; none has a scale."""
    return reduce(_then, walk)


def _then(first: Map, second: Map) -> Map:
    """Return the map that applies ``first`` and then ``second``."""
    to_b, to_a = second.to_b @ first.to_b, first.to_a @ second.to_a
    return Map(to_b, to_a, first.mean_a, second.mean_b, None)


def _explained_rows(sae: Any, fit: Paired, test: Paired, walk_of: dict[str, list[Map]]) -> Iterator[Row]:
    """Yield what the SAE explains of its own stream and, through every map, of a later one (both paired)."""
    first, later = test
    yield _explained("self", "endpoint", explained_variance(sae, first))
    for group, end_to_end in fit_maps(*fit).items():
        yield _explained(group, "endpoint", explained_variance(sae, later, end_to_end))
    for group, walk in walk_of.items():
        yield _explained(group, "trajectory", explained_variance(sae, later, composed(walk)))


def _explained(group: str, route: str, value: float) -> Row:
    return {"metric": "explained_variance_by_step", "group": group, "route": route, "value": value}


def _distance_rows(a: Tensor, b: Tensor, group: str) -> Iterator[Row]:
    """Yield the end-to-end rotation's distance from the identity over a random one's, and on the support."""
    rotation = fit_rotation(a, b, group).rotation
    distances = {
        "distance_from_identity": rotation_statistics(rotation, group)["distance_from_identity"],
        "supported_distance": supported_distance(rotation, spectrum(a).support()),
    }
    for metric, value in distances.items():
        yield {"metric": metric, "group": "orthogonal", "route": "endpoint", "value": value}


def _streams(job: Job, model: PairedModel) -> Streams:
    """Return a model's streams on the tokens to fit maps on and on those to measure on."""
    return {
        "fit": model.streams("fit", max(job.task["tokens"])),
        "test": model.streams("test", job.task["test_tokens"]),
    }


TASK = Task(measure, pairs.other_stages, check)
