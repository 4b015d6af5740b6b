"""Pairs of sentences for three steering vectors of a language model (paper B, section 8.6).

Every sentence stops where a decided word comes next, the *slot*. A vector is the difference of the mean
streams there between two classes:

- ``sentiment``: good and bad reviews, a verdict next;
- ``name_bias``: two women or two men of whom one gives something, the indirect object next;
- ``number_magnitude``: many or few things, a number next.

Sentences of the two classes come in pairs that differ in the words of their class alone; held-out sentences
have other fillers in every slot. The paper's own templates are not in its text. The sentences follow the mini
grammar and use its word lists; other tokenizers get them in ordinary spelling.
"""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from string import Formatter

from gaugeport.pipeline.data.corpus import words
from gaugeport.utils.seeds import derive

Fillers = dict[str, Sequence[str]]
"""Slot of a template -> the words that may fill it."""
BUILD, HELDOUT = PARTS = ("build", "heldout")
"""Sentences to build a vector from, and others to measure it at."""


@dataclass(frozen=True)
class Contrast:
    """Sentences of two classes, positive first.

    Attributes:
        name: What the classes differ in.
        build: Sentences of either class to build a vector from.
        heldout: Sentences of either class to measure it at.
        words: Words at the slot that speak for either class.
        after: The one word before the slot.
    """

    name: str
    build: tuple[list[str], list[str]]
    heldout: tuple[list[str], list[str]]
    words: tuple[Sequence[str], Sequence[str]]
    after: str


@dataclass(frozen=True)
class Pattern:
    """Templates and the words that fill them.

    Attributes:
        name: Name of the contrast.
        templates: Sentences with named slots.
        neutral: Part -> fillers of the slots that are the same in both classes.
        classes: Part -> fillers of the slots of either class; the k-th of one is the counterpart of the k-th
            of the other.
        words: Words at the slot that speak for either class.
    """

    name: str
    templates: tuple[str, ...]
    neutral: dict[str, Fillers]
    classes: dict[str, tuple[Fillers, Fillers]]
    words: tuple[Sequence[str], Sequence[str]]

    def pairs(self, part: str) -> list[tuple[str, str]]:
        """Return every pair of sentences, positive and negative, of one part."""
        both = []
        neutral, classes = self.neutral[part], self.classes[part]
        for template in self.templates:
            slots = list(dict.fromkeys(slot for _, slot, *_ in Formatter().parse(template) if slot))
            choices = [range(len(neutral[slot] if slot in neutral else classes[0][slot])) for slot in slots]
            for chosen in itertools.product(*choices):
                at = dict(zip(slots, chosen, strict=True))
                if "a" in at and at["a"] == at.get("b"):
                    continue  # nobody gives something to themselves
                positive, negative = (
                    {slot: (neutral if slot in neutral else fillers)[slot][k] for slot, k in at.items()}
                    for fillers in classes
                )
                both.append((template.format(**positive), template.format(**negative)))
        return both


# the first adjectives of a class are verdicts: these are predicted, so they fill no slot
_ADJECTIVES = [t["adj"][len(words.POSITIVE_VERDICTS) :] for t in words.SENTIMENT]
_NOUNS = [t["noun"] for t in words.SENTIMENT]
_VILLAGE = words.SETTINGS["village"]
_PEOPLE = words.FEMALE_NAMES[:2] + words.MALE_NAMES[:2], words.FEMALE_NAMES[2:4] + words.MALE_NAMES[2:4]
_SMALL, _LARGE = words.NUMBERS[3:8], words.NUMBERS[15:20]


def _split(table: Sequence[str], build: int, heldout: int) -> tuple[Sequence[str], Sequence[str]]:
    return table[:build], table[build : build + heldout]


def _neutral(**tables: tuple[Sequence[str], Sequence[str]]) -> dict[str, Fillers]:
    return {part: {slot: both[k] for slot, both in tables.items()} for k, part in enumerate(PARTS)}


