"""Write tables as csv, Markdown and LaTeX (booktabs), and format their cells."""

from __future__ import annotations

import re
import textwrap
import unicodedata
from pathlib import Path

import pandas as pd

from gaugeport.utils.files import write_text

FLOAT = "%.6g"
TEXT_WIDTH = 100
"""Characters of a line of prose above and below a Markdown table."""
PACKAGES = "booktabs,adjustbox,pdflscape"
"""LaTeX packages that a document needs to include one of the tex files."""
WIDE = 8
"""A LaTeX table of more columns than this lies across its page."""
PROSE = 45
"""A LaTeX column with cells of more characters than this is set in lines."""
ROWS = {False: 45, True: 30}
"""Rows of a LaTeX table on a page: upright, and across."""
_FIRST_STOP = re.compile(r"(?<=[\w)])[.:] ")


def write_table(
    folder: Path,
    name: str,
    title: str,
    tidy: pd.DataFrame,
    shown: pd.DataFrame,
    footer: str,
    caption: str = "",
) -> str:
    """Write a table's files atomically; the same rows give the same bytes.

    Args:
        folder: Where they go.
        name: ``<name>.csv``, ``<name>.md`` and ``<name>.tex``.
        title: Heading of md and tex.
        tidy: Every row, for the csv.
        shown: The form that md and tex show.
        footer: Stands below it. ``caption``: stands above it.

    Returns:
        The text of the csv.
    """
    folder.mkdir(parents=True, exist_ok=True)
    csv = tidy.to_csv(index=False, float_format=FLOAT, lineterminator="\n")
    write_text(folder / f"{name}.csv", csv)
    write_text(folder / f"{name}.md", markdown(title, shown, footer, caption))
    write_text(folder / f"{name}.tex", latex(title, shown, footer, caption))
    return csv


def markdown(title: str, shown: pd.DataFrame, footer: str = "", caption: str = "") -> str:
    """Return a Markdown table: the title as heading, the caption, the rows, the footer.

    Without a caption, a title is cut at its first colon or full stop, and the rest is the caption.

    Args:
        title: The heading.
        shown: Cells as text or numbers.
        footer: Stands below the rows.
        caption: Sentences between heading and rows.
    """
    heading, rest = title, caption
    if not caption:
        heading, _, rest = _FIRST_STOP.sub("\n", title, count=1).partition("\n")
        rest = f"{rest[0].upper()}{rest[1:]}." if rest else ""
    body = _pipe_table(shown.map(_markdown_cell).rename(columns=_markdown_cell))
    above = f"### {heading}\n\n" + (f"{textwrap.fill(rest, TEXT_WIDTH)}\n\n" if rest else "")
    below = "\n".join(textwrap.wrap(footer, TEXT_WIDTH, break_on_hyphens=False))
    return f"{above}{body}\n" + (f"\n{below}\n" if footer else "")


def _pipe_table(cells: pd.DataFrame) -> str:
    """Return a Markdown table with columns as wide as their widest cell; tabulate pads headings by two."""
    rows = [[str(c) for c in cells.columns], *([str(v) for v in row] for row in cells.to_numpy())]
    widths = [max(2, *(len(row[i]) for row in rows)) for i in range(len(cells.columns))]
    rows.insert(1, [":" + "-" * (width - 1) for width in widths])
    return "\n".join("| " + " | ".join(map(str.ljust, row, widths)) + " |" for row in rows)


def latex(title: str, shown: pd.DataFrame, footer: str = "", caption: str = "") -> str:
    """Return booktabs tables that fit a page: long ones go on in a further table, wide ones lie across.

    Columns that say the same in every row stand in the caption. Text is escaped. A document that includes the
    result needs :data:`PACKAGES`. Arguments are those of :func:`markdown`.
    """
    same = {
        c: plain(shown[c].iloc[0]) for c in shown if len(shown) > 1 and shown[c].nunique(dropna=False) == 1
    }
    same = {c: text for c, text in same.items() if "[" not in text}  # measurements stay, alike or not
    cells = shown.drop(columns=list(same)).map(lambda v: _escape(plain(v))).rename(columns=_escape)
    everywhere = "; ".join(f"{c}: {text}" for c, text in same.items() if text not in ("–", ""))
    sentences = (title, caption.removesuffix("."), everywhere, footer)
    whole = ". ".join(part for part in sentences if part)
    wide = len(cells.columns) > WIDE
    parts = [cells[i : i + ROWS[wide]] for i in range(0, len(cells), ROWS[wide])]
    tables = [
        _tabular(part, _escape(whole) if i == 0 else f"{_escape(title.split(' ')[0])}, continued")
        for i, part in enumerate(parts)
    ]
    body = "\\clearpage\n".join(tables)
    if wide:
        body = f"\\begin{{landscape}}\n{body}\\end{{landscape}}\n"
    return f"% \\usepackage{{{PACKAGES}}}\n{body}"


