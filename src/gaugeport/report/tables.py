"""Tables from records: csv, md, tex and figure of one table, and the summary ``claims`` over all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from gaugeport.paths import experiment_module
from gaugeport.records import Record
from gaugeport.report import figures
from gaugeport.report.claims import load_claims
from gaugeport.report.render import interval, markdown, write_table
from gaugeport.report.tidy import COLUMNS

INTERVALS = (
    "Brackets: 95 % t-interval over n seeds, not clipped to what a share can be; of no width where no seed varied."
)


def tabulate(name: str, records: Sequence[Record]) -> pd.DataFrame:
    """The tidy rows of a table, from its records."""
    return experiment_module(name).tabulate(records)


def write(name: str, table_id: str, tidy: pd.DataFrame, found: int, expected: int, outputs: Path, variant: str) -> str:
    """Write a table's csv, md, tex and figure, and return it as Markdown.

    ``found`` of ``expected`` declared jobs have a readable record; the footer says so where some are missing. ``variant`` is the
    folder below ``tables/`` and ``figures/`` for anything but the default, so that a smaller run never replaces it.
    """
    module = experiment_module(name)
    pivot = module.pivot(tidy)
    footer = INTERVALS
    if found < expected:
        footer += f" {found} of {expected} declared jobs have a readable record; `gaugeport tables {table_id}` runs the others."
    write_table(outputs / "tables" / variant, table_id, module.TITLE, tidy, pivot, footer)
    figures.save(module.plot(tidy), outputs / "figures" / variant / f"{table_id}.png")
    return markdown(module.TITLE, pivot, footer)


def write_claims(
    tables: Mapping[str, pd.DataFrame], profile: str, outputs: Path, variant: str, shown: Sequence[str]
) -> str:
    """Write the ``claims`` table, a row per declared claim, the paper's figure beside ours; return the rows ``shown``.

    ``tables`` maps table ids to their tidy rows; a claim of a table that is not there was not run. ``shown`` are table ids.
    """
    lines, rows = [], []
    for claim in load_claims():
        table = tables.get(claim.table, pd.DataFrame(columns=["metric"]))
        mine = table[table["metric"] == claim.id].to_dict("records")
        found: dict[str, Any] = {**_NOT_RUN, "profile": profile, **(mine[0] if mine else {})}  # type: ignore[dict-item]
        rows.append({**found, "table": claim.table, "metric": claim.id, "claim": claim.claim})
        sides = f"{found['left']:.3g}" + ("" if claim.right is None else f" vs {found['right']:.3g}")
        lines.append(
            {
                "table": claim.table,
                "claim": claim.claim,
                "paper": claim.quote,
                "paper's difference": "–" if claim.paper is None else f"{claim.paper:.3f}",
                "ours": "–" if pd.isna(found["left"]) else sides,
                "difference": interval(found["value"], found["ci_low"], found["ci_high"]),
                "n": int(found["n"]),
                "verdict": found["verdict"],
            }
        )
    pivot = pd.DataFrame(lines)
    title = f"claims ({profile} profile; ours: means over n training seeds, and their paired difference)"
    tidy = pd.DataFrame(rows).reindex(columns=[*COLUMNS, "claim", "left", "right"])
    write_table(outputs / "tables" / variant, "claims", title, tidy, pivot, INTERVALS)
    return markdown(title, pivot[pivot["table"].isin(shown)], INTERVALS)


_NOT_RUN = {
    **dict.fromkeys(("value", "ci_low", "ci_high", "left", "right"), float("nan")),
    "n": 0,
    "verdict": "not run",
}
