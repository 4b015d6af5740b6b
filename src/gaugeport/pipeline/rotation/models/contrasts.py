"""Contrastive sentences for three steering vectors of a language model (paper B, section 8.6): plain data and its combination.

Every sentence stops where a decided word comes next, the *slot*; a vector is the difference of mean streams there between
two classes. ``sentiment``: good and bad reviews, a verdict next. ``name_bias``: two women or two men of whom one gives
something, the indirect object next. ``number_magnitude``: many or few things, a number next. Sentences of the two classes come
in pairs that differ in the words of their class alone; held-out sentences have other fillers in every slot. The paper's
own templates are not in its text.

They are sentences of the mini grammar, from its word lists; other tokenizers get them in ordinary spelling.
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
BUILD, HELDOUT = PARTS = ("build", "heldout")


@dataclass(frozen=True)
class Contrast:
    """Prompts of either class, positive first, to ``build`` a vector from, and ``heldout`` ones to measure it at; the
    ``words`` of both sides at the slot, and the one word before it, ``after``."""

    name: str
    build: tuple[list[str], list[str]]
    heldout: tuple[list[str], list[str]]
    words: tuple[Sequence[str], Sequence[str]]
    after: str


@dataclass(frozen=True)
class Pattern:
    """Templates; by part the ``neutral`` fillers of their slots, and those of the two ``classes`` (the k-th of one is the
    counterpart of the k-th of the other)."""

    name: str
    templates: tuple[str, ...]
    neutral: dict[str, Fillers]
    classes: dict[str, tuple[Fillers, Fillers]]
    words: tuple[Sequence[str], Sequence[str]]

    def pairs(self, part: str) -> list[tuple[str, str]]:
        """Every pair of sentences, positive and negative, of one part."""
        found = []
        neutral, both = self.neutral[part], self.classes[part]
        for template in self.templates:
            slots = [s for _, s, *_ in Formatter().parse(template) if s]
            mine = list(dict.fromkeys(slots))
            free = [range(len((neutral if s in neutral else both[0])[s])) for s in mine]
            for chosen in itertools.product(*free):
                at = dict(zip(mine, chosen, strict=True))
                if "a" in at and at["a"] == at.get("b"):
                    continue  # nobody gives something to themselves
                sides = [{s: (neutral if s in neutral else c)[s][k] for s, k in at.items()} for c in both]
                found.append((template.format(**sides[0]), template.format(**sides[1])))
        return found


_ADJECTIVES = [
    t["adj"][len(words.POSITIVE_VERDICTS) :] for t in words.SENTIMENT
]  # verdicts are what is predicted
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
            BUILD: ({"adj": _ADJECTIVES[1][:8], "noun": _NOUNS[1][:5]}, {"adj": _ADJECTIVES[0][:8], "noun": _NOUNS[0][:5]}),
            HELDOUT: ({"adj": _ADJECTIVES[1][8:], "noun": _NOUNS[1][5:]}, {"adj": _ADJECTIVES[0][8:], "noun": _NOUNS[0][5:]}),
        },
        (words.POSITIVE_VERDICTS, words.NEGATIVE_VERDICTS),
    ),
    Pattern(
        "name_bias",
        (
            "{a} and {b} lived near the {place} . {a} gave the {color} {thing} to",
            "one sunny morning , {a} the baker met {b} the teacher at the {place} . {a} gave the {color} {thing} to",
        ),
        _neutral(
            place=_split(_VILLAGE["place"], 3, 2),
            color=_split(words.STORY["color"], 2, 2),
            thing=_split(_VILLAGE["thing"], 3, 2),
        ),
        {
            BUILD: (dict.fromkeys("ab", words.FEMALE_NAMES[:12]), dict.fromkeys("ab", words.MALE_NAMES[:12])),
            HELDOUT: (dict.fromkeys("ab", words.FEMALE_NAMES[12:]), dict.fromkeys("ab", words.MALE_NAMES[12:])),
        },
        (words.FEMALE_NAMES, words.MALE_NAMES),
    ),
    Pattern(
        "number_magnitude",
        (
            "{a} counted {n} {item}s . {a} lost two {item}s at the {place} . {a} counted",
            "{a} had {n} {item}s in a basket . {a} gave two {item}s to {b} . {a} counted",
        ),
        _neutral(a=_PEOPLE, b=_PEOPLE, item=_split(_VILLAGE["item"], 3, 2), place=_split(_VILLAGE["place"], 3, 2)),
        {BUILD: ({"n": _LARGE[::2]}, {"n": _SMALL[::2]}), HELDOUT: ({"n": _LARGE[1::2]}, {"n": _SMALL[1::2]})},
        (words.NUMBERS[13:], words.NUMBERS[1:8]),
    ),
)  # fmt: skip
MOST_SENTENCES = min(len(p.pairs(part)) for p in PATTERNS for part in PARTS)
"""Sentences a class that every pattern has in either part."""


def contrasts(sentences: int, mini: bool) -> list[Contrast]:
    """The three contrasts, each with ``sentences`` of either class to build from and as many to measure at.

    ``mini``: as the mini grammar writes them, else in ordinary spelling. Always the same ones. Raises ``ValueError`` for a
    number of sentences that there are not.
    """
    check_sentences(sentences)
    spell = (lambda text: text) if mini else natural
    found = []
    for p in PATTERNS:
        classes = []
        for part in PARTS:
            pairs = random.Random(derive(0, "contrasts", p.name, part)).sample(p.pairs(part), sentences)
            classes.append(([spell(high) for high, _ in pairs], [spell(low) for _, low in pairs]))
        sides = p.words if mini else tuple([_capitalised(w) for w in side] for side in p.words)
        after = classes[0][0][0].split()[-1]
        found.append(Contrast(p.name, classes[0], classes[1], (sides[0], sides[1]), after))
    return found


def check_sentences(sentences: object) -> None:
    """Raises ``ValueError`` for what is no number of sentences a class."""
    if isinstance(sentences, bool) or not isinstance(sentences, int) or not 2 <= sentences <= MOST_SENTENCES:
        raise ValueError(f"task.sentences={sentences!r}; allowed: whole numbers from 2 to {MOST_SENTENCES}")


def natural(text: str) -> str:
    """A sentence of the mini grammar in ordinary spelling: names and beginnings in capitals, no space before a stop."""
    text = " ".join("I" if word == "i" else _capitalised(word) for word in text.split())
    text = re.sub(r" ([.,!?])", r"\1", text)
    return re.sub(r"(^|[.!?] )([a-z])", lambda m: m[1] + m[2].upper(), text)


def _capitalised(word: str) -> str:
    return word.capitalize() if word in words.NAMES else word
