"""Write the table of a sweep that belongs to no experiment: what each task measured, by what was swept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from gaugeport.pipeline.report.render import interval, markdown, write_table
from gaugeport.pipeline.report.tidy import KEYS, aggregate, select, tidy, weights
from gaugeport.pipeline.store.records import Found

MOST_VALUES_SHOWN = 6
"""A number that takes more values than this within a job is the axis of a curve, which only the csv has."""

_MEASURED = ("seed", "value", "ci_low", "ci_high", "n", "paper", "verdict", "record")
_FOOTER = "Means over n training seeds at the last step; brackets: 95 % t-interval."


def write_sweep(folder: Path, found: Found, swept: Mapping[str, str]) -> str:
    """Write ``<task>.csv``, ``.md`` and ``.tex`` of every task among the records, and return them as
    Markdown.

    The csv has every measurement and its mean over seeds. md and tex have the means at the last step, a row
    per combination, without curves.

    Args:
        folder: Where the files go.
        found: The records, and how many jobs have none.
        swept: What to call a swept value -> its config path (``{"lr": "training.run.lr"}``).
    """
    lacking = f"Of {found.jobs} jobs: {found.lacking}." if found.lacking else ""
    texts, footer = [], " ".join(filter(None, [_FOOTER, lacking, weights(found.records)]))
    for task in dict.fromkeys(r.task for r in found.records):
        rows = tidy(task, [r for r in found.records if r.task == task], swept)
        own = [str(c) for c in rows if c not in (*KEYS, *_MEASURED)]
        means = aggregate(rows, own)
        pivot = _pivot(rows, own, [c for c in own if c not in swept])
        same = {c: pivot[c].iloc[0] for c in pivot if c in (*KEYS, *own) and pivot[c].nunique() == 1}
        title = f"{task}: " + ", ".join(f"{c} {v}" for c, v in same.items() if v != "–")
        pivot = pivot.drop(columns=list(same))
        write_table(folder, task, title, pd.concat([rows, means], ignore_index=True), pivot, footer)
        texts.append(markdown(title, pivot, footer))
    return "\n".join(texts)


def _pivot(rows: pd.DataFrame, own: Sequence[str], measured: Sequence[str]) -> pd.DataFrame:
    """Means at each record's last step. Of the table's own columns, ``measured`` are those that jobs vary
    themselves."""
    final = rows[rows["step"].isna() | (rows["step"] == rows.groupby("record")["step"].transform("max"))]
    for column in measured:
        if pd.api.types.is_numeric_dtype(final[column]) and final[column].nunique() > MOST_VALUES_SHOWN:
            final = final[final[column].isna()]
    last = aggregate(final.assign(step=None), own)
    by = [c for c in (*KEYS, *own) if c not in ("table", "step", "metric") and last[c].notna().any()]
    lines = []
    for key, part in last.groupby(by, sort=False, dropna=False):
        line: dict[str, Any] = {
            column: "–" if value is None or value != value else value
            for column, value in zip(by, key, strict=True)
        }
        line["n"] = int(part["n"].max())
        for metric in part["metric"].unique():
            line[metric] = interval(*select(part, {"metric": metric})[["value", "ci_low", "ci_high"]].iloc[0])
        lines.append(line)
    return pd.DataFrame(lines).fillna("–")
