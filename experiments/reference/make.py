"""Keep the results of ``gaugeport tables``: ``python experiments/reference/make.py [real | toy]``.

Writes into the profile's folder: every record (``records.jsonl.xz``); of every table its means and verdicts
(csv, compressed where long), its narrow form (md) and its figure; the claims; how long things take
(``timings.json``); what made all that (``README.md``). It also writes the claims into the project's README.
``make.py [real | toy] render`` writes the texts once more, from the kept records.

A mini run is kept whole. The others take many hours, in parts: new records join those kept before. Of toy the
trained models are kept too, and the newest checkpoint of those in training. ``make.py [real | toy] unpack``
puts all that is kept back into this checkout's outputs, to go on from.
"""

from __future__ import annotations

import dataclasses
import json
import lzma
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

import pandas as pd

from gaugeport.pipeline.commands.tables import Chosen, choose, made, write_tables
from gaugeport.pipeline.config.experiments import tables_of
from gaugeport.pipeline.execution.timings import Timings, clock, shapes
from gaugeport.pipeline.job import Job, job_id
from gaugeport.pipeline.report.claims import load_claims
from gaugeport.pipeline.report.render import FLOAT
from gaugeport.pipeline.report.tables import Table, claims_table, claims_text, narrow_text, wide_text
from gaugeport.pipeline.stages.catalogue import STAGES
from gaugeport.pipeline.stages.kept_toys import keep_toys, restore_toys
from gaugeport.pipeline.store.records import Record, write_record
from gaugeport.pipeline.store.store import Store, digest
from gaugeport.pipeline.tasks.registry import stage_keys
from gaugeport.utils.files import write_text

HERE = Path(__file__).resolve().parent
PROFILES = ("mini", "real", "toy")
ARCHIVE = "records.jsonl.xz"
TRIALS = "trials.json"
"""The toy's trials of labels and learning rates: measured once, and not by ``gaugeport tables``."""
MOST_ROWS = 8_000
"""A csv of more rows than this is compressed: it is no longer read by eye."""
PROJECT_README = HERE.parent.parent / "README.md"


def marks(profile: str) -> tuple[str, str]:
    """Return the lines of the project's README between which the claims of a profile stand."""
    return (
        f"<!-- claims of {profile}: written by experiments/reference/make.py -->\n",
        "<!-- end of claims -->",
    )


def main(arguments: Sequence[str]) -> None:
    """Keep the outputs of this checkout, ``render`` what is kept once more, or ``unpack`` it."""
    profile = arguments[0] if arguments and arguments[0] in PROFILES else "mini"
    rest = list(arguments[1:] if profile in arguments else arguments)
    if rest not in ([], ["render"], ["unpack"]):
        raise SystemExit(f"expected [{' | '.join(PROFILES)}] [render | unpack], got {' '.join(arguments)}")
    if rest == ["unpack"]:
        return unpack_all(choose([], profile, False, ["tracker=none"]))
    if not rest:
        return keep(profile)
    with tempfile.TemporaryDirectory() as folder:
        unpack(HERE / profile / ARCHIVE, Path(folder))
        render(made(choose([], profile, False, ["tracker=none", f"paths.outputs={folder}"])), profile)


def keep(profile: str) -> None:
    """Make the reference of a profile from the outputs of this checkout.

    Raises:
        ValueError: The profile is mini and jobs are missing.
    """
    folder, chosen = HERE / profile, choose([], profile, False, ["tracker=none"])
    if profile != "mini":
        unpack_all(chosen)
    if profile == "toy":
        say(keep_toys(jobs_of(chosen), Store(chosen.outputs / "store"), folder))
    kept = {i: records_of(chosen, i, whole=profile == "mini") for i in chosen.jobs}
    records = {r.id: r for those in kept.values() for r in those}
    if not records:
        return say([f"no table of profile {profile} has a record yet"])
    tables = made(chosen)
    timings = Timings.recorded(chosen.outputs)  # the kept ones are read before they are replaced
    write_tables(chosen, tables)
    clear(folder)
    write_archive(folder / ARCHIVE, list(records.values()))
    for table in tables.values():
        shutil.copy(table.files(chosen.outputs, chosen.variant)[-1], folder)
    render(tables, profile)
    jobs = jobs_of(chosen)
    write_timings(folder, timings, [*stages_of(jobs), *(r.config for r in records.values())])
    stages = stages_of([job for job in jobs if job_id(job) in records])
    took = sum(timings.of(stage) or 0.0 for stage in stages)
    write_text(folder / "README.md", about(chosen, len(tables), list(records.values()), len(stages), took))


def clear(folder: Path) -> None:
    """Remove what ``keep`` writes again; kept models have folders of their own."""
    folder.mkdir(exist_ok=True)
    for path in folder.iterdir():
        if path.is_file() and path.name != TRIALS:
            path.unlink()


def render(tables: Mapping[str, Table], profile: str) -> None:
    """Write what is text: csv and md of every table, the claims, those in the project's README, and
    FINDINGS.md."""
    claims, folder = claims_table(tables, profile, tables_of(profile)), HERE / profile
    for table in tables.values():
        for stale in folder.glob(f"{table.id}.csv*"):  # it may have been short, or long, before
            stale.unlink()
        write_means(means_path(folder, table), table.tidy)
        write_text(folder / f"{table.id}.md", narrow_text(table))
    write_means(folder / "claims.csv", claims.tidy)
    write_text(folder / "claims.md", wide_text(claims))
    write_readme(claims, profile)
    subprocess.run([sys.executable, str(HERE.parent / "findings.py")], check=True)


