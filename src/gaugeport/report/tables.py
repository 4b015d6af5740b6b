"""Tables from records: csv, md, tex and figure of one table, and the summary ``claims`` over all of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from gaugeport.paths import experiment_module
from gaugeport.records import Record
from gaugeport.report import figures
from gaugeport.report.claims import load_claims
from gaugeport.report.render import interval, markdown, write_table
from gaugeport.report.tidy import COLUMNS


def make_table(name: str, table_id: str, records: Sequence[Record], expected: int, outputs: Path) -> str:
    """Write a table's files from its records and return it as Markdown. ``expected`` jobs were declared."""
    module = experiment_module(name)
    tidy = module.tabulate(records)
    pivot = module.pivot(tidy)
    left_out = expected - len(records)
    footer = f"{len(records)} of {expected} jobs; {left_out} without a readable record." if left_out else ""
    write_table(outputs / "tables", table_id, module.TITLE, tidy, pivot, footer)
    figures.save(module.plot(tidy), outputs / "figures" / f"{table_id}.png")
    return markdown(module.TITLE, pivot, footer)


def make_claims(outputs: Path, profile: str) -> str:
    """Write and return the ``claims`` table: a row per declared claim, the paper's figure beside ours."""
    claims = load_claims()
    judged = pd.concat([_judged(outputs, table, profile) for table in dict.fromkeys(c.table for c in claims)])
    lines, rows = [], []
    for claim in claims:
        mine = judged[judged["metric"] == claim.id].to_dict("records") if len(judged) else []
        found: dict[str, Any] = {**_NOT_RUN, "profile": profile, **(mine[0] if mine else {})}  # type: ignore[dict-item]
        rows.append({**found, "table": claim.table, "metric": claim.id, "claim": claim.claim})
        lines.append(
            {
                "table": claim.table,
                "claim": claim.claim,
                "paper": claim.quote,
                "paper's difference": "–" if claim.paper is None else f"{claim.paper:.3f}",
                "ours": "–" if pd.isna(found["left"]) else f"{found['left']:.3g} vs {found['right']:.3g}",
                "difference": interval(found["value"], found["ci_low"], found["ci_high"]),
                "n": int(found["n"]),
                "verdict": found["verdict"],
            }
        )
    pivot = pd.DataFrame(lines)
    title = f"claims ({profile} profile; ours: means over n training seeds; 95 % t-interval of the paired difference)"
    tidy = pd.DataFrame(rows).reindex(columns=[*COLUMNS, "claim", "left", "right"])
    write_table(outputs / "tables", "claims", title, tidy, pivot, "")
    return markdown(title, pivot)


_NOT_RUN = {
    **dict.fromkeys(("value", "ci_low", "ci_high", "left", "right"), float("nan")),
    "n": 0,
    "verdict": "not run",
}


def _judged(outputs: Path, table: str, profile: str) -> pd.DataFrame:
    path = outputs / "tables" / f"{table}.csv"
    if not path.exists():
        return pd.DataFrame()
    frame = pd.read_csv(path)
    return frame[frame["verdict"].notna() & (frame["profile"] == profile)]
