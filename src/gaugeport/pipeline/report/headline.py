"""Read what ``experiments/headline.yaml`` declares, judge it on records, and show it on one screen."""

from __future__ import annotations

import functools
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd
import yaml

from gaugeport.pipeline.paths import data_dir, experiment_module
from gaugeport.pipeline.report.claims import Claim, load_claims
from gaugeport.pipeline.report.judged import claim_sides
from gaugeport.pipeline.report.narrow import WIDTH
from gaugeport.pipeline.store.records import Record


@dataclass(frozen=True)
class Group:
    """Claims of one model, run one after another.

    Attributes:
        id: What the group is called in the file of numbers.
        model: The name of its model.
        title: What is done with it, for a heading.
        profile: The profile of its jobs.
        fetched: Whether its model is fetched, which requires a package index.
    """

    id: str
    model: str
    title: str
    profile: str
    fetched: bool = False

    @property
    def heading(self) -> str:
        """The model and what is done with it."""
        return f"{self.model}, {self.title}"


@dataclass(frozen=True, eq=False)  # a claim holds dicts, which cannot be hashed
class Entry:
    """One claim of the headline.

    Attributes:
        claim: What is claimed, as in ``claims.yaml``.
        group: The group it belongs to.
        short: Its sentence, at most 41 characters.
        quote: What the paper says of it, in a few characters.
        unit: What is measured, and its unit.
        sides: What the left and the right side are.
        paper: The paper's figures of the two sides; None where it gives none.
        jobs: The jobs that it is judged on: a sweep a line, an override an item.
    """

    claim: Claim
    group: Group
    short: str
    quote: str
    unit: str
    sides: tuple[str, ...]
    paper: tuple[float | None, ...]
    jobs: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Result:
    """One claim of the headline as it was measured.

    Attributes:
        entry: The claim.
        values: The left side, and the right one if it has one.
        verdict: One of :data:`VERDICTS`, or why there is none.
        n: What was averaged over: planted gauges, training seeds.
    """

    entry: Entry
    values: tuple[float, ...]
    verdict: str
    n: str


VERDICTS = {
    "holds": "the direction is as claimed",
    "fails": "it is not",
    "by construction": "it could not have been otherwise",
    "void": "a setting that was chosen decides it",
    "no effect": "the direction itself acts less than five times as much as random ones, or its own error",
}
"""Verdict -> what it says. A headline has one model a claim: a direction, not a replication."""


def load_headline() -> list[Entry]:
    """Return the declared claims of the headline, group by group.

    Raises:
        ValueError: The file names a claim that ``claims.yaml`` does not have.
    """
    return list(_entries((data_dir("experiments") / "headline.yaml").read_text()))


@functools.cache
def _entries(text: str) -> tuple[Entry, ...]:
    claims = {claim.id: claim for claim in load_claims()}
    entries = []
    for node in yaml.safe_load(text):
        group = Group(**{k: v for k, v in node.items() if k != "claims"})
        for declared in node["claims"]:
            if declared["claim"] not in claims:
                raise ValueError(f"headline.yaml: there is no claim {declared['claim']!r} in claims.yaml")
            entries.append(_entry(claims[declared["claim"]], group, declared))
    return tuple(entries)


def _entry(claim: Claim, group: Group, declared: Mapping[str, Any]) -> Entry:
    sides = tuple(declared["sides"])
    return Entry(
        claim=claim,
        group=group,
        short=declared.get("short", claim.short),
        quote=declared.get("quote", claim.short_quote or claim.quote.replace("not in the papers", "–")),
        unit=declared["unit"],
        sides=sides,
        paper=tuple(declared.get("paper", (None,) * len(sides))),
        jobs=tuple(tuple(line.split()) for line in declared["jobs"]),
    )


