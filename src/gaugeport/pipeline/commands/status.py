"""Say what is done, failed and missing, and what the store holds."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from gaugeport.pipeline.commands.tables import choose
from gaugeport.pipeline.config.compose import compose_config
from gaugeport.pipeline.config.sweeps import sweep_jobs
from gaugeport.pipeline.execution.status import size, status_of, store_sizes
from gaugeport.pipeline.job import JobSpec


def status_text(what: Sequence[str], profile: str, extra: Sequence[str]) -> str:
    """Return the status of some tables and sweeps, as text.

    Args:
        what: Tables and sweeps by name; all there are when empty.
        profile: The profile of the tables.
        extra: Overrides of every job.

    Raises:
        ValueError: There is no such table.
    """
    outputs = Path(compose_config(extra).paths.outputs)
    sweeps = {p.stem: p for p in sorted((outputs / "sweeps").glob("*.json"))}
    known = [name for name in what if name in sweeps]
    tables = [name for name in what if name not in sweeps]
    jobs: dict[str, list[JobSpec]] = {}
    if tables or not what:
        chosen = choose(tables, profile, False, extra)
        jobs = {f"{i} {chosen.experiments[i].name}": chosen.jobs[i] for i in chosen.wanted}
    lines, failures = [], []
    for name in known if what else sweeps:
        try:
            jobs[name] = sweep_jobs(json.loads(sweeps[name].read_text()))
        except (ValueError, FileNotFoundError) as e:
            # its files are gone, another version wrote it, or it is damaged
            failures.append(f"{name} cannot be read: {e}")
    for name, specs in jobs.items():
        status = status_of(specs)
        failed = len(status.failed)
        total = status.done + failed + status.missing
        lines.append((name, total, status.done, failed, status.missing, status.unreadable))
        for note in status.failed:
            failures.append(
                f"FAILED {note['job']}\n  {note['failed']}: {note['error']}\n  again: {note['command']}"
            )
    columns = ["table or sweep", "jobs", "done", "failed", "missing", "records left out"]
    text = pd.DataFrame(lines, columns=columns).to_markdown(index=False)
    kinds = store_sizes(outputs / "store")
    contents = ", ".join(f"{kind} {n} ({size(used)})" for kind, (n, used) in kinds.items()) or "empty"
    total_size = size(sum(used for _, used in kinds.values()))
    return "\n".join([text, *dict.fromkeys(failures), f"store: {total_size}: {contents}"])
