"""Table b8: steering vectors of the anchor on itself and, through every group's map, on another model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from gaugeport.charts import chart_of
from gaugeport.models.dyck import DyckModel
from gaugeport.pipeline.job import Job
from gaugeport.pipeline.measures.answer_slot import (
    Prompts,
    Slot,
    last_token_streams,
    prompt_batches,
    word_ids,
)
from gaugeport.pipeline.measures.maps import MATCHER_OF_GROUP, fit_map
from gaugeport.pipeline.measures.steering_effects import random_directions
from gaugeport.pipeline.rotation.features import predictors, regimes
from gaugeport.pipeline.rotation.features.regimes import Measure
from gaugeport.pipeline.rotation.models import contrasts
from gaugeport.pipeline.rotation.toy import steering_vectors
from gaugeport.pipeline.rotation.toy.strings import heldout
from gaugeport.pipeline.stages import pairs
from gaugeport.pipeline.stages.cohorts import longest_trained
from gaugeport.pipeline.stages.pairs import PairedModel
from gaugeport.pipeline.stages.rows import read_tokenizer
from gaugeport.pipeline.stages.stage import Built
from gaugeport.pipeline.tasks.shared.checks import check_cohort
from gaugeport.pipeline.tasks.task import Row, Task
from gaugeport.streams.activations import middle_site
from gaugeport.streams.interventions import adding
from gaugeport.utils.seeds import derive, generator


@dataclass(frozen=True)
class Steered:
    """A vector ``v`` of the anchor at a site, float32[d], of the mean length of its stream; the other model's
    ``native`` one, of the same length; what adding something does ``within`` the anchor and ``across``, in
    the other model.

    ``lengths`` are the mean lengths of both streams; ``known`` further metrics of the vector.
    """

    name: str
    site: str
    v: Tensor
    native: Tensor
    within: Measure
    across: Measure
    lengths: tuple[float, float]
    known: dict[str, float]


def check(job: Job) -> None:
    """Check the cohort, strengths, controls, tokens and sentences.

    Raises:
        ValueError: A value of the task is not allowed.
    """
    check_cohort(job)
    strengths = job.task["strengths"]
    good = [s for s in strengths if isinstance(s, int | float) and 0 < s < float("inf")]
    if not strengths or good != list(strengths) or len(set(good)) < len(good):
        raise ValueError(
            f"task.strengths={strengths}; "
            "allowed: positive numbers, each once (each is tried with both signs)"
        )
    if (
        isinstance(job.task["controls"], bool)
        or not isinstance(job.task["controls"], int)
        or job.task["controls"] < 1
    ):
        raise ValueError(f"task.controls={job.task['controls']!r}; allowed: whole numbers from 1")
    tokens = job.task["tokens"]
    if not tokens or not all(isinstance(n, int) and n > 1 for n in tokens):
        raise ValueError(f"task.tokens={tokens}; allowed: whole numbers from 2")
    contrasts.check_sentences(job.task["sentences"])


def measure(job: Job, built: Built) -> list[Row]:
    """Table b8: effects, transfer ratios and regimes of every vector and site, and how well the predictors
    do.

    Of every vector also ``class_distance``, the length of the difference of means before it is scaled (α = 1
    is one), in mean lengths of the stream; of language models ``class_gap`` (and ``class_gap_other``), the
    log-odds of the held-out
    positive prompts minus those of the negative ones with nothing added: a model that does not know the
    classes has none.
    """
    a, b = pairs.load_pair(job, built.folders)
    found = _toy(job, a, b) if pairs.is_toy(job) else _language(job, read_tokenizer(built["data"]), a, b)
    shared, theirs = (
        ([steering_vectors.output_readers(s.model) for s in (a, b)])
        if job.task["cohort"] == "A"
        else ([], [])
    )
    fit_a, fit_b = (s.streams("fit", max(job.task["tokens"])) for s in (a, b))
    rows = measured(job, found, fit_a, fit_b, shared)
    if theirs:
        basis = predictors.reader_span(theirs)
        for s in found:
            where = {"site": s.site, "vector": s.name, "metric": "pinned_share_other"}
            rows.append({**where, "value": predictors.share_in(s.v, basis)})
    return [{"cohort": job.task["cohort"], "group": "", **row} for row in rows]


def measured(
    job: Job,
    found: Sequence[Steered],
    fit_a: dict[str, Tensor],
    fit_b: dict[str, Tensor],
    shared: Sequence[Tensor],
) -> list[Row]:
    """The rows of all vectors: maps are fitted on the streams ``fit_a``, ``fit_b`` (site -> [tokens, d]) of
    the same tokens.

    ``shared`` are the readers that both models have in common (:func:`steering_vectors.output_readers`);
    where there are none, nothing is pinned and every share is 0 (section 9.2).
    """
    rows: list[Row] = []
    seen: list[
        tuple[str, float, float, float | None]
    ] = []  # arm, share, cosine, ratio of what was added unchanged
    maps = {s.site: {g: fit_map(g, fit_a[s.site], fit_b[s.site]) for g in MATCHER_OF_GROUP} for s in found}
    pinned = (
        predictors.reader_span(shared) if shared else torch.zeros(len(found[0].v), 0, dtype=torch.float64)
    )
    for s in found:
        length = float(s.v.norm())  # one dose for all: the affine map shrinks
        moved = {group: _as_long(m.direction(s.v), length) for group, m in maps[s.site].items()}
        controls = random_directions(
            job.task["controls"], s.v, generator(job.seed, "controls", s.name, s.site)
        )
        strengths = list(map(float, job.task["strengths"]))
        arms = {regimes.UNCHANGED: s.v, **moved}
        matched = s.lengths[1] / s.lengths[0]
        here, points = regimes.transfer(s.within, s.across, s.v, arms, s.native, controls, strengths, matched)
        here += regimes.regime_rows(points)
        known = {
            **s.known,
            "pinned_share": predictors.share_in(s.v, pinned),
            "rotation_cosine": predictors.cosine(s.v, moved["orthogonal"]),
            "native_cosine": predictors.cosine(moved["orthogonal"], s.native),
            "length_ratio": matched,
        }
        here += [{"metric": name, "value": value} for name, value in known.items()]
        rows += [{"site": s.site, "vector": s.name, **row} for row in here]
        same = [p for p in points if p.group == regimes.UNCHANGED]
        seen += [(p.condition, known["pinned_share"], known["rotation_cosine"], p.ratio) for p in same]
    rows.append({"metric": "pinned_share_random", "value": pinned.shape[1] / len(pinned)})
    for arm, prefix in (("cross", ""), ("matched", "matched_")):
        shares, cosines, ratios = zip(*(x for a, *x in seen if a == arm), strict=True)
        rows += predictors.predictor_rows(f"{prefix}share", shares, ratios)
        rows += predictors.predictor_rows(f"{prefix}cosine", cosines, ratios)
    return rows


def _toy(job: Job, a: PairedModel, b: PairedModel) -> list[Steered]:
    def drawn(rows: str) -> dict[str, Tensor]:
        seed = derive(job.data.seed, "regimes", rows)
        return heldout("train", job.task[rows], longest_trained(job), job.data.length, seed)

    models: list[DyckModel] = [a.model, b.model]  # type: ignore[list-item]
    at, build, test = steering_vectors.steering_sites(models[0]), drawn("train_rows"), drawn("rows")
    of_a, of_b = (steering_vectors.vectors_at(model, build, at) for model in models)
    both = zip(*(steering_vectors.steering_measures(model, test, at) for model in models), strict=True)
    found = []
    for (site, name, within), (_, _, across) in both:
        (mine, length), (theirs, other) = of_a[site], of_b[site]
        v, native = (_as_long(of[name], length) for of in (mine, theirs))
        known = {"class_distance": float(mine[name].norm()) / length}
        found.append(Steered(name, site, v, native, within, across, (length, other), known))
    return found


def _language(job: Job, tokenizer: PreTrainedTokenizerBase, a: PairedModel, b: PairedModel) -> list[Steered]:
    chart = chart_of(a.model)
    site = middle_site(a.model, chart)

    def batches(texts: Sequence[str]) -> list[Prompts]:
        return prompt_batches(texts, tokenizer, job.data.length, job.measurement.batch_size)

    found = []
    for c in contrasts.make_contrasts(job.task["sentences"], mini=job.data.name == "mini"):
        build, words = [batches(texts) for texts in c.build], word_ids(c.words, tokenizer, c.after)
        differences, lengths = [], []
        for model in (a.model, b.model):
            (high, n), (low, m) = (last_token_streams(model, chart, site, x) for x in build)
            differences.append(high.mean(0) - low.mean(0))
            lengths.append((n + m) / 2)
        slots = [Slot(s.model, chart, site, batches([*c.heldout[0], *c.heldout[1]]), words) for s in (a, b)]
        known = {"class_distance": float(differences[0].norm()) / lengths[0]}
        for metric, s in (("class_gap", a), ("class_gap_other", b)):
            high, low = (Slot(s.model, chart, site, batches(texts), words).log_odds() for texts in c.heldout)
            known[metric] = float(high.mean() - low.mean())
        v, native = (_as_long(d, lengths[0]) for d in differences)
        within, across = map(_log_odds, slots)
        found.append(Steered(c.name, site, v, native, within, across, (lengths[0], lengths[1]), known))
    return found


def _log_odds(slot: Slot) -> Measure:
    return lambda added: {"effect": slot.log_odds(adding(added))}


def _as_long(v: Tensor, length: float) -> Tensor:
    if not bool(v.norm() > 0):
        raise ValueError(
            "both classes have the same mean stream; a difference of means wants two that differ"
        )
    return v / v.norm() * length


TASK = Task(measure, pairs.pair_stages, check)