def judge_entry(entry: Entry, table: str, records: Sequence[Record]) -> Result:
    """Judge one claim on the records of its jobs.

    Args:
        entry: The claim.
        table: The name of its table's module.
        records: The records of its jobs, all of them.
    """
    claim = _read_on(entry.claim, records[0])
    rows = experiment_module(table).tabulate(records)
    rows = rows[rows["seed"].notna()]
    both = claim_sides(claim, rows)
    if both.empty:
        if (rows.loc[rows["metric"] == "no_effect_to_transport", "value"] != 1).all():
            raise ValueError(f"headline.yaml: no measurement of its jobs is what {claim.id} is about")
        return Result(entry, (), "no effect", "")
    names = ("left",) if claim.right is None else ("left", "right")
    values = tuple(float(both[name].mean()) for name in names)
    beyond = float(both["difference"].mean()) - claim.null_value
    right = beyond > 0 if claim.direction == "greater" else beyond < 0
    verdict = "by construction" if claim.by_construction and right else "holds" if right else "fails"
    return Result(entry, values, "void" if claim.unjudged else verdict, _averaged_over(records, both))


def _read_on(claim: Claim, record: Record) -> Claim:
    """Return a claim as it is read on the model and target of a record, whichever it was declared for."""
    measured = {"model": record.config["model"]["name"], "target": record.config["task"].get("target")}
    return replace(claim, where={k: measured.get(k, v) for k, v in claim.where.items()})


def _averaged_over(records: Sequence[Record], both: pd.DataFrame) -> str:
    # of two runs |C| matching is the same under every plant; of a copy, what drops the signs is not
    copies = [r.config["task"] for r in records if "target" in r.config["task"]]
    plants = max((int(task.get("plants") or 1) for task in copies), default=1)
    over = f"{plants} plants" if plants > 1 else f"{len(both)} seed"
    return over if len(both) == 1 else f"{len(both)} seeds"


def claim_line(result: Result) -> str:
    """Return one claim as the line of the screen: claim, paper, ours, n, verdict."""
    entry = result.entry
    name = f"{entry.claim.table:<3} {entry.short}"
    return f"{name:<45} {entry.quote:<15} {_ours(result):<15} {result.n:<9} {result.verdict}".rstrip()


def _ours(result: Result) -> str:
    return " vs ".join(f"{v:.2g}" for v in result.values) or "–"


def claims_text(results: Sequence[Result], missing: Mapping[str, str]) -> str:
    """Return the claims group by group, at most 100 columns.

    Args:
        results: The claims that were measured.
        missing: Heading of a group -> why claims of it were not.
    """
    lines = [f"{'claim':<45} {'paper':<15} {'ours':<15} {'n':<9} verdict"]
    for heading in dict.fromkeys([*(r.entry.group.heading for r in results), *missing]):
        lines += ["", *textwrap.wrap(heading, WIDTH)]
        lines += [claim_line(r) for r in results if r.entry.group.heading == heading]
        lines += textwrap.wrap(
            missing.get(heading, ""), WIDTH, initial_indent="    ", subsequent_indent="    "
        )
    used = dict.fromkeys(r.verdict for r in results)
    legend = "; ".join(f"{verdict}: {VERDICTS[verdict]}" for verdict in used)
    note = "One model or one seed a claim: a direction, not a replication"
    return "\n".join([*lines, "", *textwrap.wrap(f"{note}. {legend[:1].upper()}{legend[1:]}.", WIDTH)])


def claims_frame(results: Sequence[Result]) -> pd.DataFrame:
    """Return every number of the headline, a side of a claim a row."""
    rows = []
    for r in results:
        for side, value, paper in zip(r.entry.sides, r.values, r.entry.paper, strict=False):
            rows.append(
                {
                    "claim": r.entry.claim.id,
                    "group": r.entry.group.id,
                    "side": side,
                    "unit": r.entry.unit,
                    "ours": value,
                    "paper": paper,
                    "n": r.n,
                    "verdict": r.verdict,
                }
            )
    return pd.DataFrame(rows)
