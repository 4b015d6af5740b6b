"""Labelled prompts for steering: the mini corpus's own up to their slot, or real texts put into a template."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from gaugeport.pipeline.data import Corpus, Document, slot_prompt

CHAT = "chat"
"""The template that is the tokenizer's own chat template."""


@dataclass(frozen=True)
class Labelled:
    """Prompts of label 1 and of label 0, in a training and a held-out split.

    No prompt is held out twice, or is held out and begins a text of the training split, used for the direction or not:
    models are trained on all of that (some 8 % of the requests that the mini corpus holds out would, with other answers).
    ``after`` is what stands before the slot in all of them (of mini prompts any word: theirs are tokens of their own).
    """

    positive: list[str]
    negative: list[str]
    heldout_positive: list[str]
    heldout_negative: list[str]
    after: str


def labelled_prompts(
    documents: Corpus,
    kind: str,
    tokenizer: PreTrainedTokenizerBase,
    template: str | None,
    train: int,
    heldout: int,
    source: str,
) -> Labelled:
    """At most ``train`` and ``heldout`` prompts of either label of a corpus's documents of one kind, in its order.

    ``template`` says where a real text goes (``"{text} It was"``); ``"chat"`` makes it a user's turn by the tokenizer's
    chat template; None stops a mini document at its slot. Raises ``ValueError`` for a template without ``{text}``, a
    tokenizer without a chat template, and (naming ``source``) fewer than two prompts of a label in either split, those
    held out that the training split has left out.
    """
    prompt, after = _prompting(tokenizer, template)
    texts = {
        split: [(prompt(d), d.label) for d in documents.labelled(kind, split)]
        for split in ("train", "heldout")
    }
    trained = {text for text, _ in texts["train"]}
    unseen = [(text, label) for text, label in dict.fromkeys(texts["heldout"]) if text not in trained]
    parts: list[list[str]] = []
    splits = (
        ("train", texts["train"], train, "labelled"),
        ("heldout", unseen, heldout, "labelled and not trained on"),
    )
    for split, found, most, those in splits:
        for label in (1, 0):
            chosen = [text for text, its in found if its == label][:most]
            if len(chosen) < 2:
                raise ValueError(
                    f"{source}: {len(chosen)} prompts with label {label} in the {split} split (of {len(found)} {those}, "
                    f"{most} wanted at most); at least 2 of either label are needed in either split"
                )
            parts.append(chosen)
    positive, negative, heldout_positive, heldout_negative = parts
    return Labelled(positive, negative, heldout_positive, heldout_negative, after or "it")


def _prompting(
    tokenizer: PreTrainedTokenizerBase, template: str | None
) -> tuple[Callable[[Document], str], str]:
    if template is None:
        return slot_prompt, ""
    if template == CHAT:
        if tokenizer.chat_template is None:
            raise ValueError(
                "task.template=chat, but the tokenizer has no chat template; allowed: a text with {text}"
            )
        turn = [{"role": "user", "content": "{text}"}]
        template = str(tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True))
    before, found, after = template.partition("{text}")
    if not found:
        raise ValueError(
            f"task.template={template!r} has no {{text}} in it; allowed: chat, or a text with {{text}}"
        )
    return lambda d: f"{before}{d.text}{after}", after
