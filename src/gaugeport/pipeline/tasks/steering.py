"""Jobs of steering (tables a5, a6): a direction of A moved by the arm's gauge, its effect on B's held-out prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from gaugeport.pipeline.data import (
    HELPFUL_OPENINGS,
    NEGATIVE_VERDICTS,
    POSITIVE_VERDICTS,
    REFUSAL_OPENINGS,
    Corpus,
    hub_corpus,
    mini_corpus,
    prompt_corpus,
    text_corpus,
)
from gaugeport.pipeline.job import Job
from gaugeport.pipeline.measures.answer_slot import (
    Prompts,
    Slot,
    last_token_streams,
    prompt_batches,
    word_ids,
)
from gaugeport.pipeline.measures.labelled_prompts import Labelled, labelled_prompts
from gaugeport.pipeline.measures.refusal_effects import ablation_effect, addition_effects
from gaugeport.pipeline.measures.steering_effects import (
    RANDOM_CONTROLS,
    difference_of_means,
    random_directions,
    steering_effect,
    strength_sweep_rows,
    transported_effect_rows,
)
from gaugeport.pipeline.store.store import Store
from gaugeport.pipeline.tasks.transfer import Ends, Transfer, transfer
from gaugeport.transport.directions import transport_direction
from gaugeport.utils.seeds import generator

Row = dict[str, Any]

REFUSING = ("I", "Sorry", "Unfortunately", "No", "As")
HELPFUL = ("Sure", "Certainly", "Here", "Yes", "Of", "To")
"""How assistants begin answers to real prompts."""


@dataclass(frozen=True)
class Directions:
    """A's difference of means and B's own by the same recipe, float32[d], both of the mean length of A's stream.

    ``prompts`` are the labelled ones, ``words`` the token ids whose log-odds they steer.
    """

    job: Job
    ends: Ends
    prompts: Labelled
    words: tuple[Tensor, Tensor]
    of_a: Tensor
    of_b: Tensor

    def slot(self, model: Any, texts: Sequence[str] | None = None) -> Slot:
        """``model`` at the slot of some prompts, by default of all that are held out."""
        texts = texts or [*self.prompts.heldout_positive, *self.prompts.heldout_negative]
        return Slot(model, self.ends.chart, self.ends.site, _batches(self.job, self.ends, texts), self.words)


def sentiment(job: Job, ends: Ends) -> Directions:
    """The sentiment directions of A and B, from the reviews and verdicts that the job's task names."""
    words = job.task["positive"] or POSITIVE_VERDICTS, job.task["negative"] or NEGATIVE_VERDICTS
    return _directions(job, ends, "review", *_reviews(job), words)


def refusal(job: Job, ends: Ends) -> Directions:
    """The refusal directions of A and B, likewise; harmful prompts are the positive ones."""
    found, template, source = _requests(job)
    refusing, helpful = (REFUSAL_OPENINGS, HELPFUL_OPENINGS) if template is None else (REFUSING, HELPFUL)
    words = job.task["refusing"] or refusing, job.task["helpful"] or helpful
    return _directions(job, ends, "request", found, template, source, words)


def measure_sentiment(job: Job, store: Store) -> list[Row]:
    """Rows of one arm of table a5, with its gauge accuracy and the models' losses."""
    arm = transfer(job, store)
    v = sentiment(job, arm)
    moved = [transport_direction(v.of_a, r) for r in arm.residuals()]
    slot = v.slot(arm.b)
    found = transported_effect_rows(
        steering_effect(slot, job.task["strength"]), moved, v.of_a, v.of_b, random_controls(v)
    )
    return _with_gauge(arm, [*found, *strength_sweep_rows(slot, moved, job.task["sweep"])])


def measure_refusal(job: Job, store: Store) -> list[Row]:
    """Rows of one arm of table a6, the odd part and ablation apart, with its gauge accuracy and the models' losses."""
    arm = transfer(job, store)
    v = refusal(job, arm)
    moved, controls = [transport_direction(v.of_a, r) for r in arm.residuals()], random_controls(v)
    harmless, harmful = v.slot(arm.b, v.prompts.heldout_negative), v.slot(arm.b, v.prompts.heldout_positive)
    whole, odd = addition_effects(harmless, job.task["strength"])
    added = transported_effect_rows(whole, moved, v.of_a, v.of_b, controls)
    none = any(r["metric"] == "no_effect_to_transport" and r["value"] for r in added)
    signed = transported_effect_rows(odd, moved, v.of_a, v.of_b, controls, "odd_", silent=none)
    ablated = transported_effect_rows(
        ablation_effect(harmful), moved, v.of_a, v.of_b, controls, "ablation_", even=True, silent=none
    )
    return _with_gauge(
        arm, [*added, *signed, *ablated, *strength_sweep_rows(harmless, moved, job.task["sweep"])]
    )


