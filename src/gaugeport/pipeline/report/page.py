"""Write one self-contained HTML page of claims, sortable tables and figures; it works from disk."""

from __future__ import annotations

import base64
import json
import os
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from gaugeport.pipeline.report.conditions import with_conditions
from gaugeport.pipeline.report.render import plain
from gaugeport.pipeline.report.tables import Table
from gaugeport.pipeline.store.records import Record
from gaugeport.utils.files import write_text


@dataclass(frozen=True)
class Section:
    """Hold one table of the page.

    Attributes:
        table: The table. ``figure``: its PNG. ``command``: what makes it. ``config``: the text of its config
            file.
        records: The records it is made of.
    """

    table: Table
    figure: Path
    command: str
    config: str
    records: Sequence[Record]


def write_page(
    path: Path, claims: Table, sections: Sequence[Section], commands: Mapping[str, str], outputs: Path
) -> Path:
    """Write the page atomically. The same records give the same bytes.

    Args:
        path: The page.
        claims: The table of claims.
        sections: The other tables.
        commands: Job id -> the command that runs it.
        outputs: The folder of the records, which the page links to.

    Returns:
        The path.
    """
    records = {r.id: r for section in sections for r in section.records}
    environment = Environment(
        loader=PackageLoader("gaugeport.pipeline.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    environment.tests["figure"] = lambda text: text.lstrip("-")[:1].isdigit() and len(text) < 32
    text = environment.get_template("page.html").render(
        claims=grid(claims.pivot),
        claims_title=f"{claims.title}. {claims.caption} {claims.details}",
        claims_footer=claims.footer,
        verdicts=Counter(claims.pivot["verdict"].str.replace(r" \(.*", "", regex=True)).most_common(),
        sections=[_section(section) for section in sections],
        versions=_versions(records.values()),
        timings=_timings(records.values()),
        n_records=len(records),
        data=Markup(
            _json(
                {
                    "records": _records(records, commands),
                    "folder": _relative(outputs / "records", path.parent),
                }
            )
        ),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, text)
    return path


def grid(pivot: pd.DataFrame, behind: Sequence[Sequence[str]] | None = None) -> dict[str, Any]:
    """Return a pivot as the template expects it: columns, and rows of cells with the ids of their records.

    ``behind`` has the ids of each row; without it rows link to no records.
    """
    rows = [[plain(value) for value in row] for row in pivot.itertuples(index=False)]
    ids = behind if behind is not None else [()] * len(rows)
    return {
        "columns": [str(c) for c in pivot.columns],
        "rows": list(zip(rows, ids, strict=True)),
        "linked": behind is not None,
    }


def records_behind(pivot: pd.DataFrame, tidy: pd.DataFrame) -> list[list[str]]:
    """Return, for each row of a pivot, the ids of the records whose measurements it shows.

    Those are the records that agree with the row in every column that both have and that tells some of them
    apart. A condition's name stands for its group, matcher and route.
    """
    rows = tidy[tidy["record"].notna()]
    rows = with_conditions(rows) if "condition" in pivot else rows
    shared = [c for c in pivot.columns if c in rows and c not in _MEASURED]
    keys = rows[[*shared, *({"seed"} - set(shared)), "record"]].drop_duplicates()
    texts = {c: keys[c].map(_key) for c in shared}
    ids = []
    for _, row in pivot.iterrows():
        mask = pd.Series(True, index=keys.index)
        for c in shared:
            agreeing = mask & (texts[c] == _key(row[c]))
            mask = agreeing if agreeing.any() else mask
        ids.append(list(keys[mask].sort_values(["seed", "record"])["record"].unique()))
    return ids


_MEASURED = ("n", "value", "ci_low", "ci_high", "paper", "verdict", "theory", "metric", "step", "record")


def _key(value: Any) -> str:
    missing = value is None or value == "–" or (isinstance(value, float) and pd.isna(value))
    return "–" if missing else plain(value)


def _section(section: Section) -> dict[str, Any]:
    table = section.table
    return {
        "id": table.id,
        "name": table.name,
        "title": table.title.removeprefix(f"{table.id} "),
        "caption": " ".join(part for part in (table.caption, table.details) if part),
        "grid": grid(table.pivot, records_behind(table.pivot, table.tidy)),
        "footer": table.footer,
        "figure": base64.b64encode(section.figure.read_bytes()).decode(),
        "command": section.command,
        "config": section.config,
        "jobs": len(section.records),
        "minutes": sum(r.seconds for r in section.records) / 60,
    }


def _records(records: Mapping[str, Record], commands: Mapping[str, str]) -> dict[str, Any]:
    """Return what the page shows of each record: what all configs share (``common``), and what differs."""
    flat = {i: _flat(r.config) for i, r in records.items()}
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for config in flat.values():
        for key, value in config.items():
            counts[key][_json(value)] += 1
    common = {key: json.loads(values.most_common(1)[0][0]) for key, values in counts.items()}
    each = {
        i: {
            "label": f"{r.task}, {r.config['model']['name']}, seed {r.config['seed']}",
            "command": commands.get(i, ""),
            "seconds": r.seconds,
            "versions": r.versions,
            "files": r.files,
            "config": {k: v for k, v in flat[i].items() if v != common[k]},
            "lacks": sorted(k for k in common if k not in flat[i]),  # other tasks' options
        }
        for i, r in sorted(records.items())
    }
    return {"common": common, "each": each}


def _versions(records: Any) -> list[dict[str, Any]]:
    versions = Counter(json.dumps(r.versions, sort_keys=True) for r in records)
    return [{"records": n, **json.loads(v)} for v, n in sorted(versions.items())]


def _timings(records: Any) -> list[dict[str, Any]]:
    seconds: dict[str, list[float]] = defaultdict(list)
    for r in records:
        seconds[r.task].append(r.seconds)
    return [
        {
            "task": task,
            "jobs": len(s),
            "median s": f"{pd.Series(s).median():.1f}",
            "total min": f"{sum(s) / 60:.1f}",
        }
        for task, s in sorted(seconds.items())
    ]


def _flat(node: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(node, dict):
        return {prefix: node}
    return {
        k: v
        for name, child in node.items()
        for k, v in _flat(child, f"{prefix}.{name}" if prefix else name).items()
    }


def _json(data: Any) -> str:
    return json.dumps(data, sort_keys=True, separators=(",", ":")).replace("<", "\\u003c")


def _relative(target: Path, start: Path) -> str:
    return os.path.relpath(target.resolve(), start.resolve())
