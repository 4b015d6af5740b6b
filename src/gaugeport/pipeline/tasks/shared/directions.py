"""Steering directions of A and B at the slot of labelled prompts, and the controls of their effects."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from gaugeport.pipeline.data import (
    HELPFUL_OPENINGS,
    NEGATIVE_VERDICTS,
    POSITIVE_VERDICTS,
    REFUSAL_OPENINGS,
    Corpus,
    hub_corpus,
    mini_corpus,
    packaged_prompts,
    prompt_corpus,
    text_corpus,
)
from gaugeport.pipeline.job import PROMPT_SOURCES, TASK_FILES, Job
from gaugeport.pipeline.measures.answer_slot import (
    Prompts,
    Slot,
    last_token_streams,
    prompt_batches,
    word_ids,
)
from gaugeport.pipeline.measures.labelled_prompts import Labelled, labelled_prompts
from gaugeport.pipeline.measures.steering_effects import (
    RANDOM_CONTROLS,
    Effect,
    difference_of_means,
    measured_once,
    random_directions,
)
from gaugeport.pipeline.stages.models import model_key
from gaugeport.pipeline.stages.stage import Built
from gaugeport.pipeline.store.store import digest, digest_files
from gaugeport.pipeline.tasks.shared.checks import check_choice, check_gauge, check_language_model
from gaugeport.pipeline.tasks.shared.transfer import EVIDENCE, REVERSED, TARGETS, ModelPair, Transfer
from gaugeport.pipeline.tasks.task import Row
from gaugeport.utils.seeds import generator

REFUSING = ("I", "Sorry", "Unfortunately", "No", "As")
HELPFUL = ("Sure", "Certainly", "Here", "Yes", "Of", "To")
"""How assistants begin answers to real prompts."""


@dataclass(frozen=True)
class Directions:
    """A's difference of means and B's own by the same recipe, both of the mean length of A's stream.

    Attributes:
        job: The job.
        pair: The models.
        prompts: The labelled prompts.
        words: Token ids of positive and negative words, whose log-odds the directions steer.
        of_a: A's direction, float32[d].
        of_b: B's own direction, float32[d].
        left_out: How many massive tokens A's direction and its length leave out.
    """

    job: Job
    pair: ModelPair
    prompts: Labelled
    words: tuple[Tensor, Tensor]
    of_a: Tensor
    of_b: Tensor
    left_out: int

    def slot(self, model: Any, texts: Sequence[str] | None = None) -> Slot:
        """Return ``model`` at the slot of some prompts, by default of all that are held out."""
        texts = texts or [*self.prompts.heldout_positive, *self.prompts.heldout_negative]
        batches = _batches(self.job, self.pair, texts, self.prompts.whole)
        return Slot(model, self.pair.chart, self.pair.site, batches, self.words)

    def random_controls(self) -> list[Tensor]:
        """Return random directions of the length of B's own, which an effect must exceed to mean anything."""
        return random_directions(RANDOM_CONTROLS, self.of_b, generator(self.job.seed, "control"))

    def with_known_controls(self, built: Built, name: str, effect: Effect) -> Effect:
        """Return an effect on B that knows those of the random directions.

        They are the same under every condition, and most of what one costs: they are stored, and measured by
        the first job that needs them.

        Args:
            built: Has the store.
            name: What the effect is called there.
            effect: Maps a vector to its effect on every prompt.
        """
        job, controls = self.job, self.random_controls()
        prompts = (self.prompts.heldout_positive, self.prompts.heldout_negative)
        key = {
            "effect": name,
            "target": job.task["target"],
            "models": [model_key(job, run) for run in ("A", "B")],
            "site": self.pair.site,
            "strength": job.task["strength"],
            "prompts": digest([list(texts) for texts in prompts]),
            "length": job.data.length,
            "words": [ids.tolist() for ids in self.words],
            "directions": hashlib.sha256(torch.stack(controls).numpy().tobytes()).hexdigest(),
        }

        def build(folder: Path) -> None:
            measured = torch.stack([effect(v) for v in controls])
            save_file({"effects": measured}, folder / "effects.safetensors")

        folder = built.cache.ensure("control_effects", key, build)
        return measured_once(effect, controls, list(load_file(folder / "effects.safetensors")["effects"]))


def check_steering(job: Job) -> None:
    """Check a job that moves one direction.

    Raises:
        ValueError: A value of the task is not allowed.
    """
    check_language_model(job)
    check_choice(job, "target", TARGETS)
    check_choice(job, "evidence", EVIDENCE)
    check_choice(job, "prompts", (None, *PROMPT_SOURCES))
    check_gauge(job)
    if job.task["target"] == REVERSED and job.matcher != "oracle":
        raise ValueError(
            f"task.target={REVERSED} with matcher={job.matcher}: evidence leads from A to B; "
            "allowed: matcher=oracle"
        )
    check_prompts(job)


def check_prompts(job: Job) -> None:
    """Check the strength of a direction, and the files of labelled prompts as far as they exist.

    Raises:
        ValueError: The strength is not positive, or a file cannot be read as labelled prompts.
    """
    if not job.task["strength"] > 0:
        raise ValueError(f"task.strength={job.task['strength']}; allowed: a positive number")
    if job.prompt_source() == "files" and all(Path(path).is_file() for path in _named(job).values()):
        _of_files(job)


def sentiment_directions(job: Job, pair: ModelPair) -> Directions:
    """Compute the sentiment directions of A and B from the reviews and verdicts that the job's task names."""
    positive = job.task["positive"] or POSITIVE_VERDICTS
    negative = job.task["negative"] or NEGATIVE_VERDICTS
    return _directions(job, pair, "review", *_reviews(job), (positive, negative))


