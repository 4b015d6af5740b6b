"""Tables from records: csv, md, tex and figure of one table, and the summary ``claims`` over all of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from gaugeport.paths import experiment_module
from gaugeport.records import Record
from gaugeport.report import figures
from gaugeport.report.claims import load_claims
from gaugeport.report.render import interval, markdown, write_table


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
    judged = pd.concat([_judged(outputs, t, profile) for t in dict.fromkeys(c.table for c in load_claims())])
    lines, rows = [], []
    for claim in load_claims():
        mine = judged[judged["metric"] == claim.id] if len(judged) else judged
        found = mine.iloc[0].to_dict() if len(mine) else {"verdict": "not run", "n": 0, "profile": profile}
        rows.append({"table": claim.table, **found, "metric": claim.id, "claim": claim.claim})
        lines.append(
            {
                "table": claim.table,
                "claim": claim.claim,
                "paper": claim.quote,
                "paper, as a difference": "–" if claim.paper is None else f"{claim.paper:.3f}",
                "ours": interval(*(found.get(k, float("nan")) for k in ("value", "ci_low", "ci_high"))),
                "n": int(found["n"]),
                "verdict": found["verdict"],
            }
        )
    pivot = pd.DataFrame(lines)
    title = f"claims ({profile} profile; ours: mean difference, 95 % t-interval over n training seeds)"
    write_table(outputs / "tables", "claims", title, pd.DataFrame(rows), pivot, "")
    return markdown(title, pivot)


def _judged(outputs: Path, table: str, profile: str) -> pd.DataFrame:
    path = outputs / "tables" / f"{table}.csv"
    if not path.exists():
        return pd.DataFrame()
    frame = pd.read_csv(path)
    return frame[frame["verdict"].notna() & (frame["profile"] == profile)]
