"""The corpus ``docs``: English that every machine with Python has, without the hub.

Domain 0 is the reference of the Python language, domain 1 docstrings of numpy, scipy and torch. Both repeat
themselves much, so a paragraph that says what an earlier one said is dropped, whichever domain it is in.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice, takewhile

from gaugeport.pipeline.data.load import Corpus, evenly_spread
from gaugeport.pipeline.store.store import digest
from gaugeport.texts import Document, docstrings, topics

SHORTEST_DOCUMENT = 400
"""Characters.

A shorter text is joined with the next one of its file; what is left over at the end is dropped.
"""
FULL_DOCUMENT = 1500
"""Characters after which a document ends, at the end of the paragraph."""
GRAM_WORDS = 8
"""Texts are compared by their runs of so many words."""
REPEATED_SHARE = 0.5
"""A text repeats others if this share of its runs of words, or more, is in them."""

_BLANK_LINE = re.compile(r"\n\s*\n")
_UNDERLINE = re.compile(r"[-=*~^]{3,}")
_SIGNATURE = re.compile(r"[\w.]+\(.*\)(\s*->.*)?", re.DOTALL)
_DOCTEST = re.compile(r"\s*>>>")
_LETTERS = re.compile(r"[A-Za-z]{2}")
_LABEL = re.compile(r"examples?( use| usage)?\s*:*", re.IGNORECASE)

Gram = tuple[str, ...]


def docs_corpus(documents: int, heldout: float) -> Corpus:
    """Make the corpus, at most half of the ``documents`` in either domain.

    No text of one split repeats the other's (:data:`REPEATED_SHARE`). Of either domain the documents held out
    lie evenly spread. The domains of the held-out documents alternate in proportion, so that the first ones
    are of both.

    Args:
        documents: The most documents.
        heldout: Share of the documents of either domain to hold out, above 0 and below 1.

    Raises:
        ValueError: Fewer than 6 documents, or ``heldout`` not between 0 and 1.
        FileNotFoundError: Python's reference or the sources of a package are not installed.
    """
    if documents < 6:
        raise ValueError(
            f"data.documents={documents}; allowed with data=docs: 6 or more, three of either domain"
        )
    if not 0 < heldout < 1:
        raise ValueError(f"data.heldout={heldout}; allowed: above 0, below 1")
    return _docs_corpus(documents, heldout)


def docs_digest(corpus: Corpus) -> str:
    """Return a digest of the corpus' texts: they depend on the versions that are installed."""
    return digest(
        {split: [[d.domain, d.text] for d in corpus.documents(split)] for split in ("train", "heldout")}
    )


@functools.cache  # the sources take seconds to read, and a job asks several times
def _docs_corpus(documents: int, heldout: float) -> Corpus:
    seen: set[Gram] = set()
    train: list[Document] = []
    placed: list[tuple[float, Document]] = []
    for domain, files in enumerate(([topics()], docstrings())):
        texts = list(islice(_documents(files, seen), documents // 2))
        apart = evenly_spread(len(texts), heldout)
        for i, text in enumerate(texts):
            document = Document(text, "text", domain)
            if i in apart:
                placed.append((i / len(texts), document))
            else:
                train.append(document)
    # a text that several later paragraphs took a part of each may be in the training texts after all
    trained = {gram for document in train for gram in _grams(document.text)}
    ordered = [document for _, document in sorted(placed, key=lambda pair: pair[0])]
    return Corpus(tuple(train), tuple(d for d in ordered if not _repeats(_grams(d.text), trained)))


def _documents(files: Iterable[Sequence[str]], seen: set[Gram]) -> Iterator[str]:
    """Yield documents made of the paragraphs of each file's texts without repeats (``seen`` grows)."""
    for texts in files:
        current: list[str] = []
        for text in texts:
            for paragraph in _paragraphs(text):
                grams = _grams(paragraph)
                if _repeats(grams, seen):
                    continue
                seen |= grams
                current.append(paragraph)
                if _length(current) >= FULL_DOCUMENT:
                    yield "\n\n".join(current)
                    current = []
            if _length(current) >= SHORTEST_DOCUMENT:
                yield "\n\n".join(current)
                current = []


def _paragraphs(text: str) -> list[str]:
    """Return the paragraphs of prose of a text, without code examples and bare signatures."""
    kept = []
    for paragraph in _BLANK_LINE.split(text.strip("\n")):
        lines = [line.rstrip() for line in paragraph.splitlines()]
        # an example of code goes on to the end of its paragraph
        prose = list(takewhile(lambda line: not _DOCTEST.match(line), lines))
        body = prose[2:] if len(prose) > 1 and _UNDERLINE.fullmatch(prose[1]) else prose
        content = "\n".join(body).strip()
        if not _LETTERS.search(content) or _SIGNATURE.fullmatch(content) or _LABEL.fullmatch(content):
            continue
        kept.append("\n".join(prose))
    return kept


def _grams(text: str) -> set[Gram]:
    """Return the runs of :data:`GRAM_WORDS` words of a text; of a shorter text, all of its words as one."""
    words = re.findall(r"\w+", text.lower())
    return {tuple(words[i : i + GRAM_WORDS]) for i in range(max(1, len(words) - GRAM_WORDS + 1))}


def _repeats(grams: set[Gram], seen: set[Gram]) -> bool:
    return len(grams & seen) >= REPEATED_SHARE * len(grams)


def _length(paragraphs: Sequence[str]) -> int:
    return sum(map(len, paragraphs))