def _tabular(rows: pd.DataFrame, caption: str) -> str:
    lines = [" & ".join(map(str, rows.columns)) + r" \\", r"\midrule"]
    lines += [" & ".join(map(str, row)) + r" \\" for row in rows.itertuples(index=False)]
    body = "\n".join(lines)
    long = {c for c in rows if rows[c].map(len).max() > PROSE}
    columns = "".join("p{6cm}" if c in long else "l" for c in rows)
    return (
        f"\\begin{{table}}[p]\n\\centering\n\\caption{{{caption}}}\n"
        "\\begin{adjustbox}{max width=\\linewidth,max totalheight=0.8\\textheight}\n"
        f"\\begin{{tabular}}{{{columns}}}\n\\toprule\n{body}\n\\bottomrule\n\\end{{tabular}}\n"
        "\\end{adjustbox}\n\\end{table}\n"
    )


def interval(value: float, low: float, high: float, digits: int = 3) -> str:
    """Return ``0.912 [0.901, 0.923]``; just the value without an interval, and – without a value."""
    if pd.isna(value):
        return "–"
    if pd.isna(low):
        return f"{value:.{digits}f}"
    return f"{value:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def scientific(value: float, low: float, high: float) -> str:
    """Return ``1.7e-04 [1.2e-04, 2.3e-04]``, for values over several orders of magnitude."""
    if pd.isna(value):
        return "–"
    if pd.isna(low):
        return f"{value:.2e}"
    return f"{value:.2e} [{low:.2e}, {high:.2e}]"


def cell(rows: pd.DataFrame, digits: int = 3, n: float | None = None) -> str:
    """Return the first of some aggregate rows as :func:`interval`; – where there is none.

    ``n`` is the number of seeds of the line. A cell of more or fewer says of how many.
    """
    if rows.empty:
        return "–"
    value, low, high, seeds = rows[["value", "ci_low", "ci_high", "n"]].iloc[0]
    return interval(value, low, high, digits) + of_seeds(seeds, n)


def of_seeds(seeds: float, n: float | None) -> str:
    """Return `` (n 2)`` where a number is of 2 seeds and its line of another number."""
    return "" if n is None or seeds == n else f" (n {seeds:.0f})"


def with_intervals(frame: pd.DataFrame, digits: int = 3) -> pd.Series:
    """Return the values of aggregate rows as text with their intervals."""
    return frame.apply(lambda r: interval(r["value"], r["ci_low"], r["ci_high"], digits), axis=1)


_SPECIAL = {"&": r"\&", "%": r"\%", "_": r"\_", "#": r"\#", "$": r"\$", "{": r"\{", "}": r"\}", "|": r"$|$"}
_LETTERS = {
    "−": "$-$", "–": "--", "±": r"$\pm$", "×": r"$\times$", "≥": r"$\ge$", "≤": r"$\le$", "→": r"$\to$",
    "…": r"\dots{}", "‖": r"$\Vert$", "√": r"$\surd$", "<": "$<$", ">": "$>$", "²": "$^2$", "½": r"$\frac12$",
    "·": r"$\cdot$", "∞": r"$\infty$", "ᵀ": r"$^\top$", "⁻": "$^-$", "¹": "$^1$", "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
}  # fmt: skip


def _escape(value: object) -> str:
    """Return text that pdflatex can set; a letter that it cannot is spelled out by its Unicode name.

    The letters are written out here because pandas' ``escape="latex"`` leaves −, ≥, λ and ‖ as they are,
    which pdflatex refuses, and pylatexenc would be one more dependency for these twenty.
    """
    return "".join(map(_letter, str(value).replace("\\", "/")))


def _letter(c: str) -> str:
    if c in _SPECIAL or c in _LETTERS:
        return _SPECIAL.get(c) or _LETTERS[c]
    if ord(c) < 256:  # what the default encoding sets
        return c
    words = unicodedata.name(c, "unknown character").lower().split()
    if words[:3] == ["greek", "small", "letter"]:
        return f"$\\{words[3].replace('lamda', 'lambda')}$"
    return f"({' '.join(words)})"


def plain(value: object) -> str:
    """Return a cell as text, whole numbers without a decimal point."""
    whole = isinstance(value, float) and value.is_integer()
    return str(int(value) if whole else value)  # type: ignore[call-overload]


def _markdown_cell(value: object) -> str:
    return plain(value).replace("|", "\\|")
