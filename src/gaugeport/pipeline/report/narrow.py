"""Cut a wide table down to the rows and columns that a person reads, at most 100 characters across.

A table has two forms. The wide one (``pivot``) shows everything that was measured. The narrow one
(``summary``) has the rows and columns of the paper with its figure beside ours. A module of ``experiments/``
declares the narrow form as ``SUMMARY = Narrow(...)``, or computes it in ``summary(wide)``; without either the
default applies.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

import pandas as pd

WIDTH = 100
"""Characters of the widest line of a narrow table."""

_NUMBERS = re.compile(r"-?\d\.\d+( \[[^\]]*\])?( \(n \d+\))?")
_NO_WIDTH = re.compile(r"(-?[\d.]+) \[\1, \1\]")
_LEADING_ZERO = re.compile(r"(?<![\d.])0(?=\.\d)")

Values = str | Collection[str] | Callable[[str], bool]
"""The value of a column that is kept, several of them, or a test."""


@dataclass(frozen=True)
class Narrow:
    """Describe the narrow form of a table by columns and rows of its wide form.

    Args:
        columns: Wide column -> heading. A column that the wide table lacks is left out. Empty: as many
            columns as fit.
        rows: Column -> the value or values to keep; of several such mappings a row has to meet one. If none
            does (a table of another model), all rows are shown. Empty: the rows of the default setting.
        words: Text -> what stands for it in a cell.
        means: Wide columns whose cells leave out their intervals; True: all.
        cut: Text from which on a cell is left out.
    """

    columns: Mapping[str, str] = field(default_factory=dict)
    rows: Mapping[str, Values] | Sequence[Mapping[str, Values]] = ()
    words: Mapping[str, str] = field(default_factory=dict)
    means: bool | Collection[str] = False
    cut: str = ""

    def __call__(self, wide: pd.DataFrame) -> pd.DataFrame:
        """Return the narrow form of a wide table."""
        kept = _rows(wide, [self.rows] if isinstance(self.rows, Mapping) else self.rows)
        names = {name: heading for name, heading in self.columns.items() if name in kept}
        shown = kept[list(names)] if names else _without_constants(kept)
        if self.means:
            shown = shown.copy()
            for column in (c for c in shown if self.means is True or c in self.means):
                shown[column] = shown[column].map(_without_interval)
        shown = shown.map(lambda value: _short(value, self.words, self.cut))
        return (shown.rename(columns=names) if names else _as_fits(shown)).reset_index(drop=True)


def shorten(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table with its numbers written shorter: ``.623 [.500, .747]``; no interval without width."""
    return table.map(lambda value: _short(value)).reset_index(drop=True)


def width_of(table: pd.DataFrame) -> int:
    """Return how many characters a table is across, as Markdown."""
    return 1 + sum(3 + max([len(str(c)), *table[c].map(lambda v: len(str(v)))]) for c in table)


def _rows(wide: pd.DataFrame, filters: Sequence[Mapping[str, Values]]) -> pd.DataFrame:
    if not filters:
        return wide[wide["setting"] == "default"] if "default" in set(wide.get("setting", ())) else wide
    kept = pd.Series(False, index=wide.index)
    for where in filters:
        here = pd.Series(True, index=wide.index)
        for column, values in where.items():
            if column in wide:
                here &= wide[column].map(_test(values)).astype(bool)
        kept |= here
    return wide[kept] if kept.any() else wide


def _test(values: Values) -> Callable[[str], bool]:
    """Return the function that tells whether a cell is kept."""
    if callable(values):
        return values
    return {values}.__contains__ if isinstance(values, str) else set(values).__contains__


def _without_constants(table: pd.DataFrame) -> pd.DataFrame:
    """Drop the text columns that say the same in every row."""
    if len(table) < 2:
        return table
    same = [c for c in table if table[c].nunique(dropna=False) == 1 and "[" not in str(table[c].iloc[0])]
    return table.drop(columns=[c for c in same if c != "n"])


def _as_fits(table: pd.DataFrame) -> pd.DataFrame:
    """Keep the first columns that fit, and n."""
    last = ["n"] if "n" in table else []
    shown: list[str] = []
    for column in (str(c) for c in table if c != "n"):
        if shown and width_of(table[[*shown, column, *last]]) > WIDTH:
            break
        shown.append(column)
    return table[[*shown, *last]]


def _short(value: object, words: Mapping[str, str] | None = None, cut: str = "") -> str:
    text = f"{value:.0f}" if isinstance(value, float) and value.is_integer() else str(value)
    text = text.partition(cut)[0] if cut else text
    for long, short in (words or {}).items():
        text = text.replace(long, short)
    if not _NUMBERS.fullmatch(text):
        return text or "–"
    return _LEADING_ZERO.sub("", _NO_WIDTH.sub(r"\1", text))


def _without_interval(value: object) -> object:
    return re.sub(r" (?:\[[^\]]*\]|\(-?[\d.]+ to -?[\d.]+\))", "", value) if isinstance(value, str) else value
