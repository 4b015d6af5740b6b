"""``gaugeport status``: what is done, failed and missing, and what the store holds."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from gaugeport.pipeline.commands.tables import choose
from gaugeport.pipeline.config.compose import JobSpec, compose_config
from gaugeport.pipeline.config.sweeps import sweep_jobs
from gaugeport.pipeline.execution.status import size, status_of, store_sizes


def status_text(what: Sequence[str], profile: str, extra: Sequence[str]) -> str:
    """The status of some tables and sweeps, or of all there are. Raises ``ValueError`` for one that is not there."""
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
        except (
            ValueError,
            FileNotFoundError,
        ) as e:  # its files are gone, it was another version's, or it is damaged
            failures.append(f"{name} cannot be read: {e}")
    for name, found in jobs.items():
        s = status_of(found)
        lines.append(
            (name, s.done + len(s.failed) + s.missing, s.done, len(s.failed), s.missing, s.unreadable)
        )
        failures += [
            f"FAILED {f['job']}\n  {f['failed']}: {f['error']}\n  again: {f['command']}" for f in s.failed
        ]
    columns = ["table or sweep", "jobs", "done", "failed", "missing", "records left out"]
    text = pd.DataFrame(lines, columns=columns).to_markdown(index=False)
    kinds = store_sizes(outputs / "store")
    held = [f"{kind} {n} ({size(used)})" for kind, (n, used) in kinds.items()]
    total = sum(used for _, used in kinds.values())
    return "\n".join([text, *dict.fromkeys(failures), f"store: {size(total)}: {', '.join(held) or 'empty'}"])
