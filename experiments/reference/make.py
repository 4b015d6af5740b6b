"""Keep the results of a full mini run: python experiments/reference/make.py, after ./run.sh all.

Writes beside itself, into ``mini/``: every record (``records.jsonl.xz``), of every table its means and verdicts (csv), its
page (md) and figure, the claims, how long things take (``timings.json``), and what made all that (``README.md``); and the
claims into the project's README.
"""

from __future__ import annotations

import json
import lzma
import re
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

import pandas as pd

from gaugeport.pipeline.commands.tables import Chosen, choose, made, write_tables
from gaugeport.pipeline.execution.timings import Timings, clock, shapes
from gaugeport.pipeline.report.claims import load_claims
from gaugeport.pipeline.report.render import FLOAT
from gaugeport.pipeline.report.tables import Table, claims_table, claims_text
from gaugeport.pipeline.stages.catalogue import STAGES
from gaugeport.pipeline.store.records import Record, write_record
from gaugeport.pipeline.store.store import digest
from gaugeport.pipeline.tasks.registry import stage_keys
from gaugeport.utils.files import write_text

HERE = Path(__file__).resolve().parent
FOLDER = HERE / "mini"
PROJECT_README = HERE.parent.parent / "README.md"
MARKS = "<!-- claims: written by experiments/reference/make.py -->\n", "<!-- end of claims -->"


def main() -> None:
    """Make the reference from the outputs of this checkout. Raises ``ValueError`` where jobs are missing."""
    chosen = choose([], "mini", False, ["tracker=none"])
    records = {r.id: r for i in chosen.jobs for r in complete(chosen, i)}
    tables, timings = (
        made(chosen),
        Timings.recorded(chosen.outputs),
    )  # those kept are read before they are replaced
    for _ in write_tables(chosen, tables, ()):
        pass
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir()
    write_archive(FOLDER / "records.jsonl.xz", list(records.values()))
    for table in [*tables.values(), claims_table(tables, "mini")]:
        csv, md, _, figure = table.files(chosen.outputs, chosen.variant)
        write_means(FOLDER / csv.name, table.tidy)
        for file in (md, figure):
            if file.exists():
                shutil.copy(file, FOLDER)
    stages = stages_of(chosen)
    write_timings(timings, [*stages, *(r.config for r in records.values())])
    took = sum(timings.of(stage) or 0.0 for stage in stages)
    write_text(FOLDER / "README.md", about(list(records.values()), len(chosen.jobs), len(stages), took))
    write_readme(tables)


def complete(chosen: Chosen, table_id: str) -> list[Record]:
    """The records of a table, all of them."""
    found = chosen.found(table_id)
    if found.lacking:
        raise ValueError(f"{table_id} lacks records ({found.lacking}): `./run.sh all` first")
    return found.records


def write_archive(path: Path, records: Sequence[Record]) -> None:
    """All records, one a line, in the order of their ids; the same records give the same bytes."""
    lines = [json.dumps(asdict(r), sort_keys=True) for r in sorted(records, key=lambda r: r.id)]
    path.write_bytes(lzma.compress("\n".join(lines).encode(), preset=9))


def unpack(path: Path, outputs: Path) -> None:
    """Write the records of an archive below ``outputs``, where jobs leave theirs."""
    for line in lzma.decompress(path.read_bytes()).decode().splitlines():
        write_record(outputs / "records", Record(**json.loads(line)))


def means(tidy: pd.DataFrame) -> pd.DataFrame:
    """What the reference keeps of a table's rows: means over seeds, and verdicts. (The others are in the records.)"""
    return tidy[tidy["seed"].isna()].drop(columns=["seed", "record"], errors="ignore").reset_index(drop=True)


def write_means(path: Path, tidy: pd.DataFrame) -> None:
    """The means and verdicts of a table as csv."""
    means(tidy).to_csv(path, index=False, float_format=FLOAT, lineterminator="\n")


def stages_of(chosen: Chosen) -> list[dict[str, Any]]:
    """The stages that some tables stand on, each once, by what decides them."""
    found = {}
    for c in (c for jobs in chosen.jobs.values() for c in jobs):
        for stage, config in stage_keys(c.job).items():
            one = {"kind": STAGES[stage].kind, **config}
            found[digest(one)] = one
    return list(found.values())


def write_timings(timings: Timings, configs: Sequence[Mapping[str, Any]]) -> None:
    """The median seconds of stages and jobs by what decides them, for estimates on machines that recorded none.

    Of what was not run here, those that were kept before; of what no table has any more, none.
    """
    wanted = sorted({shape for config in configs for shape in shapes(config)})
    found = {shape: timings.seconds.get(shape) or timings.reference.get(shape) for shape in wanted}
    seconds = {shape: [round(median(s), 1)] for shape, s in found.items() if s}
    write_text(FOLDER / "timings.json", json.dumps(seconds, indent=0) + "\n")


def about(records: Sequence[Record], tables: int, stages: int, took: float) -> str:
    """What made the reference: machine, versions, commits, and how long its jobs and its ``stages`` took, in seconds."""

    def counted(what: str) -> str:
        found = Counter(r.versions[what] for r in records)
        return ", ".join(f"`{name}` ({n})" for name, n in sorted(found.items()))

    versions = {k: v for k, v in records[0].versions.items() if k not in ("commit", "machine", "gaugeport")}
    jobs = sum(r.seconds for r in records)
    return (
        "# A full mini run\n\nWritten by `experiments/reference/make.py`; regenerate the run with `./run.sh all`.\n\n"
        f"- {len(records)} jobs of {tables} tables, every seed and ablation: `records.jsonl.xz`. A test makes every table\n"
        "  from them and compares it with the csv here, which hold means over seeds and verdicts (the complete ones are 20 MB).\n"
        f"- Machines (jobs): {counted('machine')}.\n"
        f"- Versions: {', '.join(f'{k} {v}' for k, v in sorted(versions.items()))}.\n"
        f"- Commits that measured them (jobs): {counted('commit')}.\n"
        f"- Time of one process: jobs {clock(jobs)}, the stages they share "
        f"{clock(took)} ({stages} of them); two ran at a time, in parts, on a shared machine.\n"
    )


def readme_claims(claims: Table) -> str:
    """Return the table of claims that the project's README shows."""
    return claims_text(claims, [claim.table for claim in load_claims()])


def write_readme(tables: Mapping[str, Table]) -> None:
    """Put the claims between their marks in the project's README."""
    begin, end = map(re.escape, MARKS)
    block = MARKS[0] + readme_claims(claims_table(tables, "mini")) + MARKS[1]
    text = PROJECT_README.read_text()
    write_text(PROJECT_README, re.sub(f"{begin}.*{end}", lambda _: block, text, flags=re.DOTALL))


if __name__ == "__main__":
    main()
