"""Make labelled prompts for steering: mini documents up to their slot, or real texts in a template."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from gaugeport.pipeline.data import Corpus, slot_prompt
from gaugeport.texts import Document

CHAT = "chat"
"""The name of the template that is the tokenizer's chat template."""

CHAT_IF_ANY = "chat_if_any"
"""The name of the template that is :data:`CHAT` where the tokenizer has one, else :data:`PLAIN_TURN`."""

VERDICT = "{text} Overall, it was"
"""Where a review goes, its verdict next."""

MINI_VERDICT = "{text} Overall , it was"
"""The same as the mini corpus writes it: a space before every punctuation mark."""

PLAIN_TURN = "User: {text}\nAssistant:"
"""A user's turn for models that know no chat template."""


@dataclass(frozen=True)
class Labelled:
    """Prompts of label 1 and of label 0, in a training and a held-out split.

    A held-out prompt occurs once, and it begins no text of the training split: models are trained on the
    whole of that. (Otherwise about 8% of the mini corpus's held-out requests would, with other answers.)
    """

    positive: list[str]
    negative: list[str]
    heldout_positive: list[str]
    heldout_negative: list[str]
    after: str
    """The text before the slot in every prompt; any word for mini prompts, whose words are single tokens."""
    whole: bool = False
    """Whether the prompts hold all special tokens that the model expects, as a chat template writes them."""


def labelled_prompts(
    documents: Corpus,
    kind: str,
    tokenizer: PreTrainedTokenizerBase,
    template: str | None,
    train: int,
    heldout: int,
    source: str,
) -> Labelled:
    """Make prompts of either label from the documents of one kind, in the order of the corpus.

    Args:
        documents: the corpus.
        kind: ``review`` or ``request``.
        tokenizer: the tokenizer of the model.
        template: text around a real text (``"{text} It was"``); ``chat`` for a user's turn in the tokenizer's
            chat template; ``chat_if_any`` for this, or ``PLAIN_TURN`` without
            one; None to stop a mini document at its slot.
        train: the most training prompts of either label.
        heldout: the most held-out prompts of either label; prompts that the training split has are left out
            first.
        source: the name of the corpus in error messages.

    Raises:
        ValueError: a template without ``{text}``, a tokenizer without a chat template, or fewer than two
            prompts of a label in either split.
    """
    if template == CHAT_IF_ANY:
        template = PLAIN_TURN if tokenizer.chat_template is None else CHAT
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
    for split, candidates, most, description in splits:
        for label in (1, 0):
            chosen = [text for text, its_label in candidates if its_label == label][:most]
            if len(chosen) < 2:
                raise ValueError(
                    f"{source}: {len(chosen)} prompts with label {label} in the {split} split (of "
                    f"{len(candidates)} {description}, at most {most} to use); allowed: 2 or more of either "
                    "label in either split"
                )
            parts.append(chosen)
    positive, negative, heldout_positive, heldout_negative = parts
    return Labelled(positive, negative, heldout_positive, heldout_negative, after or "it", template == CHAT)


def check_template(template: str) -> None:
    """Raise ``ValueError`` for a template that is neither one of those with a name nor a text with {text}."""
    if template not in (CHAT, CHAT_IF_ANY) and "{text}" not in template:
        raise ValueError(f"task.template={template!r}; allowed: chat, or a text with {{text}}")


def _prompting(
    tokenizer: PreTrainedTokenizerBase, template: str | None
) -> tuple[Callable[[Document], str], str]:
    """Return the function from a document to its prompt, and the text before the slot."""
    if template is None:
        return slot_prompt, ""
    if template == CHAT:
        if tokenizer.chat_template is None:
            raise ValueError(
                "task.template=chat, but the tokenizer has no chat template; allowed: a text with {text}"
            )
        return lambda d: _user_turn(tokenizer, d.text), _user_turn(tokenizer, "{text}").partition("{text}")[2]
    check_template(template)
    before, _, after = template.partition("{text}")
    return lambda d: f"{before}{d.text}{after}", after


def _user_turn(tokenizer: PreTrainedTokenizerBase, text: str) -> str:
    """Return a user's turn in the chat template, up to where the assistant answers."""
    turn = [{"role": "user", "content": text}]
    return str(tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True))
