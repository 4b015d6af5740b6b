"""What a command answers: text for people, data for programs, and an exit code."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any


class Exit(IntEnum):
    """Exit codes of every command."""

    DONE = 0
    """Done, and nothing speaks against the result."""
    FAILED = 1
    """Work that had begun failed; the same command does the rest."""
    REFUSED = 2
    """The input was refused; nothing was written."""
    DOUBTFUL = 3
    """Done, but the result should not be used as it is: the answer says why and what to do."""


@dataclass(frozen=True)
class Answer:
    """The answer of a command.

    Attributes:
        text: Lines for a terminal, at most 100 columns.
        data: The same and more, as JSON values.
        exit: The exit code.
    """

    text: str
    data: Mapping[str, Any]
    exit: Exit = Exit.DONE


def json_number(value: float) -> float | None:
    """Return a number as JSON has it: None for NaN and infinities."""
    return float(value) if math.isfinite(value) else None


def percent(share: float) -> str:
    """Return a share in percent: ``98.4 %``, ``100 %`` only where it is all."""
    rounded = f"{100 * share:.1f}".removesuffix(".0")
    if rounded == "100" and share < 1:
        return "99.9 %"
    return f"{rounded} %"
