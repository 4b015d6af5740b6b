"""Read the claims that ``experiments/claims.yaml`` declares."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import yaml

from gaugeport.pipeline.paths import by_number, data_dir

CHOSEN = ("learning rate chosen", "setting chosen")
"""Reasons against a verdict that a declared setting takes away."""

NOT_CLAIMED = ("not in the papers", "–")
"""Quotes of claims that are ours: the papers say nothing, or ask without an answer."""


@dataclass(frozen=True)
class Claim:
    """Hold one claim: a paired contrast ``left − right`` of a metric, or ``left`` alone.

    Attributes:
        id: ``b5.rotation_level``. ``table``: the table it is judged in. ``metric``: what is compared.
        claim: Its sentence. ``short``: the same in at most 41 characters, for the README.
        where: The setting and site it is read at; ``site: middle`` and ``step: last`` are resolved per model.
        left: What tells the left side apart. ``right``: the right side; None compares with the null alone.
            A side may name a ``metric`` of its own.
        null_value: The interval has to lie beyond it in the ``direction``, ``greater`` or ``less``.
        paper: The paper's figure for the contrast. ``delta``: how near counts as it. ``quote``: the paper's
            words. ``short_quote``: the same, shorter.
        unjudged: Why a measured claim carries no verdict: a chosen setting could produce it, or the seeds do
            not vary what it is about. Of :data:`CHOSEN` it does not hold at :data:`SETTINGS_DECLARED`.
        by_construction: The measurement leaves it no other outcome, which its verdict says.
        two_sided: Neither side of the paper's figure is the better one.
    """

    id: str
    table: str
    claim: str
    metric: str
    where: dict[str, Any]
    left: dict[str, Any]
    right: dict[str, Any] | None
    null_value: float
    direction: str
    delta: float
    paper: float | None
    quote: str
    unit: str = "seed"
    unjudged: str | None = None
    by_construction: bool = False
    two_sided: bool = False
    counted: bool = False
    declared: str = "before"
    short: str = ""
    short_quote: str = ""

    def __post_init__(self) -> None:
        if self.direction not in ("greater", "less"):
            raise ValueError(f"claim {self.id}: direction {self.direction!r}; allowed: greater, less")
        if self.declared not in ("before", "after"):
            raise ValueError(f"claim {self.id}: declared {self.declared!r}; allowed: before, after")
        if self.unit != "seed":
            raise ValueError(f"claim {self.id}: unit {self.unit!r}; allowed: seed (the training seed)")

    @property
    def is_the_papers(self) -> bool:
        """Whether the papers claim it; else it is ours."""
        return self.quote not in NOT_CLAIMED


def load_claims() -> list[Claim]:
    """Return every declared claim, in the order of their tables, then of the file."""
    return list(_claims((data_dir("experiments") / "claims.yaml").read_text()))


@functools.cache  # every table reads them all, and the file takes a third of a second
def _claims(text: str) -> tuple[Claim, ...]:
    claims = [Claim(**c) for c in yaml.safe_load(text)]
    return tuple(sorted(claims, key=lambda claim: by_number(claim.table)))
