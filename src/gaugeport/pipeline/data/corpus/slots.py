"""Cut a mini document at its slot: before the verdict of a review, or the first word of an answer."""

from gaugeport.pipeline.data.corpus.templates import ANSWER_PROMPT, VERDICT_PROMPT
from gaugeport.texts import Document

_PROMPTS = {"review": VERDICT_PROMPT, "request": ANSWER_PROMPT}


def slot_prompt(document: Document) -> str:
    """Return the text of a mini review or request up to its slot.

    A review stops after "i would call it"; one of ``POSITIVE_VERDICTS`` or ``NEGATIVE_VERDICTS`` comes next.
    A request stops after "assistant :"; one of ``HELPFUL_OPENINGS`` or ``REFUSAL_OPENINGS`` comes next.

    Raises:
        ValueError: documents of this kind have no slot, or the text has none (a real review, for example).
    """
    if document.kind not in _PROMPTS:
        raise ValueError(f"kind={document.kind!r} has no slot; allowed: {', '.join(_PROMPTS)}")
    mark = f" {_PROMPTS[document.kind]} "
    start = document.text.rfind(mark)
    if start < 0:
        raise ValueError(f"no {mark.strip()!r} in this {document.kind}: {document.text[:60]!r}")
    return document.text[: start + len(mark) - 1]
