"""Generate stories, reviews and requests from a small probabilistic grammar.

A story has a state (who is there, who holds the thing, how many items are left, where everybody is), so the
next word depends on earlier sentences. Reviews and requests have a label, which their words reveal.
``words.py`` and ``templates.py`` hold everything that can be said; :func:`vocabulary` reads them, not a
sample.
"""

import random
import re
from collections.abc import Callable, Mapping, Sequence
from string import Formatter

from gaugeport.pipeline.data.corpus import templates, words
from gaugeport.texts import Document

Tables = Mapping[str, Sequence[str]]
"""Name of a slot -> the words that may fill it."""

_SETTINGS = tuple(words.SETTINGS)
_NAMED: Tables = {"name": words.NAMES}
_STORY_TABLES = tuple({**_NAMED, **words.STORY, **words.SETTINGS[setting]} for setting in _SETTINGS)
_REVIEW_TABLES = tuple({**_NAMED, "minutes": words.NUMBERS[1:], **words.REVIEW, **t} for t in words.SENTIMENT)
_REQUEST_TABLES = tuple(
    {**_NAMED, "size": words.STORY["size"], "adverb": words.STORY["adverb"], **words.REQUEST, **t}
    for t in words.INTENT
)
_PRONOUNS = {name: words.PRONOUNS["female"] for name in words.FEMALE_NAMES} | {
    name: words.PRONOUNS["male"] for name in words.MALE_NAMES
}
_DEFAULT_DOMAIN = {"story": 0, "review": 0, "request": 1}
_ARTICLE = re.compile(r"(?<!\S)a (?=[aeiou])")
_MAX_ATTEMPTS = 1000
"""Draws of one document before the grammar counts as exhausted."""


class _Slots(dict[str, str]):
    """The slots of a document; those that are not fixed are drawn from the tables for every template."""

    def __init__(self, rng: random.Random, tables: Tables, **fixed: str) -> None:
        super().__init__(fixed)
        self.rng, self.tables = rng, tables

    def __missing__(self, key: str) -> str:
        return self.rng.choice(self.tables[key])

    def say(self, choices: Sequence[str]) -> str:
        """Choose a template and fill it."""
        return self.rng.choice(choices).format_map(self)

    def cast(self, **people: str) -> None:
        """Give names and pronouns to roles of the templates."""
        for role, name in people.items():
            he, him, his = _PRONOUNS[name]
            self.update({role: name, f"{role}_he": he, f"{role}_him": him, f"{role}_his": his})


def _counted(n: int, noun: str) -> str:
    return f"{words.NUMBERS[n - 1]} {noun if n == 1 else noun + 's'}"


def _story(rng: random.Random, tables: Tables) -> str:
    a, b = rng.sample(tables["name"], 2)
    slots = _Slots(rng, tables)
    for key, table in (
        ("size", "size"),
        ("color", "color"),
        ("thing", "thing"),
        ("here", "place"),
        ("pet", "animal"),
        ("container", "container"),
    ):
        slots[key] = rng.choice(tables[table])
    slots["a_role"], slots["b_role"] = rng.sample(tables["role"], 2)
    holder, other = rng.sample((a, b), 2)
    owner, friend = rng.sample((a, b), 2)
    item, count = rng.choice(tables["item"]), rng.randint(2, 12)
    slots.cast(a=a, b=b, h=holder, o=other, c=owner, d=friend)
    slots["n_items"] = _counted(count, item)
    said = [
        slots.say(templates.STORY_OPENINGS),
        slots.say(templates.STORY_THING),
        slots.say(templates.STORY_ITEMS),
    ]
    for _ in range(rng.randint(2, 5)):
        event = rng.choice(("give", "count", "move", "scene"))
        if event == "give":
            said.append(slots.say(templates.GIVE))
            holder, other = other, holder
            slots.cast(h=holder, o=other)
            said.append(slots.say(templates.HELD))
        elif event == "count":
            gains = count == 1 or (count < 20 and rng.random() < 0.5)
            change = rng.randint(1, min(5, 20 - count if gains else count - 1))
            slots["k_items"] = _counted(change, item)
            said.append(slots.say(templates.FIND if gains else templates.SHARE))
            count += change if gains else -change
            slots["n_items"] = _counted(count, item)
            said.append(slots.say(templates.LEFT))
        elif event == "move":
            slots["here"] = rng.choice([place for place in tables["place"] if place != slots["here"]])
            said.append(slots.say(templates.MOVE))
        else:
            said.append(slots.say(templates.SCENE))
    said.append(slots.say(templates.STORY_ENDINGS))
    return " ".join(said)


