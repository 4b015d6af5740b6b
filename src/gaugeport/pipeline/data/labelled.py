"""The project's own labelled prompts: short reviews, and requests that an assistant should refuse or answer.

``prompts/reviews.jsonl`` and ``prompts/requests.jsonl`` were written by hand for this project: fields
``text``, ``label`` and ``topic``, about 170 texts of either label. Lengths are matched between the labels.
Each request to refuse is followed by an ordinary one that opens with the same words. None says how anything
harmful is done.
"""

from __future__ import annotations

import json

from gaugeport.pipeline.data.load import Corpus, evenly_spread
from gaugeport.pipeline.job import PACKAGED_PROMPTS
from gaugeport.texts import Document

FILES = {"review": PACKAGED_PROMPTS["reviews"], "request": PACKAGED_PROMPTS["harmful"]}
"""Kind of document -> the file of its labelled texts."""


def packaged_prompts(kind: str, heldout: float = 0.3) -> Corpus:
    """Return the project's own labelled prompts of one kind, each label split alike.

    The held-out texts of either label lie evenly spread over the file, so they are of every topic.

    Args:
        kind: ``review`` (label 1 is positive, 0 negative) or ``request`` (1 is to refuse, 0 ordinary).
        heldout: Share of the texts of either label to hold out, above 0 and below 1.

    Raises:
        ValueError: There are no prompts of this kind, or ``heldout`` is not between 0 and 1.
    """
    if kind not in FILES:
        raise ValueError(f"kind={kind!r}; allowed: {', '.join(FILES)}")
    if not 0 < heldout < 1:
        raise ValueError(f"heldout={heldout}; allowed: above 0, below 1")
    rows = [json.loads(line) for line in FILES[kind].read_text(encoding="utf8").splitlines()]
    train: list[Document] = []
    held_out: list[Document] = []
    for label in (0, 1):
        documents = [Document(row["text"], kind, label, label) for row in rows if row["label"] == label]
        chosen = evenly_spread(len(documents), heldout)
        train += [document for i, document in enumerate(documents) if i not in chosen]
        held_out += [document for i, document in enumerate(documents) if i in chosen]
    return Corpus(tuple(train), tuple(held_out))
