"""Show what came out of ``gaugeport tables`` on one screen: tables, claims, and where the files are."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence

from gaugeport.pipeline.commands.tables import Chosen
from gaugeport.pipeline.report.claims import load_claims
from gaugeport.pipeline.report.tables import INTERVALS, Table, claims_text, narrow_text, wide_text

WIDTH = 100
"""Columns of the screen."""

LINES = 60
"""Lines of the screen."""

LINES_OF_OTHER_CLAIMS = 20
"""At most so many lines for the claims that have no short form."""

LINES_KEPT_FREE = 8
"""Lines of the screen left for failures and for where the files are."""


def end_screen(
    chosen: Chosen, tables: Mapping[str, Table], claims: Table, named: bool, wide: bool = False
) -> str:
    """Return the screen that a run ends with.

    Args:
        chosen: The tables that were asked for.
        tables: Those that have records, by id.
        claims: The claims of all tables.
        named: Whether the tables were asked for by name: then they are printed too, as far as there is room.
        wide: Print everything that was measured, however many columns and lines that takes.
    """
    wanted = [tables[i] for i in chosen.wanted if i in tables]
    shown = claims_text(claims, chosen.wanted if named else list(chosen.experiments))
    if named:
        shown += _other_claims(claims, chosen.wanted)
    if wide:
        return "\n".join([*map(wide_text, wanted), shown, *_places(chosen, tables)])
    parts: list[str] = []
    notes: list[str] = []
    room = LINES - LINES_KEPT_FREE - shown.count("\n")
    for table in wanted if named else ():
        text = narrow_text(table)
        room -= text.count("\n") + 1
        if room >= 0 or not parts:  # the first is printed whatever its length
            parts.append(text)
        else:
            note = f"No room here for {table.id}: name it alone, or see its files. {_missing(table)}"
            notes += textwrap.wrap(note, WIDTH)
    if not named and (incomplete := [table.id for table in wanted if _missing(table)]):
        note = f"Made of part of their jobs (`gaugeport status`): {', '.join(incomplete)}"
        notes += textwrap.wrap(note, WIDTH)
    if notes:
        parts.append("\n".join(notes) + "\n")
    return "\n".join([*parts, shown, *_places(chosen, tables)])


def _missing(table: Table) -> str:
    """Return the sentence of a table's footer that says which of its jobs have no record, or ""."""
    return table.footer.partition(INTERVALS)[2].strip()


def _other_claims(claims: Table, table_ids: Sequence[str]) -> str:
    """Return the claims of some tables that have no short form, a paragraph each."""
    short = set(claims.summary["claim"])
    lines: list[str] = []
    declared = {claim.id: claim for claim in load_claims()}
    for claim_id, row in zip(claims.tidy["metric"], claims.pivot.to_dict("records"), strict=True):
        claim = declared[claim_id]
        if claim.table not in table_ids or f"{claim.table} {claim.short}" in short:
            continue
        text = f"{claim.table} {row['claim']}; paper: {row['paper']}; ours: {row['ours']}; {row['verdict']}"
        lines += textwrap.wrap(text, WIDTH, initial_indent="- ", subsequent_indent="  ")
    if len(lines) > LINES_OF_OTHER_CLAIMS:
        lines = [*lines[:LINES_OF_OTHER_CLAIMS], "- and more: claims.md"]
    return "\n" + "\n".join(lines) + "\n" if lines else ""


def _places(chosen: Chosen, tables: Mapping[str, Table]) -> Sequence[str]:
    """Return the lines that say which tables have no records, and where everything is."""
    lines = []
    without = [i for i in chosen.wanted if i not in tables]
    if without:
        command = f"gaugeport tables {' '.join(without)} {chosen.options}".strip()
        lines.append(f"no records of {', '.join(without)}: run `{command}`")
    page = chosen.outputs / "report" / chosen.variant / "index.html"
    report = f"gaugeport report {chosen.options}".strip()
    lines.append(f"tables   {chosen.outputs / 'tables' / chosen.variant}")
    lines.append(f"figures  {chosen.outputs / 'figures' / chosen.variant}")
    lines.append(f"report   {page}" if page.exists() else f"report   `{report}` writes {page}")
    return lines
