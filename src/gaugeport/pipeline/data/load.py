"""Load a corpus: the mini corpus, local files, or a hub dataset."""

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import datasets

from gaugeport.pipeline.data.corpus.grammar import generate
from gaugeport.texts import FORMATS, KINDS, Document, documents_from, local_rows

SPLITS = ("train", "heldout")
STORY_SHARE = 0.6
"""Share of stories in a domain of the mini corpus; the others are reviews (domain 0) or requests (1)."""


@dataclass(frozen=True)
class Corpus:
    """Training documents and held-out documents; no text is in both."""

    train: tuple[Document, ...]
    heldout: tuple[Document, ...]

    def documents(self, split: str, domain: int | None = None) -> list[Document]:
        """Return the documents of a split, in a fixed order.

        Args:
            split: ``train`` or ``heldout``.
            domain: 0, 1, or None for both.

        Raises:
            ValueError: unknown split or domain.
        """
        if split not in SPLITS:
            raise ValueError(f"split={split!r}; allowed: {', '.join(SPLITS)}")
        if domain not in (None, 0, 1):
            raise ValueError(f"domain={domain!r}; allowed: 0, 1, None")
        documents = self.train if split == "train" else self.heldout
        return [document for document in documents if domain in (None, document.domain)]

    def texts(self, split: str, domain: int | None = None) -> list[str]:
        """Return the texts of ``documents(split, domain)``."""
        return [document.text for document in self.documents(split, domain)]

    def labelled(self, kind: str, split: str) -> list[Document]:
        """Return the labelled documents of one kind, of both domains and in a fixed order.

        Args:
            kind: one of ``KINDS``.
            split: ``train`` or ``heldout``.

        Raises:
            ValueError: unknown kind or split, or no such documents.
        """
        if kind not in KINDS:
            raise ValueError(f"kind={kind!r}; allowed: {', '.join(KINDS)}")
        labelled = [document for document in self.documents(split) if document.label is not None]
        chosen = [document for document in labelled if document.kind == kind]
        if not chosen:
            kinds = sorted({document.kind for document in labelled})
            raise ValueError(
                f"no labelled {kind!r} in the {split} split; labelled kinds: {', '.join(kinds) or 'none'}"
            )
        return chosen


def mini_corpus(n_documents: int, seed: int, heldout: float = 0.1, richness: float = 1.0) -> Corpus:
    """Generate the mini corpus; no two documents have the same text.

    Half of the documents are in domain 0: 60% stories in the village, 40% reviews. Half are in domain 1: 60%
    stories at sea, 40% requests. (About 80% of the tokens of either are stories.) Of each of these four
    groups an even number of documents is held out, so held-out labels are balanced. Training labels are
    balanced to within one document. Each split is shuffled.

    Args:
        n_documents: number of documents, at least 20.
        seed: seed of the corpus.
        heldout: share of the documents to hold out, above 0 and at most 0.5.
        richness: share of its words that the grammar uses, above 0 and at most 1.

    Raises:
        ValueError: an argument is outside its range.
    """
    if n_documents < 20:
        raise ValueError(f"n_documents={n_documents}; allowed: 20 or more for the mini corpus")
    if not 0 < heldout <= 0.5:
        raise ValueError(f"heldout={heldout}; allowed: above 0, at most 0.5")
    rng = random.Random(seed)
    train: list[Document] = []
    held_out: list[Document] = []
    for domain, other in enumerate(("review", "request")):
        n_domain = (n_documents + 1 - domain) // 2
        n_stories = round(STORY_SHARE * n_domain)
        for kind, n in (("story", n_stories), (other, n_domain - n_stories)):
            group = generate(kind, n, rng, domain, richness)
            n_held_out = 2 * max(1, round(n * heldout / 2))
            held_out += group[:n_held_out]
            train += group[n_held_out:]
    rng.shuffle(train)
    rng.shuffle(held_out)
    return Corpus(tuple(train), tuple(held_out))


def text_corpus(
    path: str | Path,
    field: str = "text",
    heldout: float = 0.1,
    kind: str = "text",
    label: str | int | None = None,
    max_documents: int | None = None,
) -> Corpus:
    """Load a local .jsonl, .csv, .txt (one document per line) or .parquet file.

    Held-out documents are evenly spread over the file. The first half of the others is domain 0 and the
    second half domain 1; the held-out ones likewise. A repeated text counts once. Every call reads the file
    again.

    Args:
        path: the file.
        field: name of the field with the text (``text`` for .txt).
        heldout: share of the documents to hold out, above 0 and below 1.
        kind: kind of the documents; ``review`` or ``request`` for labelled files.
        label: name of the field with the label 0 or 1, or one label for the whole file.
        max_documents: the most rows to read.

    Raises:
        FileNotFoundError: the path does not exist.
        ValueError: unknown extension, empty or unreadable file, missing field, empty document, a label other
            than 0 and 1, a text with both labels, fewer than 3 documents, or ``heldout`` outside its range.
    """
    documents = documents_from(local_rows(path), str(path), field, kind, label, max_documents)
    return _split(documents, heldout, str(path))


