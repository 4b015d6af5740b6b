"""One document of a corpus."""

from dataclasses import dataclass

KINDS = ("story", "review", "request", "text")
"""What a document can be; `text` is unlabelled running text of a file or a hub dataset."""


@dataclass(frozen=True)
class Document:
    """A text and what is known about it."""

    text: str
    kind: str
    """One of `KINDS`."""
    domain: int
    """Fine-tuning domain, 0 or 1."""
    label: int | None = None
    """Reviews: 1 positive, 0 negative. Requests: 1 harmful, 0 harmless. Otherwise None."""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"kind is {self.kind!r}; allowed: {', '.join(KINDS)}")
        if self.domain not in (0, 1):
            raise ValueError(f"domain is {self.domain!r}; allowed: 0, 1")
        if self.label not in (None, 0, 1):
            raise ValueError(f"label is {self.label!r}; allowed: 0, 1, None")
