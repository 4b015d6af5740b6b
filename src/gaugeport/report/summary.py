"""What a single job prints when it is done."""

from __future__ import annotations

from gaugeport.records import Record
from gaugeport.report.render import markdown
from gaugeport.report.tidy import tidy


def summary(record: Record) -> str:
    """The job's measurements at their last step, as a Markdown table."""
    frame = tidy(record.task, [record])
    if frame["step"].notna().any():
        frame = frame[frame["step"].isna() | (frame["step"] == frame["step"].max())]
    frame = frame.dropna(axis=1, how="all").drop(columns=["table"])
    return markdown(
        f"{record.task} {record.id} ({record.seconds:.0f} s)",
        frame.map(lambda v: f"{v:.4g}" if isinstance(v, float) else v),
    )