def prompt_corpus(
    harmless: str | Path, harmful: str | Path, field: str = "instruction", heldout: float = 0.1
) -> Corpus:
    """Load requests from two local files.

    Args:
        harmless: file of harmless instructions (label 0).
        harmful: file of harmful instructions (label 1).
        field: name of the field with the text.
        heldout: share of each file to hold out, as in :func:`text_corpus`.

    Raises:
        FileNotFoundError: as :func:`text_corpus`.
        ValueError: as :func:`text_corpus`, or an instruction is in both files, so its label is undecided.
    """
    halves = [
        text_corpus(path, field, heldout, "request", label) for label, path in enumerate((harmless, harmful))
    ]
    texts = [{document.text for document in half.train + half.heldout} for half in halves]
    both = texts[0] & texts[1]
    if both:
        raise ValueError(f"{len(both)} instructions are in both {harmless} and {harmful}: {min(both)!r}")
    return Corpus(halves[0].train + halves[1].train, halves[0].heldout + halves[1].heldout)


def hub_corpus(
    name: str,
    split: str = "train",
    field: str = "text",
    streaming: bool = True,
    max_documents: int | None = None,
    heldout: float = 0.1,
    kind: str = "text",
    label: str | None = None,
    config: str | None = None,
    revision: str | None = None,
) -> Corpus:
    """Load a dataset of the Hugging Face hub, such as ``monology/pile-uncopyrighted``.

    It is split as :func:`text_corpus` splits. A text that has both labels is left out, with a warning.
    SST-2 is ``hub_corpus("stanfordnlp/sst2", field="sentence", kind="review", label="label")``.

    Args:
        name: id on the hub.
        split: the dataset's split to read; the corpus makes its own held-out documents from it.
        field: name of the field with the text.
        streaming: read rows one by one, up to ``max_documents``, instead of downloading the dataset.
        max_documents: the most rows to read.
        heldout: share of the documents to hold out, above 0 and below 1.
        kind: kind of the documents.
        label: name of the field with the label.
        config: name of a configuration of the dataset.
        revision: a commit of the dataset.

    Raises:
        ConnectionError: the hub cannot be reached or does not have the dataset. The message says how to pass
            a local file.
        ValueError: as :func:`text_corpus`.
    """
    source = f"dataset {name!r} (" + (f"config {config!r}, " if config else "") + f"split {split!r})"
    options = {"path": name, "name": config, "split": split, "streaming": streaming, "revision": revision}
    rows = _hub_rows(source, field, LOCAL_SETTINGS[kind], options)
    documents = documents_from(rows, source, field, kind, label, max_documents, leave_out_undecided=True)
    return _split(documents, heldout, source)


LOCAL_SETTINGS = {
    "text": "data=text data.path=FILE data.field=",
    "review": "task.reviews=FILE task.field=",
    "request": "task.harmful=FILE task.harmless=FILE task.field=",
}
"""Kind of documents -> the settings that replace a hub dataset by local files."""


def _hub_rows(
    source: str, field: str, local_settings: str, options: Mapping[str, Any]
) -> Iterator[Mapping[str, Any]]:
    """Yield the rows of a hub dataset; explain how to use a local file where the hub fails."""
    try:
        yield from datasets.load_dataset(**options)
    except ValueError:  # unknown split or config: the hub was reached, and its message names the allowed ones
        raise
    except Exception as error:  # hub errors have no common class (httpx, datasets, OSError, RuntimeError)
        raise ConnectionError(
            f"cannot read {source}, field {field!r}, from the Hugging Face hub "
            f"({type(error).__name__}: {error}). To use a local copy pass {local_settings}{field}, "
            f"where FILE ends in {', '.join(FORMATS)}."
        ) from error


def _split(documents: list[Document], heldout: float, source: str) -> Corpus:
    """Hold out documents that are evenly spread, and assign domains."""
    n = len(documents)
    if not 0 < heldout < 1:
        raise ValueError(f"heldout={heldout}; allowed: above 0, below 1")
    if n < 3:
        raise ValueError(
            f"{source} has {n} different documents; allowed: 3 or more, one for each domain and one held out"
        )
    positions = evenly_spread(n, heldout)
    train = [document for i, document in enumerate(documents) if i not in positions]
    held_out = [document for i, document in enumerate(documents) if i in positions]
    return Corpus(_halves(train), _halves(held_out))


def evenly_spread(n: int, share: float) -> set[int]:
    """Return evenly spread positions below ``n``: about a ``share`` of them, between 1 and n - 2."""
    n_chosen = min(max(1, round(n * share)), n - 2)
    return {(2 * i + 1) * n // (2 * n_chosen) for i in range(n_chosen)}


def _halves(documents: list[Document]) -> tuple[Document, ...]:
    """Put the first half of the documents in domain 0 and the second half in domain 1."""
    middle = (len(documents) + 1) // 2
    return tuple(replace(document, domain=int(i >= middle)) for i, document in enumerate(documents))
