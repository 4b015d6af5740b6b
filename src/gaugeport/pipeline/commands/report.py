"""Write all tables, and one page with all of them."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from gaugeport.pipeline.commands.tables import choose, made, write_tables
from gaugeport.pipeline.job import job_id
from gaugeport.pipeline.paths import data_dir
from gaugeport.pipeline.report.page import Section, write_page


def write_report(profile: str, extra: Sequence[str]) -> Path:
    """Write every table that has records, and the page; return the page's path.

    Args:
        profile: The profile of the tables.
        extra: Overrides of every job.
    """
    chosen = choose([], profile, False, extra)
    tables = made(chosen)
    claims = write_tables(chosen, tables)
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
    for specs in chosen.jobs.values():
        for spec in specs:
            commands.setdefault(job_id(spec.job), shlex.join(["./run.sh", "run", *spec.overrides]))
    folder = chosen.outputs / "report" / chosen.variant
    return write_page(folder / "index.html", claims, sections, commands, chosen.outputs)
