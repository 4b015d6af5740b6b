"""One interface for the mini corpus, local files and hub datasets."""

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import datasets

from gaugeport.pipeline.data.corpus.grammar import generate
from gaugeport.pipeline.data.document import KINDS, Document
from gaugeport.pipeline.data.read import FORMATS, documents_from, local_rows

SPLITS = ("train", "heldout")
STORY_SHARE = 0.6
"""Share of stories among the documents of either mini domain; the others are reviews (0) or requests (1)."""


@dataclass(frozen=True)
class Corpus:
    """Documents to train on and documents held out; no text is in both."""

    train: tuple[Document, ...]
    heldout: tuple[Document, ...]

    def documents(self, split: str, domain: int | None = None) -> list[Document]:
        """The documents of a split, of one domain (0 or 1) or of both (None), in a fixed order.

        Raises:
            ValueError: unknown split or domain.
        """
        if split not in SPLITS:
            raise ValueError(f"split is {split!r}; allowed: {', '.join(SPLITS)}")
        if domain not in (None, 0, 1):
            raise ValueError(f"domain is {domain!r}; allowed: 0, 1, None")
        found = self.train if split == "train" else self.heldout
        return [document for document in found if domain in (None, document.domain)]

    def texts(self, split: str, domain: int | None = None) -> list[str]:
        """The texts of `documents(split, domain)`."""
        return [document.text for document in self.documents(split, domain)]

    def labelled(self, kind: str, split: str) -> list[Document]:
        """The documents of one kind that carry a label, of both domains, in a fixed order.

        Raises:
            ValueError: unknown kind or split, or a corpus without such documents (the kinds it has are named).
        """
        if kind not in KINDS:
            raise ValueError(f"kind is {kind!r}; allowed: {', '.join(KINDS)}")
        found = [d for d in self.documents(split) if d.kind == kind and d.label is not None]
        if not found:
            kinds = sorted({d.kind for d in self.documents(split) if d.label is not None})
            raise ValueError(
                f"no labelled {kind!r} in the {split} split; labelled kinds: {', '.join(kinds) or 'none'}"
            )
        return found


def mini_corpus(n_documents: int, seed: int, heldout: float = 0.1, richness: float = 1.0) -> Corpus:
    """The project's own corpus, all documents different.

    Half of the documents are domain 0: 60 % stories in the village, 40 % reviews. Half are domain 1: 60 % stories at
    sea, 40 % requests. (By tokens about 80 % of either are stories.) Of each of the four groups the share `heldout` is
    held out, an even number of documents, so that held-out labels are balanced; training labels are to within one.
    Each split is shuffled. `richness` is the share of its words that the grammar uses.

    Raises:
        ValueError: n_documents below 20, heldout outside (0, 0.5], richness outside (0, 1].
    """
    if n_documents < 20:
        raise ValueError(f"n_documents is {n_documents}; the mini corpus needs at least 20")
    if not 0 < heldout <= 0.5:
        raise ValueError(f"heldout is {heldout}; allowed: above 0, at most 0.5")
    rng = random.Random(seed)
    train: list[Document] = []
    apart: list[Document] = []
    for domain, other in enumerate(("review", "request")):
        n_domain = (n_documents + 1 - domain) // 2
        n_stories = round(STORY_SHARE * n_domain)
        for kind, n in (("story", n_stories), (other, n_domain - n_stories)):
            group = generate(kind, n, rng, domain, richness)
            n_apart = 2 * max(1, round(n * heldout / 2))
            apart += group[:n_apart]
            train += group[n_apart:]
    rng.shuffle(train)
    rng.shuffle(apart)
    return Corpus(tuple(train), tuple(apart))


