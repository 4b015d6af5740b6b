"""Where a mini document asks for a decided word: the verdict of a review, the first word of an answer."""

from gaugeport.pipeline.data.corpus.templates import ANSWER_PROMPT, VERDICT_PROMPT
from gaugeport.pipeline.data.document import Document

_PROMPTS = {"review": VERDICT_PROMPT, "request": ANSWER_PROMPT}


def slot_prompt(document: Document) -> str:
    """The text of a mini review or request up to its decided word, which would come next.

    A review stops after "i would call it" (next: `POSITIVE_VERDICTS` or `NEGATIVE_VERDICTS`), a request after
    "assistant :" (next: `HELPFUL_OPENINGS` or `REFUSAL_OPENINGS`).

    Raises:
        ValueError: the kind has no such slot, or the text does not contain it (a real review, say).
    """
    if document.kind not in _PROMPTS:
        raise ValueError(f"a document of kind {document.kind!r} has no slot; allowed: {', '.join(_PROMPTS)}")
    mark = f" {_PROMPTS[document.kind]} "
    start = document.text.rfind(mark)
    if start < 0:
        raise ValueError(f"no {mark.strip()!r} in this {document.kind}: {document.text[:60]!r}")
    return document.text[: start + len(mark) - 1]