def refusal_directions(job: Job, pair: ModelPair) -> Directions:
    """Compute the refusal directions of A and B; harmful prompts are the positive class."""
    texts, template, source = _requests(job)
    of_corpus = REFUSAL_OPENINGS, HELPFUL_OPENINGS
    refusing, helpful = of_corpus if template is None else (REFUSING, HELPFUL)
    words = job.task["refusing"] or refusing, job.task["helpful"] or helpful
    return _directions(job, pair, "request", texts, template, source, words)


def with_gauge(transfer: Transfer, directions: Directions, measured: Sequence[Row]) -> list[Row]:
    """Return measured rows with what the job's rows carry, then gauge accuracy and the models' losses.

    Where massive tokens were left out of the direction, the row ``massive_in_direction`` counts them.
    """
    count = {"metric": "massive_in_direction", "value": directions.left_out}
    rows = [*measured, count] if directions.left_out else measured
    return [*({**transfer.where, **row} for row in rows), *transfer.accuracy()]


def _directions(
    job: Job,
    pair: ModelPair,
    kind: str,
    texts: Corpus,
    template: str | None,
    source: str,
    words: tuple[Sequence[str], Sequence[str]],
) -> Directions:
    task = job.task
    prompts = labelled_prompts(texts, kind, pair.tokenizer, template, task["train"], task["heldout"], source)
    ids = word_ids(words, pair.tokenizer, prompts.after)
    classes = [_batches(job, pair, texts, prompts.whole) for texts in (prompts.positive, prompts.negative)]
    of_a, length, left_out = _direction(job, pair, pair.a, classes)
    of_b = of_a
    if pair.a is not pair.b:
        of_b = _direction(job, pair, pair.b, classes)[0]
        of_b = of_b / of_b.norm() * length
    return Directions(job, pair, prompts, ids, of_a, of_b, left_out)


def _direction(
    job: Job, pair: ModelPair, model: Any, classes: Sequence[list[Prompts]]
) -> tuple[Tensor, float, int]:
    """Return a model's difference of means, of the mean length of its stream; that length; and how many
    massive tokens were left out."""
    positive, negative = (
        last_token_streams(model, pair.chart, pair.site, c, job.measurement.massive) for c in classes
    )
    length = (positive.length + negative.length) / 2
    direction = difference_of_means(positive.streams, negative.streams, length)
    return direction, length, positive.left_out + negative.left_out


def _batches(job: Job, pair: ModelPair, texts: Sequence[str], whole: bool) -> list[Prompts]:
    return prompt_batches(texts, pair.tokenizer, job.data.length, job.measurement.batch_size, whole)


def _reviews(job: Job) -> tuple[Corpus, str | None, str]:
    """Return labelled reviews, the template that real ones are put into, and where they came from."""
    task, origin = job.task, job.prompt_source()
    if origin == "files":
        return _of_files(job), task["template"], f"task.reviews={task['reviews']}"
    if origin == "mini":
        return _mini(job)
    if origin == "packaged":
        return _packaged(job, "review")
    texts = hub_corpus(**task["hub"], kind="review")
    return texts, task["template"], f"task.hub={task['hub']['name']}"


def _requests(job: Job) -> tuple[Corpus, str | None, str]:
    """Return harmful (1) and harmless (0) requests, likewise."""
    task = job.task
    if job.prompt_source() == "files":
        source = f"task.harmful={task['harmful']}, task.harmless={task['harmless']}"
        return _of_files(job), task["template"], source
    if job.prompt_source() == "mini":
        return _mini(job)
    if job.prompt_source() == "packaged":
        return _packaged(job, "request")
    halves = []
    for label, name in enumerate(("harmless", "harmful")):
        half = hub_corpus(**task["hub"][name], kind="request")
        splits = (tuple(replace(d, label=label) for d in half.documents(s)) for s in ("train", "heldout"))
        halves.append(Corpus(*splits))
    both = Corpus(halves[0].train + halves[1].train, halves[0].heldout + halves[1].heldout)
    return both, task["template"], f"task.hub={[h['name'] for h in task['hub'].values()]}"


def _named(job: Job) -> dict[str, str]:
    return {key: job.task[key] for key in TASK_FILES if job.task.get(key) is not None}


def _of_files(job: Job) -> Corpus:
    """Return the labelled texts of the files that a task names."""
    named, task = _named(job), job.task
    if len(named) == 1 and "reviews" not in named:
        (given,) = named
        raise ValueError(f"task.{given} is given alone; a direction requires task.harmful and task.harmless")
    contents = tuple(digest_files(path) for path in named.values())
    return _read(tuple(named.items()), contents, task["field"], task.get("label"), task["share"])


@functools.lru_cache(maxsize=8)
def _read(
    named: tuple[tuple[str, str], ...], contents: tuple[str, ...], field: str, label: str | None, share: float
) -> Corpus:
    """Read files of some contents once: they are checked when a job is composed, and used when it runs."""
    files = dict(named)
    if "reviews" in files:
        return text_corpus(files["reviews"], field, heldout=share, kind="review", label=label)
    return prompt_corpus(**files, field=field, heldout=share)


def _mini(job: Job) -> tuple[Corpus, None, str]:
    data = job.data
    return mini_corpus(data.documents, data.seed, data.heldout, data.richness), None, "the mini corpus"


def _packaged(job: Job, kind: str) -> tuple[Corpus, str, str]:
    texts = packaged_prompts(kind, job.task["share"])
    return texts, job.task["template"], f"the {kind}s packaged with gaugeport (task.prompts=packaged)"