def text_corpus(
    path: str | Path,
    field: str = "text",
    heldout: float = 0.1,
    kind: str = "text",
    label: str | int | None = None,
    max_documents: int | None = None,
) -> Corpus:
    """A local .jsonl, .csv, .txt (one document a line) or .parquet file.

    The held-out documents lie evenly spread over the file; the first half of the others is domain 0, the second half is
    domain 1 (the held-out ones likewise). A repeated text counts once. The file is read anew at every call.

    Args:
        field: the field that holds the text (.txt: `text`).
        heldout: share of the documents to hold out, above 0 and below 1.
        kind: "review" or "request" for labelled files.
        label: the field that holds the label 0 or 1, or one label for the whole file.
        max_documents: read only so many rows.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: unknown extension, empty or unreadable file, no such field, an empty document, a label other than 0
            and 1, fewer than 3 documents, heldout outside (0, 1).
    """
    return _split(
        documents_from(local_rows(path), str(path), field, kind, label, max_documents), heldout, str(path)
    )


def prompt_corpus(
    harmless: str | Path, harmful: str | Path, field: str = "instruction", heldout: float = 0.1
) -> Corpus:
    """Requests from two local files, one of harmless (label 0) and one of harmful (label 1) instructions.

    Each file is read and split as `text_corpus` does, and raises as it does. An instruction that is in both files is an
    error (ValueError): its label would be undecided.
    """
    halves = [
        text_corpus(path, field, heldout, "request", label) for label, path in enumerate((harmless, harmful))
    ]
    both = {d.text for d in halves[0].train + halves[0].heldout} & {
        d.text for d in halves[1].train + halves[1].heldout
    }
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
    """A dataset of the Hugging Face hub, such as `monology/pile-uncopyrighted`, split as `text_corpus` splits.

    SST-2 is `hub_corpus("stanfordnlp/sst2", field="sentence", kind="review", label="label")`.

    Args:
        name: id on the hub; `config` and `revision` pick one of its configurations and commits.
        split: the split to read; the corpus makes its own held-out documents from it.
        streaming: read rows as they are wanted rather than download the dataset; stops at max_documents.

    Raises:
        ConnectionError: the dataset cannot be had from the hub; says which was wanted and how to pass a local file.
        ValueError: as `text_corpus`.
    """
    source = f"dataset {name!r} (" + (f"config {config!r}, " if config else "") + f"split {split!r})"
    documents = documents_from(
        _hub_rows(
            source,
            field,
            LOCAL[kind],
            path=name,
            name=config,
            split=split,
            streaming=streaming,
            revision=revision,
        ),
        source,
        field,
        kind,
        label,
        max_documents,
    )
    return _split(documents, heldout, source)


LOCAL = {
    "text": "data=text data.path=FILE data.field=",
    "review": "task.reviews=FILE task.field=",
    "request": "task.harmful=FILE task.harmless=FILE task.field=",
}
"""How local files take the place of a hub dataset, by what it is read for."""


def _hub_rows(source: str, field: str, local: str, **wanted: Any) -> Iterator[Mapping[str, Any]]:
    try:
        yield from datasets.load_dataset(**wanted)
    except (
        ValueError
    ):  # an unknown split or config: the hub was reached, and the message names those there are
        raise
    except (
        Exception
    ) as error:  # network and hub errors have no common class (httpx, datasets, OSError, RuntimeError)
        raise ConnectionError(
            f"{source}, field {field!r}, cannot be had from the Hugging Face hub ({type(error).__name__}: {error}). "
            f"To use a local copy pass {local}{field}, where FILE ends in "
            f"{', '.join(FORMATS)}."
        ) from error


def _split(documents: list[Document], heldout: float, source: str) -> Corpus:
    n = len(documents)
    if not 0 < heldout < 1:
        raise ValueError(f"heldout is {heldout}; allowed: above 0, below 1")
    if n < 3:
        raise ValueError(
            f"{source} holds {n} different documents; 3 are needed: one for each domain and one held out"
        )
    n_apart = min(max(1, round(n * heldout)), n - 2)
    positions = {(2 * i + 1) * n // (2 * n_apart) for i in range(n_apart)}
    train = [document for i, document in enumerate(documents) if i not in positions]
    apart = [document for i, document in enumerate(documents) if i in positions]
    return Corpus(_halves(train), _halves(apart))


def _halves(documents: list[Document]) -> tuple[Document, ...]:
    middle = (len(documents) + 1) // 2
    return tuple(replace(document, domain=int(i >= middle)) for i, document in enumerate(documents))
