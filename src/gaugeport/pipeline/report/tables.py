"""Make tables from records, write them, and gather the claims of all of them in one table."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import pandas as pd

from gaugeport.pipeline.paths import experiment_module
from gaugeport.pipeline.report import figures
from gaugeport.pipeline.report.claims import Claim, load_claims
from gaugeport.pipeline.report.forked import map_forked
from gaugeport.pipeline.report.narrow import Narrow, shorten
from gaugeport.pipeline.report.render import interval, markdown, write_table
from gaugeport.pipeline.report.tidy import COLUMNS, ONE_BASE, shares_a_base, weights
from gaugeport.pipeline.report.verdicts import VERDICTS
from gaugeport.pipeline.store.records import Found

INTERVALS = (
    "Brackets: 95 % intervals over n training seeds, Student's (not clipped to what a share can be), of "
    "correlations Fisher's. No brackets: one seed, or all alike."
)


@dataclass(frozen=True)
class Table:
    """Hold one table of an experiment.

    Attributes:
        id: ``a5``. ``name``: its module in ``experiments/`` and its file in ``conf/experiment/``.
        title: One line. ``caption``: sentences that explain the narrow form; ``details``: those that only the
            wide form needs; ``footer``: what stands below both.
        one_base: Whether its seeds are runs from one fetched base model.
        tidy: Every measurement, the means over seeds and the judged claims, one a row: the csv.
        pivot: The wide form, text: everything that was measured.
        summary: The narrow form, text: the paper's rows and columns, its figure beside ours.
    """

    id: str
    name: str
    title: str
    tidy: pd.DataFrame
    pivot: pd.DataFrame
    summary: pd.DataFrame
    footer: str
    caption: str = ""
    details: str = ""
    one_base: bool = False

    def files(self, outputs: Path, variant: str) -> list[Path]:
        """Return where :func:`write` puts the csv, md, tex and figure.

        ``variant`` is a folder for anything but the default profile, so that a smaller run never replaces it.
        """
        tables = [outputs / "tables" / variant / f"{self.id}.{kind}" for kind in ("csv", "md", "tex")]
        return [*tables, outputs / "figures" / variant / f"{self.id}.png"]


def make(table_id: str, name: str, found: Found, options: str = "") -> Table:
    """Make the table of an experiment from its records.

    Args:
        table_id: The table's id.
        name: Its module in ``experiments/``, which defines ``TITLE``, ``tabulate``, ``pivot`` and ``plot``,
            and may define ``CAPTION``, ``DETAILS`` and the narrow form as ``summary`` or ``SUMMARY``.
        found: Its records, and how many jobs have none.
        options: Options of the command that runs the missing jobs.
    """
    module = experiment_module(name)
    tidy = module.tabulate(found.records)
    pivot = module.pivot(tidy)
    if hasattr(module, "summary"):
        summary = shorten(module.summary(pivot))
    else:
        summary = getattr(module, "SUMMARY", Narrow())(pivot)
    caption, details = getattr(module, "CAPTION", ""), getattr(module, "DETAILS", "")
    summary, seeds = without_constant_n(summary)
    footer = seeds + " ".join(filter(None, [footer_of(table_id, found, options), weights(found.records)]))
    one_base = shares_a_base(found.records)
    return Table(table_id, name, module.TITLE, tidy, pivot, summary, footer, caption, details, one_base)


def without_constant_n(summary: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """Return a narrow table without its column n where that never varies, and a sentence that says n."""
    if "n" not in summary or len(summary) < 2:
        return summary, ""
    counts = sorted(set(summary["n"]) - {"–"})
    return (summary.drop(columns="n"), f"n = {counts[0]}. ") if len(counts) == 1 else (summary, "")


def narrow_text(table: Table) -> str:
    """Return the narrow form as Markdown: what the md file has and ``gaugeport tables`` prints."""
    return markdown(table.title, table.summary, table.footer, table.caption)


def wide_text(table: Table) -> str:
    """Return the wide form as Markdown: everything that was measured."""
    caption = " ".join(part for part in (table.caption, table.details) if part)
    return markdown(table.title, table.pivot, table.footer, caption)


def write(table: Table, outputs: Path, variant: str) -> str:
    """Write a table's csv, md, tex and figure, and return its narrow form as Markdown.

    A figure that was drawn from the same csv by the same code stays as it is.
    """
    path, *_, figure = table.files(outputs, variant)
    csv = write_table(
        path.parent, table.id, table.title, table.tidy, table.summary, table.footer, table.caption
    )
    source = _figure_source(table.name, csv)
    if figures.source_of(figure) != source:
        figures.save(experiment_module(table.name).plot(table.tidy), figure, source)
    return narrow_text(table)


def make_all(requests: Sequence[tuple[str, str, Found, str]]) -> list[Table]:
    """Return :func:`make` of many arguments, in several processes, those with most rows first."""
    order = sorted(range(len(requests)), key=lambda i: -sum(len(r.rows) for r in requests[i][2].records))
    tables = dict(zip(order, map_forked(make, [requests[i] for i in order]), strict=True))
    return [tables[i] for i in range(len(requests))]


def write_all(tables: Sequence[Table], outputs: Path, variant: str) -> list[str]:
    """Return :func:`write` of many tables, in several processes."""
    return map_forked(write, [(table, outputs, variant) for table in tables])


def _figure_source(name: str, csv: str) -> str:
    """Return a hash of what a figure is drawn from: csv, code of its table and of the report, matplotlib."""
    module = Path(str(experiment_module(name).__file__)).read_bytes()
    parts = (csv.encode(), module, _code(), matplotlib.__version__.encode())
    return hashlib.sha256(b"\0".join(parts)).hexdigest()


@functools.cache
def _code() -> bytes:
    return b"\0".join(path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py")))


def footer_of(table_id: str, found: Found, options: str = "") -> str:
    """Return the footer of a table: what its brackets are, and which of its jobs have no record."""
    if not found.lacking:
        return INTERVALS
    return (
        f"{INTERVALS} {len(found.records)} of {found.jobs} declared jobs have a readable record "
        f"({found.lacking}); `{f'gaugeport tables {table_id} {options}'.strip()}` runs the others."
    )


def claims_table(tables: Mapping[str, Table], profile: str, declared: Collection[str]) -> Table:
    """Return the ``claims`` table: a row per declared claim, the paper's figure beside ours.

    Args:
        tables: Tables by id; a claim of a table that is not among them was not run.
        profile: The profile of those tables.
        declared: The ids of the tables that the profile has; claims of others are left out.
    """
    lines, rows = [], []
    declared_claims = [claim for claim in load_claims() if claim.table in declared]
    for claim in declared_claims:
        tidy = tables[claim.table].tidy if claim.table in tables else pd.DataFrame(columns=["metric"])
        mine = tidy[tidy["metric"] == claim.id].to_dict("records")
        judged: dict[str, Any] = {**_NOT_RUN, "profile": profile, **(mine[0] if mine else {})}  # type: ignore[dict-item]
        rows.append({**judged, "table": claim.table, "metric": claim.id, "claim": claim.claim})
        lines.append(
            {
                "table": claim.table,
                "claim": claim.claim,
                "paper": claim.quote,
                "paper's difference": "–" if claim.paper is None else f"{claim.paper:.3f}",
                "ours": _sides(claim, judged),
                "difference": interval(judged["value"], judged["ci_low"], judged["ci_high"]),
                "n": int(judged["n"]),
                "declared": f"{claim.declared} results",
                "verdict": judged["verdict"],
            }
        )
    frame = pd.DataFrame(rows).reindex(columns=[*COLUMNS, "claim", "left", "right"])
    pivot = pd.DataFrame(lines)
    title = f"Claims at the {profile} profile"
    one_base = any(table.one_base for table in tables.values())
    return Table(
        "claims",
        "claims",
        title,
        frame,
        pivot,
        _short_claims(declared_claims, pivot),
        f"{INTERVALS} {ONE_BASE}" if one_base else INTERVALS,
        claims_caption(pivot["verdict"], one_base),
        CLAIMS_DETAILS,
        one_base,
    )


def claims_caption(verdicts: Iterable[str], one_base: bool) -> str:
    """Say what the claims' columns are, whether all seeds share a base, and what the verdicts mean."""
    used = {verdict.partition(" (")[0] for verdict in verdicts}
    legend = " ".join(f"{name.capitalize()}: {says}." for name, says in VERDICTS.items() if name in used)
    return f"Ours: means over training seeds. {f'{ONE_BASE} ' if one_base else ''}{legend}"


