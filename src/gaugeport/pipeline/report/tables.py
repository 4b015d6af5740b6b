"""Tables from records: csv, md, tex and figure of one table, and the summary ``claims`` over all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from gaugeport.pipeline.paths import experiment_module
from gaugeport.pipeline.report import figures
from gaugeport.pipeline.report.claims import load_claims
from gaugeport.pipeline.report.render import interval, markdown, write_table
from gaugeport.pipeline.report.tidy import COLUMNS
from gaugeport.pipeline.store.records import Found

INTERVALS = "Brackets: 95 % t-interval over n seeds, not clipped to what a share can be; of no width where no seed varied."


@dataclass(frozen=True)
class Table:
    """One table of an experiment: its tidy rows, what of them is shown (``pivot``) under its ``title``, and a ``footer``."""

    id: str
    name: str
    title: str
    tidy: pd.DataFrame
    pivot: pd.DataFrame
    footer: str

    def files(self, outputs: Path, variant: str) -> list[Path]:
        """Where :func:`write` puts it: csv, md, tex and figure. ``variant`` is a folder for anything but the default, so
        that a smaller run never replaces it."""
        tables = [outputs / "tables" / variant / f"{self.id}.{kind}" for kind in ("csv", "md", "tex")]
        return [*tables, outputs / "figures" / variant / f"{self.id}.png"]


def make(table_id: str, name: str, found: Found, options: str = "") -> Table:
    """The table of an experiment, from its records. ``options`` are those of the command that runs what is missing."""
    module = experiment_module(name)
    tidy = module.tabulate(found.records)
    return Table(table_id, name, module.TITLE, tidy, module.pivot(tidy), footer_of(table_id, found, options))


def write(table: Table, outputs: Path, variant: str) -> str:
    """Write a table's csv, md, tex and figure, and return it as Markdown."""
    csv, *_, figure = table.files(outputs, variant)
    write_table(csv.parent, table.id, table.title, table.tidy, table.pivot, table.footer)
    figures.save(experiment_module(table.name).plot(table.tidy), figure)
    return markdown(table.title, table.pivot, table.footer)


def footer_of(table_id: str, found: Found, options: str = "") -> str:
    """What stands under a table: what its brackets are, and which of its jobs it lacks."""
    if not found.lacking:
        return INTERVALS
    return (
        f"{INTERVALS} {len(found.records)} of {found.jobs} declared jobs have a readable record ({found.lacking}); "
        f"`{f'gaugeport tables {table_id} {options}'.strip()}` runs the others."
    )


def claims_table(tables: Mapping[str, Table], profile: str) -> Table:
    """The ``claims`` table, a row per declared claim, the paper's figure beside ours.

    ``tables`` are those there are, by id; a claim of a table that is not there was not run.
    """
    lines, rows = [], []
    for claim in load_claims():
        tidy = tables[claim.table].tidy if claim.table in tables else pd.DataFrame(columns=["metric"])
        mine = tidy[tidy["metric"] == claim.id].to_dict("records")
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
    title = f"claims at the {profile} profile. Ours: means over n training seeds, and their paired difference"
    frame = pd.DataFrame(rows).reindex(columns=[*COLUMNS, "claim", "left", "right"])
    return Table("claims", "claims", title, frame, pd.DataFrame(lines), INTERVALS)


def write_claims(claims: Table, outputs: Path, variant: str, shown: Sequence[str]) -> str:
    """Write the ``claims`` table; return its rows of the tables ``shown``, by id, as Markdown: nothing where there are none."""
    write_table(
        outputs / "tables" / variant, claims.id, claims.title, claims.tidy, claims.pivot, claims.footer
    )
    rows = claims.pivot[claims.pivot["table"].isin(shown)]
    return markdown(claims.title, rows, claims.footer) if len(rows) else ""


_NOT_RUN = {
    **dict.fromkeys(("value", "ci_low", "ci_high", "left", "right"), float("nan")),
    "n": 0,
    "verdict": "not run",
}
