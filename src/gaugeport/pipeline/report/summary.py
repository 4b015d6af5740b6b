"""Show what a single job measured, when it is done."""

from __future__ import annotations

from typing import Any

import pandas as pd

from gaugeport.pipeline.report.render import markdown
from gaugeport.pipeline.report.tidy import tidy
from gaugeport.pipeline.store.records import Record


def summary(record: Record) -> str:
    """Return the job's measurements at their last step as a Markdown table.

    What all of them share stands in the caption.
    """
    frame = tidy(record.task, [record])
    if frame["step"].notna().any():
        frame = frame[frame["step"].isna() | (frame["step"] == frame["step"].max())]
    text = frame.dropna(axis=1, how="all").drop(columns=["table", "record"]).map(_text)
    shared = [c for c in text if c not in ("metric", "value") and text[c].nunique() == 1]
    facts = [f"{c} {text[c].iloc[0]}" for c in shared]
    facts += [f"{key} {file}" for key, file in record.files.items()]
    order = [*(c for c in text if c not in ("metric", "value")), "metric", "value"]
    shown = text[[c for c in order if c not in shared]]
    title = f"{record.task} {record.id} ({record.seconds:.0f} s)"
    caption = ", ".join(facts)
    return markdown(title, shown, caption=f"{caption[:1].upper()}{caption[1:]}.")


def _text(value: Any) -> Any:
    if pd.isna(value):
        return "–"
    return f"{value:.4g}" if isinstance(value, float) else value
