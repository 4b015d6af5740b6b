"""Table b8: what steering vectors of the anchor do to it and, moved by each group's map, to another model.

Paper B, section 8.6.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from gaugeport.pipeline.job import Job
from gaugeport.pipeline.measures.maps import MATCHER_OF_GROUP, Map, fit_map
from gaugeport.pipeline.measures.steering_effects import random_directions
from gaugeport.pipeline.rotation.features import predictors, regimes
from gaugeport.pipeline.rotation.models import contrasts
from gaugeport.pipeline.rotation.toy import steering_vectors
from gaugeport.pipeline.stages import pairs
from gaugeport.pipeline.stages.rows import read_tokenizer
from gaugeport.pipeline.stages.stage import Built
from gaugeport.pipeline.tasks.shared.checks import check_cohort
from gaugeport.pipeline.tasks.shared.paired_vectors import (
    SteeringVector,
    dyck_vectors,
    language_vectors,
    scaled_to,
)
from gaugeport.pipeline.tasks.shared.streams import kept_streams
from gaugeport.pipeline.tasks.task import Row, Task
from gaugeport.utils.seeds import generator


def check(job: Job) -> None:
    """Check the cohort, strengths, controls, tokens and sentences.

    Raises:
        ValueError: A value of the task is not allowed.
    """
    check_cohort(job)
    strengths, controls, tokens = (job.task[key] for key in ("strengths", "controls", "tokens"))
    positive = [s for s in strengths if isinstance(s, int | float) and 0 < s < float("inf")]
    if not strengths or positive != list(strengths) or len(set(positive)) < len(positive):
        raise ValueError(
            f"task.strengths={strengths}; "
            "allowed: positive numbers, each once (each is tried with both signs)"
        )
    if isinstance(controls, bool) or not isinstance(controls, int) or controls < 1:
        raise ValueError(f"task.controls={controls!r}; allowed: whole numbers from 1")
    if not tokens or not all(isinstance(n, int) and n > 1 for n in tokens):
        raise ValueError(f"task.tokens={tokens}; allowed: whole numbers from 2")
    contrasts.check_sentences(job.task["sentences"])


def measure(job: Job, built: Built) -> list[Row]:
    """Return effects, transfer ratios and regimes of every vector at every site, and how predictors do.

    Every vector has the row ``class_distance``: the length of the difference of means before it is scaled, in
    mean lengths of the stream; α = 1 is one of these. Vectors of language models also have ``class_gap`` and
    ``class_gap_other``: the log-odds of the held-out positive prompts minus those of the negative ones, with
    nothing added. It is near 0 in a model that cannot tell the classes apart.
    """
    # 1) both models and their vectors
    anchor, other = pairs.load_pair(job, built.folders)
    if pairs.is_toy(job):
        vectors = dyck_vectors(job, anchor, other)
    else:
        vectors = language_vectors(job, read_tokenizer(built["data"]), anchor, other)
    # 2) the rows of the vectors; only cohort A shares output weights
    tokens = max(job.task["tokens"])
    fit_anchor, fit_other = (side.streams("fit", tokens) for side in (anchor, other))
    shares_heads = job.task["cohort"] == "A"
    readers = steering_vectors.output_readers(anchor.model) if shares_heads else []
    rows = vector_rows(job, vectors, fit_anchor, fit_other, readers)
    # 3) the same share by the other model's readers
    if shares_heads:
        basis = predictors.reader_span(steering_vectors.output_readers(other.model))
        for vector in vectors:
            where = {"site": vector.site, "vector": vector.name, "metric": "pinned_share_other"}
            rows.append({**where, "value": predictors.share_in(vector.direction, basis)})
    return [{"cohort": job.task["cohort"], "group": "", **row} for row in rows]


def vector_rows(
    job: Job,
    vectors: Sequence[SteeringVector],
    fit_anchor: dict[str, Tensor],
    fit_other: dict[str, Tensor],
    shared_readers: Sequence[Tensor],
) -> list[Row]:
    """Measure every vector on both models, and how well the predictors foretell its transfer.

    Args:
        job: The job.
        vectors: The vectors, at one site or several.
        fit_anchor: Site -> the anchor's stream to fit maps on, float32[tokens, d].
        fit_other: The same of the other model, on the same tokens.
        shared_readers: The readers that both models have in common, float64[rows, d] each
            (:func:`.steering_vectors.output_readers`). Without any nothing is pinned, and every share is 0
            (paper B, section 9.2).

    Returns:
        Rows without cohort.
    """
    # 1) the maps of every group at every site, and the subspace that shared readers pin
    maps: dict[str, dict[str, Map]] = {}
    for site in dict.fromkeys(vector.site for vector in vectors):
        kept = kept_streams(job, fit_anchor, fit_other, site)
        maps[site] = {g: fit_map(g, *kept) for g in MATCHER_OF_GROUP}
    if shared_readers:
        pinned = predictors.reader_span(shared_readers)
    else:
        pinned = torch.zeros(len(vectors[0].direction), 0, dtype=torch.float64)
    # 2) every vector on both models
    rows: list[Row] = []
    points: list[_UnchangedTransfer] = []
    for vector in vectors:
        measured, unchanged = _rows_of_one(job, vector, maps[vector.site], pinned)
        rows += [{"site": vector.site, "vector": vector.name, **row} for row in measured]
        points += unchanged
    # 3) the predictors, over all vectors, sites and strengths
    rows.append({"metric": "pinned_share_random", "value": pinned.shape[1] / len(pinned)})
    for condition, prefix in (("cross", ""), ("matched", "matched_")):
        _, shares, cosines, ratios = zip(*(p for p in points if p.condition == condition), strict=True)
        rows += predictors.predictor_rows(f"{prefix}share", shares, ratios)
        rows += predictors.predictor_rows(f"{prefix}cosine", cosines, ratios)
    return rows


class _UnchangedTransfer(NamedTuple):
    """What predictors say of a vector that is moved unchanged, and its transfer ratio at one strength."""

    condition: str
    pinned_share: float
    rotation_cosine: float
    ratio: float | None


def _rows_of_one(
    job: Job, vector: SteeringVector, maps: dict[str, Map], pinned: Tensor
) -> tuple[list[Row], list[_UnchangedTransfer]]:
    """Return the rows of one vector, and its transfers where it is moved unchanged."""
    # 1) what is added to the other model: one dose for every group, though the affine map shrinks
    v = vector.direction
    length = float(v.norm())
    moved = {group: scaled_to(m.direction(v), length) for group, m in maps.items()}
    gen = generator(job.seed, "controls", vector.name, vector.site)
    controls = random_directions(job.task["controls"], v, gen)
    # 2) its effects and regimes
    rows, points = regimes.transfer(
        vector.within,
        vector.across,
        v,
        {regimes.UNCHANGED: v, **moved},
        vector.native,
        controls,
        [float(strength) for strength in job.task["strengths"]],
        length_ratio=vector.lengths[1] / vector.lengths[0],
    )
    rows += regimes.regime_rows(points)
    # 3) its predictors
    metrics = {
        **vector.metrics,
        "pinned_share": predictors.share_in(v, pinned),
        "rotation_cosine": predictors.cosine(v, moved["orthogonal"]),
        "native_cosine": predictors.cosine(moved["orthogonal"], vector.native),
        "length_ratio": vector.lengths[1] / vector.lengths[0],
    }
    rows += [{"metric": name, "value": value} for name, value in metrics.items()]
    unchanged = [
        _UnchangedTransfer(p.condition, metrics["pinned_share"], metrics["rotation_cosine"], p.ratio)
        for p in points
        if p.group == regimes.UNCHANGED
    ]
    return rows, unchanged


TASK = Task(measure, pairs.pair_stages, check)
