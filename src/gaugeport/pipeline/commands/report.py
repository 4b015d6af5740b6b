"""``gaugeport report``: the tables, and one page with all of them."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from gaugeport.pipeline.commands.tables import choose, made, write_tables
from gaugeport.pipeline.job import job_id
from gaugeport.pipeline.paths import data_dir
from gaugeport.pipeline.report.page import Section, write_page
from gaugeport.pipeline.report.tables import claims_table


def write_report(profile: str, extra: Sequence[str]) -> Path:
    """Write every table that has records, and the page; returns the page."""
    chosen = choose([], profile, False, extra)
    tables = made(chosen)
    for _ in write_tables(chosen, tables, ()):
        pass
    sections = [
        Section(
            table,
            table.files(chosen.outputs, chosen.variant)[-1],
            f"./run.sh tables {i} {chosen.options}".strip(),
            (data_dir("conf") / "experiment" / f"{table.name}.yaml").read_text(),
            chosen.found(i).records,
        )
        for i, table in tables.items()
    ]
    commands: dict[str, str] = {}
    for c in (c for jobs in chosen.jobs.values() for c in jobs):
        commands.setdefault(job_id(c.job), shlex.join(["./run.sh", "run", *c.overrides]))
    folder = chosen.outputs / "report" / chosen.variant
    return write_page(
        folder / "index.html", claims_table(tables, profile), sections, commands, chosen.outputs
    )
