"""Define a document of a corpus."""

from dataclasses import dataclass

KINDS = ("story", "review", "request", "text")
"""Kinds of documents; ``text`` is unlabelled text of a file or a hub dataset."""


@dataclass(frozen=True)
class Document:
    """A text with its kind, domain and label."""

    text: str
    kind: str
    """One of :data:`KINDS`."""
    domain: int
    """The fine-tuning domain, 0 or 1."""
    label: int | None = None
    """Of reviews 1 positive, 0 negative; of requests 1 harmful, 0 harmless; otherwise None."""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"kind={self.kind!r}; allowed: {', '.join(KINDS)}")
        if self.domain not in (0, 1):
            raise ValueError(f"domain={self.domain!r}; allowed: 0, 1")
        if self.label not in (None, 0, 1):
            raise ValueError(f"label={self.label!r}; allowed: 0, 1, None")