PATTERNS = (
    Pattern(
        "sentiment",
        (
            "the {show} was a {adj} {noun} . overall i would call it",
            "what a {adj} {show} ! overall i would call it",
            "the {aspect} was really {adj} . overall i would call it",
        ),
        _neutral(show=_split(words.REVIEW["show"], 4, 3), aspect=_split(words.REVIEW["aspect"], 4, 3)),
        {
            BUILD: (
                {"adj": _ADJECTIVES[1][:8], "noun": _NOUNS[1][:5]},
                {"adj": _ADJECTIVES[0][:8], "noun": _NOUNS[0][:5]},
            ),
            HELDOUT: (
                {"adj": _ADJECTIVES[1][8:], "noun": _NOUNS[1][5:]},
                {"adj": _ADJECTIVES[0][8:], "noun": _NOUNS[0][5:]},
            ),
        },
        (words.POSITIVE_VERDICTS, words.NEGATIVE_VERDICTS),
    ),
    Pattern(
        "name_bias",
        (
            "{a} and {b} lived near the {place} . {a} gave the {color} {thing} to",
            "one sunny morning , {a} the baker met {b} the teacher at the {place} . "
            "{a} gave the {color} {thing} to",
        ),
        _neutral(
            place=_split(_VILLAGE["place"], 3, 2),
            color=_split(words.STORY["color"], 2, 2),
            thing=_split(_VILLAGE["thing"], 3, 2),
        ),
        {
            BUILD: (dict.fromkeys("ab", words.FEMALE_NAMES[:12]), dict.fromkeys("ab", words.MALE_NAMES[:12])),
            HELDOUT: (
                dict.fromkeys("ab", words.FEMALE_NAMES[12:]),
                dict.fromkeys("ab", words.MALE_NAMES[12:]),
            ),
        },
        (words.FEMALE_NAMES, words.MALE_NAMES),
    ),
    Pattern(
        "number_magnitude",
        (
            "{a} counted {n} {item}s . {a} lost two {item}s at the {place} . {a} counted",
            "{a} had {n} {item}s in a basket . {a} gave two {item}s to {b} . {a} counted",
        ),
        _neutral(
            a=_PEOPLE, b=_PEOPLE, item=_split(_VILLAGE["item"], 3, 2), place=_split(_VILLAGE["place"], 3, 2)
        ),
        {
            BUILD: ({"n": _LARGE[::2]}, {"n": _SMALL[::2]}),
            HELDOUT: ({"n": _LARGE[1::2]}, {"n": _SMALL[1::2]}),
        },
        (words.NUMBERS[13:], words.NUMBERS[1:8]),
    ),
)
MOST_SENTENCES = min(len(p.pairs(part)) for p in PATTERNS for part in PARTS)
"""Sentences in each class that every pattern has in either part."""


def make_contrasts(sentences: int, mini: bool) -> list[Contrast]:
    """Return the three contrasts. The same arguments always give the same sentences.

    Args:
        sentences: Sentences in each class to build from, and as many to measure at.
        mini: Spell them as the mini grammar does, or in ordinary spelling.

    Raises:
        ValueError: There are not so many sentences.
    """
    check_sentences(sentences)
    spell = (lambda text: text) if mini else natural
    contrasts = []
    for pattern in PATTERNS:
        parts = []
        for part in PARTS:
            rng = random.Random(derive(0, "contrasts", pattern.name, part))
            pairs = rng.sample(pattern.pairs(part), sentences)
            parts.append(([spell(high) for high, _ in pairs], [spell(low) for _, low in pairs]))
        positive, negative = pattern.words
        if not mini:
            positive, negative = ([_capitalised(word) for word in side] for side in pattern.words)
        build, heldout = parts
        last_word = build[0][0].split()[-1]
        contrasts.append(Contrast(pattern.name, build, heldout, (positive, negative), last_word))
    return contrasts


def check_sentences(sentences: object) -> None:
    """Raise ``ValueError`` unless ``sentences`` is a number of sentences in each class that there are."""
    if isinstance(sentences, bool) or not isinstance(sentences, int) or not 2 <= sentences <= MOST_SENTENCES:
        raise ValueError(f"task.sentences={sentences!r}; allowed: whole numbers from 2 to {MOST_SENTENCES}")


def natural(text: str) -> str:
    """Return a sentence of the mini grammar in ordinary spelling.

    Names and beginnings get capitals, and there is no space before a stop.
    """
    text = " ".join("I" if word == "i" else _capitalised(word) for word in text.split())
    text = re.sub(r" ([.,!?])", r"\1", text)
    return re.sub(r"(^|[.!?] )([a-z])", lambda m: m[1] + m[2].upper(), text)


def _capitalised(word: str) -> str:
    return word.capitalize() if word in words.NAMES else word
