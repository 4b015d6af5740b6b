"""Steering vectors of an anchor beside another model's own, and the measures of their effects (table b8)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

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
from gaugeport.pipeline.rotation.features.regimes import Measure
from gaugeport.pipeline.rotation.models import contrasts
from gaugeport.pipeline.rotation.toy import steering_vectors
from gaugeport.pipeline.rotation.toy.strings import heldout
from gaugeport.pipeline.stages.cohorts import longest_trained
from gaugeport.pipeline.stages.pairs import PairedModel
from gaugeport.streams.activations import middle_site
from gaugeport.streams.interventions import adding
from gaugeport.utils.seeds import derive


@dataclass(frozen=True)
class SteeringVector:
    """A steering vector of the anchor at one site, beside the other model's own.

    Attributes:
        name: What it steers.
        site: The site of the stream that it is added at.
        direction: The anchor's vector, float32[d], as long as the anchor's stream is on average.
        native: The other model's own vector by the same recipe, float32[d], of the same length.
        within: Measures what a direction does when it is added to the anchor.
        across: Measures what it does when it is added to the other model.
        lengths: Mean lengths of the anchor's stream and of the other's.
        metrics: Further metrics of the vector, by name.
    """

    name: str
    site: str
    direction: Tensor
    native: Tensor
    within: Measure
    across: Measure
    lengths: tuple[float, float]
    metrics: dict[str, float]


def dyck_vectors(job: Job, anchor: PairedModel, other: PairedModel) -> list[SteeringVector]:
    """Build the steering vectors of two Dyck-3 models at every site.

    Args:
        job: The job.
        anchor: A Dyck-3 model.
        other: Another one.

    Returns:
        The vectors, site by site. They are built from other strings than those they are measured on.
    """
    # 1) strings to build vectors from, and others to measure their effects on
    longest = longest_trained(job)
    build, test = (
        heldout(
            "train",
            job.task[key],
            longest,
            job.data.length,
            derive(job.data.seed, "regimes", key),
            job.data.depth_label,
        )
        for key in ("train_rows", "rows")
    )
    # 2) the vectors of both models and the measures of their effects
    models: list[DyckModel] = [anchor.model, other.model]  # type: ignore[list-item]
    sites = steering_vectors.steering_sites(models[0])
    of_anchor, of_other = (steering_vectors.vectors_at(model, build, sites) for model in models)
    measures = (steering_vectors.steering_measures(model, test, sites) for model in models)
    # 3) both together, at the anchor's mean length
    vectors = []
    for (site, name, within), (_, _, across) in zip(*measures, strict=True):
        (mine, length), (theirs, length_other) = of_anchor[site], of_other[site]
        vectors.append(
            SteeringVector(
                name,
                site,
                scaled_to(mine[name], length),
                scaled_to(theirs[name], length),
                within,
                across,
                lengths=(length, length_other),
                metrics={"class_distance": float(mine[name].norm()) / length},
            )
        )
    return vectors


def language_vectors(
    job: Job, tokenizer: PreTrainedTokenizerBase, anchor: PairedModel, other: PairedModel
) -> list[SteeringVector]:
    """Build the vector of every contrast at the mid-stack site of two language models.

    Args:
        job: The job.
        tokenizer: The tokenizer of both models.
        anchor: A language model.
        other: Another one of the same architecture.

    Returns:
        One vector for every contrast.
    """
    texts = contrasts.make_contrasts(job.task["sentences"], mini=job.data.name == "mini")
    return [_contrast_vector(job, contrast, tokenizer, anchor, other) for contrast in texts]


def _contrast_vector(
    job: Job,
    contrast: contrasts.Contrast,
    tokenizer: PreTrainedTokenizerBase,
    anchor: PairedModel,
    other: PairedModel,
) -> SteeringVector:
    """Build the vector of one contrast."""
    chart = chart_of(anchor.model)
    site = middle_site(anchor.model, chart)
    models = (anchor.model, other.model)
    words = word_ids(contrast.words, tokenizer, contrast.after)

    def batches(texts: Sequence[str]) -> list[Prompts]:
        return prompt_batches(texts, tokenizer, job.data.length, job.measurement.batch_size)

    # 1) the difference of means of each model, and the mean length of its stream
    classes = [batches(texts) for texts in contrast.build]
    differences, lengths = [], []
    for model in models:
        high, low = (
            last_token_streams(model, chart, site, prompts, job.measurement.massive) for prompts in classes
        )
        differences.append(high.streams.mean(0) - low.streams.mean(0))
        lengths.append((high.length + low.length) / 2)
    direction, native = (scaled_to(difference, lengths[0]) for difference in differences)
    # 2) what a direction does to the log-odds of the held-out prompts
    heldout_prompts = batches([*contrast.heldout[0], *contrast.heldout[1]])
    slots = [Slot(model, chart, site, heldout_prompts, words) for model in models]
    within, across = (_log_odds_measure(slot) for slot in slots)
    # 3) how well the models tell the held-out classes apart with nothing added
    metrics = {"class_distance": float(differences[0].norm()) / lengths[0]}
    for metric, model in zip(("class_gap", "class_gap_other"), models, strict=True):
        odds = [Slot(model, chart, site, batches(texts), words).log_odds() for texts in contrast.heldout]
        metrics[metric] = float(odds[0].mean() - odds[1].mean())
    return SteeringVector(
        contrast.name, site, direction, native, within, across, (lengths[0], lengths[1]), metrics
    )


def _log_odds_measure(slot: Slot) -> Measure:
    """Make the function that adds a direction at the slot and measures the log-odds there."""
    return lambda added: {"effect": slot.log_odds(adding(added))}


def scaled_to(v: Tensor, length: float) -> Tensor:
    """Return a difference of means, float32[d], at another length.

    Raises:
        ValueError: Its length is 0.
    """
    if not bool(v.norm() > 0):
        raise ValueError(
            "both classes have the same mean stream, so their difference has length 0; "
            "allowed: classes whose means differ"
        )
    return v / v.norm() * length
