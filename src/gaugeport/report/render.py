"""Tables to files: the tidy csv, and its pivot as Markdown and LaTeX (booktabs)."""

from __future__ import annotations

import os
from pathlib import Path

import pandas as pd

FLOAT = "%.6g"


def write_table(folder: Path, name: str, title: str, tidy: pd.DataFrame, pivot: pd.DataFrame, footer: str) -> None:
    """``<name>.csv`` (tidy), ``<name>.md`` and ``<name>.tex`` (the pivot under its title, then ``footer``).

    Each file is written aside and renamed; the same rows give the same bytes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    replace_text(folder / f"{name}.csv", tidy.to_csv(index=False, float_format=FLOAT, lineterminator="\n"))
    replace_text(folder / f"{name}.md", markdown(title, pivot, footer))
    replace_text(folder / f"{name}.tex", latex(title, pivot, footer))


def markdown(title: str, pivot: pd.DataFrame, footer: str = "") -> str:
    """The pivot as a Markdown table under its title."""
    body = pivot.map(_markdown_cell).rename(columns=_markdown_cell).to_markdown(index=False, disable_numparse=True)
    return f"### {title}\n\n{body}\n" + (f"\n{footer}\n" if footer else "")


def latex(title: str, pivot: pd.DataFrame, footer: str = "") -> str:
    """The pivot as a booktabs table; text is escaped."""
    escaped = pivot.map(lambda v: _escape(int(v) if isinstance(v, float) and v.is_integer() else v)).rename(
        columns=_escape
    )
    lines = [" & ".join(map(str, escaped.columns)) + r" \\", r"\midrule"]
    lines += [" & ".join(map(str, row)) + r" \\" for row in escaped.itertuples(index=False)]
    body = "\n".join(lines)
    columns = "l" * len(escaped.columns)
    return (
        "\\begin{table}\n\\centering\\small\n"
        f"\\caption{{{_escape(title)}. {_escape(footer)}}}\n"
        f"\\begin{{tabular}}{{{columns}}}\n\\toprule\n{body}\n\\bottomrule\n\\end{{tabular}}\n\\end{{table}}\n"
    )


def interval(value: float, low: float, high: float, digits: int = 3) -> str:
    """``0.912 [0.901, 0.923]``; without an interval just the value, and – where there is none."""
    if pd.isna(value):
        return "–"
    if pd.isna(low):
        return f"{value:.{digits}f}"
    return f"{value:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def cell(rows: pd.DataFrame, digits: int = 3) -> str:
    """The first of some aggregate rows as :func:`interval`; – where there is none."""
    if rows.empty:
        return "–"
    value, low, high = rows[["value", "ci_low", "ci_high"]].iloc[0]
    return interval(value, low, high, digits)


def with_intervals(frame: pd.DataFrame, digits: int = 3) -> pd.Series:
    """The value column of aggregate rows as text with its intervals."""
    return frame.apply(lambda r: interval(r["value"], r["ci_low"], r["ci_high"], digits), axis=1)


_SPECIAL = {"&": r"\&", "%": r"\%", "_": r"\_", "#": r"\#", "$": r"\$", "{": r"\{", "}": r"\}", "|": r"$|$"}
_LETTERS = {
    "−": "$-$", "–": "--", "±": r"$\pm$", "×": r"$\times$", "≥": r"$\ge$", "≤": r"$\le$", "→": r"$\to$", "…": r"\dots{}",
    "‖": r"$\Vert$", "√": r"$\surd$", "<": "$<$", ">": "$>$", "π": r"$\pi$",
}  # fmt: skip


def _escape(value: object) -> str:
    text = "".join(_SPECIAL.get(c, c) for c in str(value).replace("\\", "/"))
    return "".join(_LETTERS.get(c, c) for c in text)


def plain(value: object) -> str:
    """A cell as text; whole numbers without a decimal point."""
    whole = isinstance(value, float) and value.is_integer()
    return str(int(value) if whole else value)  # type: ignore[call-overload]


def replace_text(path: Path, text: str) -> None:
    """Write a file aside and rename it."""
    aside = path.with_name(f".{path.name}.{os.getpid()}.partial")
    aside.write_text(text)
    os.replace(aside, path)


def _markdown_cell(value: object) -> str:
    return plain(value).replace("|", "\\|")