CLAIMS_DETAILS = "Difference: paired by training seed, left minus right."


def claims_text(claims: Table, shown: Sequence[str]) -> str:
    """Return the short claims of the tables ``shown`` (ids) as Markdown, at most 100 columns; "" if none."""
    rows = claims.summary[claims.summary["claim"].str.split().str[0].isin(shown)]
    rows = rows[rows["verdict"] != "not run"]
    if not len(rows):
        return ""
    return markdown(claims.title, rows, caption=claims_caption(rows["verdict"], claims.one_base))


def write_claims(claims: Table, outputs: Path, variant: str, shown: Sequence[str]) -> str:
    """Write every claim in full, and return the short ones of the tables ``shown`` (ids) as Markdown."""
    caption = f"{claims.caption} {claims.details}"
    folder = outputs / "tables" / variant
    write_table(folder, claims.id, claims.title, claims.tidy, claims.pivot, claims.footer, caption)
    return claims_text(claims, shown)


def _short_claims(claims: Sequence[Claim], pivot: pd.DataFrame) -> pd.DataFrame:
    """Return ``claim | paper | ours | verdict`` of the claims that have a short form.

    ``claims`` and the rows of ``pivot`` are in one order.
    """
    lines = []
    for claim, row in zip(claims, pivot.to_dict("records"), strict=True):
        if not claim.short:
            continue
        paper = claim.short_quote or claim.quote.replace("not in the papers", "not in papers")
        verdict = str(row["verdict"]).partition(" (")[0]
        line = {"claim": f"{claim.table} {claim.short}", "paper": paper, "ours": row["ours"]}
        lines.append({**line, "verdict": verdict})
    return pd.DataFrame(lines, columns=["claim", "paper", "ours", "verdict"])


def _sides(claim: Claim, judged: Mapping[str, Any]) -> str:
    if pd.isna(judged["left"]):
        return "–"
    return f"{judged['left']:.3g}" + ("" if claim.right is None else f" vs {judged['right']:.3g}")


_NOT_RUN = {
    **dict.fromkeys(("value", "ci_low", "ci_high", "left", "right"), float("nan")),
    "n": 0,
    "verdict": "not run",
}