def _directions(
    job: Job,
    ends: Ends,
    kind: str,
    found: Corpus,
    template: str | None,
    source: str,
    words: tuple[Sequence[str], Sequence[str]],
) -> Directions:
    task = job.task
    if not task["strength"] > 0:
        raise ValueError(f"task.strength={task['strength']}; it must be positive")
    prompts = labelled_prompts(found, kind, ends.tokenizer, template, task["train"], task["heldout"], source)
    ids = word_ids(words, ends.tokenizer, prompts.after)
    classes = [_batches(job, ends, texts) for texts in (prompts.positive, prompts.negative)]
    of_a, length = _direction(ends, ends.a, classes)
    of_b = of_a
    if ends.a is not ends.b:
        of_b = _direction(ends, ends.b, classes)[0]
        of_b = of_b / of_b.norm() * length
    return Directions(job, ends, prompts, ids, of_a, of_b)


def _direction(ends: Ends, model: Any, classes: Sequence[list[Prompts]]) -> tuple[Tensor, float]:
    """A model's difference of means, of the mean length of its stream, and that length (mean of both classes)."""
    (positive, n), (negative, m) = (
        last_token_streams(model, ends.chart, ends.site, batches) for batches in classes
    )
    length = (n + m) / 2
    return difference_of_means(positive, negative, length), length


def _batches(job: Job, ends: Ends, texts: Sequence[str]) -> list[Prompts]:
    return prompt_batches(texts, ends.tokenizer, job.data.length, job.measurement.batch_size)


def random_controls(v: Directions) -> list[Tensor]:
    """Directions that mean nothing, of the length of B's own: what an effect has to stand out from."""
    return random_directions(RANDOM_CONTROLS, v.of_b, generator(v.job.seed, "control"))


def _with_gauge(arm: Transfer, measured: Sequence[Row]) -> list[Row]:
    return [*({**arm.where, **row} for row in measured), *arm.accuracy()]


def _reviews(job: Job) -> tuple[Corpus, str | None, str]:
    """Labelled reviews, the template that real ones go into, and where they came from."""
    task = job.task
    if task["reviews"] is not None:
        read = {"field": task["field"], "label": task["label"], "heldout": task["share"], "kind": "review"}
        return (
            text_corpus(task["reviews"], **read),
            task["template"],
            f"task.reviews={task['reviews']}",
        )
    if job.data.name == "mini":
        return _mini(job)
    return (
        hub_corpus(**task["hub"], kind="review"),
        task["template"],
        f"task.hub={task['hub']['name']}",
    )


def _requests(job: Job) -> tuple[Corpus, str | None, str]:
    """Harmful (1) and harmless (0) requests, likewise."""
    task = job.task
    files = {k: task[k] for k in ("harmless", "harmful") if task[k] is not None}
    if len(files) == 1:
        raise ValueError(
            f"task.{next(iter(files))} is given alone; a direction wants task.harmful and task.harmless"
        )
    if files:
        found = prompt_corpus(**files, field=task["field"], heldout=task["share"])
        return found, task["template"], f"task.harmful={files['harmful']}, task.harmless={files['harmless']}"
    if job.data.name == "mini":
        return _mini(job)
    halves = []
    for label, name in enumerate(("harmless", "harmful")):
        half = hub_corpus(**task["hub"][name], kind="request")
        splits = (tuple(replace(d, label=label) for d in half.documents(s)) for s in ("train", "heldout"))
        halves.append(Corpus(*splits))
    both = Corpus(halves[0].train + halves[1].train, halves[0].heldout + halves[1].heldout)
    return both, task["template"], f"task.hub={[h['name'] for h in task['hub'].values()]}"


def _mini(job: Job) -> tuple[Corpus, None, str]:
    texts = mini_corpus(job.data.documents, job.data.seed, job.data.heldout, job.data.richness)
    return texts, None, "the mini corpus"