def records_of(chosen: Chosen, table_id: str, whole: bool) -> list[Record]:
    """Return the records of a table. Raises ``ValueError`` where one of a ``whole`` run is missing."""
    read = chosen.found(table_id)
    if whole and read.lacking:
        raise ValueError(f"{table_id} lacks records ({read.lacking}): `./run.sh all` first")
    return read.records


def write_archive(path: Path, records: Sequence[Record]) -> None:
    """Write all records, one a line, in the order of their ids; the same records give the same bytes."""
    lines = [json.dumps(asdict(r), sort_keys=True) for r in sorted(records, key=lambda r: r.id)]
    path.write_bytes(lzma.compress("\n".join(lines).encode(), preset=9))


def unpack(path: Path, outputs: Path) -> None:
    """Write the records of an archive below ``outputs``, where jobs leave theirs."""
    for line in lzma.decompress(path.read_bytes()).decode().splitlines():
        write_record(outputs / "records", Record(**json.loads(line)))


def unpack_all(chosen: Chosen) -> None:
    """Write all that is kept of a profile where its jobs look for it, unless there is more there already."""
    folder = HERE / chosen.profile
    if (folder / ARCHIVE).exists():
        unpack(folder / ARCHIVE, chosen.outputs)
    if chosen.profile == "toy":
        say(restore_toys(jobs_of(chosen), Store(chosen.outputs / "store"), folder))


def jobs_of(chosen: Chosen) -> list[Job]:
    """Return every job of some tables."""
    return [spec.job for specs in chosen.jobs.values() for spec in specs]


def say(lines: Sequence[str]) -> None:
    """Print lines."""
    for line in lines:
        print(line)


def means(tidy: pd.DataFrame) -> pd.DataFrame:
    """Return the rows that the reference keeps: means over seeds, and verdicts. The others are in the
    records."""
    return tidy[tidy["seed"].isna()].drop(columns=["seed", "record"], errors="ignore").reset_index(drop=True)


def means_path(folder: Path, table: Table) -> Path:
    """Return the file of a table's means: one of thousands of rows (c5) is compressed."""
    return folder / f"{table.id}.csv{'.xz' if len(means(table.tidy)) > MOST_ROWS else ''}"


def write_means(path: Path, tidy: pd.DataFrame) -> None:
    """Write the means and verdicts of a table as csv."""
    means(tidy).to_csv(path, index=False, float_format=FLOAT, lineterminator="\n")


def stages_of(jobs: Iterable[Job]) -> list[dict[str, Any]]:
    """Return the configs of the stages that some jobs require, each once."""
    stages = {}
    for job in jobs:
        for stage, config in stage_keys(job).items():
            one = {"kind": STAGES[stage].kind, **config}
            stages[digest(one)] = one
    return list(stages.values())


def write_timings(folder: Path, timings: Timings, configs: Sequence[Mapping[str, Any]]) -> None:
    """Write the median seconds of stages and jobs by what decides them, for estimates on other machines.

    What was not run here has the seconds that were kept before; what no table requires any more has none.
    """
    wanted = sorted({shape for config in configs for shape in shapes(config)})
    recorded = {shape: timings.seconds.get(shape) or timings.reference.get(shape) for shape in wanted}
    seconds = {shape: [round(median(s), 1)] for shape, s in recorded.items() if s}
    write_text(folder / "timings.json", json.dumps(seconds, indent=0) + "\n")


def about(chosen: Chosen, tables: int, records: Sequence[Record], stages: int, took: float) -> str:
    """Say what made the reference.

    Args:
        chosen: The declared tables and jobs.
        tables: How many tables the records make.
        records: All records.
        stages: How many stages they share.
        took: Seconds that those stages took.
    """

    def counted(what: str) -> str:
        counts = Counter(r.versions[what] for r in records)
        return ", ".join(f"`{name}` ({n})" for name, n in sorted(counts.items()))

    versions = {k: v for k, v in records[0].versions.items() if k not in ("commit", "machine", "gaugeport")}
    jobs, declared = sum(r.seconds for r in records), {job_id(s.job) for j in chosen.jobs.values() for s in j}
    which = "every seed and ablation" if len(records) == len(declared) else f"of {len(declared)} declared"
    again = f"gaugeport tables {chosen.table_options}".strip()
    return (
        f"# Results of the profile {chosen.profile}\n\n"
        f"Written by `experiments/reference/make.py`; `{again}` makes them again.\n\n"
        f"- {len(records)} jobs of {tables} tables, {which}: `{ARCHIVE}`. "
        "A test makes every table\n"
        "  from them and compares it with the csv here, which hold means over seeds and verdicts "
        "(the complete ones are 20 MB).\n"
        f"- Machines (jobs): {counted('machine')}.\n"
        f"- Versions: {', '.join(f'{k} {v}' for k, v in sorted(versions.items()))}.\n"
        f"- Commits that measured them (jobs): {counted('commit')}.\n"
        f"- Time of one process: jobs {clock(jobs)}, the stages they share "
        f"{clock(took)} ({stages} of them); two ran at a time, in parts, on a shared machine.\n"
    )


def readme_claims(claims: Table) -> str:
    """Return the table of the claims that could have failed, which the project's README shows."""
    could_fail = claims.summary["verdict"] != "by construction"
    shown = dataclasses.replace(claims, summary=claims.summary[could_fail])
    return claims_text(shown, [claim.table for claim in load_claims()])


def write_readme(claims: Table, profile: str) -> None:
    """Put the claims between their marks in the project's README, whatever stands around them."""
    begin, end = map(re.escape, marks(profile))
    block = marks(profile)[0] + readme_claims(claims) + marks(profile)[1]
    text = PROJECT_README.read_text()
    write_text(PROJECT_README, re.sub(f"{begin}.*?{end}", lambda _: block, text, flags=re.DOTALL))


if __name__ == "__main__":
    main(sys.argv[1:])