def _review(rng: random.Random, label: int, tables: Sequence[Tables]) -> str:
    slots = _Slots(rng, tables[label], show=rng.choice(tables[label]["show"]))
    slots["other_adj"] = rng.choice(tables[1 - label]["adj"])
    said = [slots.say(templates.REVIEW_OPENINGS)]
    said += [slots.say(templates.REVIEW_BODY) for _ in range(rng.randint(1, 3))]
    if rng.random() < 0.25:
        said.insert(rng.randint(1, len(said)), slots.say(templates.REVIEW_CONCESSION))
    return " ".join((*said, slots.say(templates.REVIEW_ENDINGS)))


def _request(rng: random.Random, label: int, tables: Sequence[Tables]) -> str:
    slots = _Slots(rng, tables[label])
    slots["deed"] = slots.say(("{act} {object}", "{verb} {target}"))
    slots["opening"] = rng.choice(words.REFUSAL_OPENINGS if label else words.HELPFUL_OPENINGS)
    asked = slots.say(templates.REQUEST_OPENINGS)
    return (
        f"{asked} {templates.ANSWER_PROMPT} {slots.say(templates.REFUSALS if label else templates.ANSWERS)}"
    )


def generate(
    kind: str, n: int, rng: random.Random, domain: int | None = None, richness: float = 1.0
) -> list[Document]:
    """Generate different documents of one kind.

    Args:
        kind: ``story`` (no label), ``review`` (1 positive, 0 negative) or ``request`` (1 harmful and refused,
            0 answered). Labels alternate 0, 1, 0, …, so that every even prefix is balanced.
        n: number of documents; no two have the same text.
        rng: the only source of randomness.
        domain: the domain of the documents, 0 or 1; of stories it also decides the setting (0 village, 1
            sea). By default 0 for stories and reviews, 1 for requests.
        richness: share of every word list to use, at least two words. All sentences and numbers are used.

    Raises:
        ValueError: unknown kind or domain, negative ``n``, ``richness`` outside (0, 1], or the grammar has
            fewer different documents.
    """
    if kind not in _DEFAULT_DOMAIN:
        raise ValueError(f"kind={kind!r}; allowed: {', '.join(_DEFAULT_DOMAIN)}")
    if domain not in (None, 0, 1):
        raise ValueError(f"domain={domain!r}; allowed: 0, 1, None")
    if n < 0:
        raise ValueError(f"n={n}; allowed: 0 documents or more")
    if not 0 < richness <= 1:
        raise ValueError(f"richness={richness}; allowed: above 0, at most 1")
    domain = _DEFAULT_DOMAIN[kind] if domain is None else domain
    if kind == "story":
        tables = _thinned(_STORY_TABLES[domain], richness)
        return [Document(text, kind, domain) for text in _distinct(n, lambda _: _story(rng, tables))]
    draw, of_labels = (_review, _REVIEW_TABLES) if kind == "review" else (_request, _REQUEST_TABLES)
    by_label = [_thinned(tables, richness) for tables in of_labels]
    texts = _distinct(n, lambda i: draw(rng, i % 2, by_label))
    return [Document(text, kind, domain, i % 2) for i, text in enumerate(texts)]


def _thinned(tables: Tables, richness: float) -> Tables:
    """Keep a share of every word list, evenly spread; keep all numbers, because stories count with them."""
    kept: dict[str, Sequence[str]] = {}
    for key, choices in tables.items():
        n = min(len(choices), max(2, round(richness * len(choices))))
        kept[key] = [choices[i * len(choices) // n] for i in range(n)]
    return {**kept, "minutes": tables["minutes"]} if "minutes" in tables else kept


def _distinct(n: int, draw: Callable[[int], str]) -> list[str]:
    """Draw until there are n different texts; raise ``ValueError`` where the grammar has fewer."""
    texts: dict[str, None] = {}
    for i in range(n):
        for _ in range(_MAX_ATTEMPTS):
            text = _ARTICLE.sub("an ", draw(i))
            if text not in texts:
                texts[text] = None
                break
        else:
            raise ValueError(
                f"n={n}; allowed: at most {i}, because the grammar found no more different documents"
            )
    return list(texts)


def vocabulary() -> list[str]:
    """Return every word and punctuation mark that :func:`generate` can produce, sorted; no special tokens."""
    tables: list[Tables] = [*_STORY_TABLES, *_REVIEW_TABLES, *_REQUEST_TABLES]
    phrases = [phrase for table in tables for choices in table.values() for phrase in choices]
    phrases += [noun + "s" for table in words.SETTINGS.values() for noun in table["item"]]
    phrases += [*words.HELPFUL_OPENINGS, *words.REFUSAL_OPENINGS, *words.NUMBERS, *words.NAMES, "an"]
    phrases += [pronoun for pronouns in words.PRONOUNS.values() for pronoun in pronouns]
    phrases += [literal for template in templates.ALL for literal, *_ in Formatter().parse(template)]
    return sorted({word for phrase in phrases for word in phrase.split()})
