"""Render FINDINGS.md from findings.md.j2: python experiments/findings.py.

Every figure of ours comes from a kept table (``reference/mini``, ``real``, ``toy``), so that the text cannot
disagree with it. In the template a table's id is a function that selects rows by their columns (``real_c5``
and ``toy_b5`` those of other profiles):

- ``{{ a5(steered, metric="retention") }}`` is the value of the one row that matches, to two digits;
- ``.ci`` adds the 95 % interval, ``.range`` is the least to the most of several rows, ``.exponent`` is
  ``2.9e-3``, ``.value``, ``.low``, ``.high`` and ``.n`` are numbers; the filters ``short`` and ``three``
  print a number to two and three digits;
- ``claim("a5.bd_over_sd")`` is the judged claim, ``claim("b2.worst_tensor", "toy")`` that of another profile;
  ``paper("...")`` and ``unkept("...")`` mark what no table has: a figure of the papers, and one of a run
  whose records are not kept.
"""

from __future__ import annotations

import functools
import json
import math
import re
import textwrap
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from gaugeport.pipeline.report.tidy import select
from gaugeport.utils.files import write_text

HERE = Path(__file__).resolve().parent
REFERENCE = HERE / "reference"
TEMPLATE = HERE / "findings.md.j2"
FINDINGS = HERE / "FINDINGS.md"
LINE_LENGTH = 110


def short(number: float) -> str:
    """Return a number to two digits, without a leading zero: ``.62``, ``1``, ``−.20``."""
    text = f"{number:.2f}"
    if float(text).is_integer() and abs(number) >= 0.995:
        return f"{number:.0f}".replace("-", "−")
    return text.replace("-0.", "−.").replace("-", "−").removeprefix("0")


def exponent(number: float) -> str:
    """Return a number with an exponent: ``2.9e-3``."""
    digits, _, power = f"{number:.1e}".partition("e")
    return f"{digits}e{int(power)}"


def three(number: float) -> str:
    """Return a number to three digits, without a leading zero: ``.996``."""
    return f"{number:.3f}".replace("-0.", "−.").removeprefix("0")


class Figures:
    """Rows of a kept table, as sentences print them."""

    def __init__(self, rows: pd.DataFrame, selection: str) -> None:
        self.rows = rows
        self.selection = selection

    def _number(self, column: str) -> float:
        if len(self.rows) != 1:
            raise ValueError(f"expected one row, got {len(self.rows)}: {self.selection}")
        return float(self.rows[column].iloc[0])

    @property
    def value(self) -> float:
        """The value of the one row."""
        return self._number("value")

    @property
    def low(self) -> float:
        """The lower end of its interval."""
        return self._number("ci_low")

    @property
    def high(self) -> float:
        """The upper end of its interval."""
        return self._number("ci_high")

    @property
    def n(self) -> int:
        """How many training seeds it is the mean of."""
        return int(self._number("n"))

    @property
    def count(self) -> str:
        """Of how many seeds something holds whose share is the value: ``3 of 5``."""
        return f"{self.value * self.n:.0f} of {self.n}"

    @property
    def verdict(self) -> str:
        """The verdict of a claim."""
        return str(self.rows["verdict"].iloc[0])

    @property
    def ci(self) -> str:
        """The value with its interval: ``.58 [.44, .72]``."""
        return f"{short(self.value)} [{short(self.low)}, {short(self.high)}]"

    @property
    def exponent(self) -> str:
        """The value with an exponent."""
        return exponent(self.value)

    @property
    def range(self) -> str:
        """The least and the most of several rows: ``.16 to .31``."""
        return f"{short(self.least)} to {short(self.most)}"

    @property
    def least(self) -> float:
        """The least value of several rows."""
        return float(self.rows["value"].min())

    @property
    def most(self) -> float:
        """The largest value of several rows."""
        return float(self.rows["value"].max())

    def near(self, figure: float, margin: float) -> str:
        """Return how many of several rows are within a margin of a figure: ``21 of 663``."""
        return f"{int(((self.rows['value'] - figure).abs() <= margin).sum())} of {len(self.rows)}"

    def __str__(self) -> str:
        return short(self.value)


@functools.cache
def kept(table: str, profile: str = "mini") -> pd.DataFrame:
    """Return the kept rows of a table: means over seeds, and judged claims."""
    return pd.read_csv(kept_files(profile)[table], low_memory=False)


def kept_files(profile: str) -> dict[str, Path]:
    """Return the kept file of each table, and of the claims: csv, compressed where it is long."""
    return {path.name.partition(".")[0]: path for path in sorted((REFERENCE / profile).glob("*.csv*"))}


def kept_tables(profile: str) -> list[str]:
    """Return the ids of the tables that are kept of a profile."""
    return [name for name in kept_files(profile) if re.fullmatch(r"[a-d]\d+", name)]


def selector(table: str, profile: str = "mini") -> Callable[..., Figures]:
    """Return the function that selects means of a table by their columns."""

    def choose(*wheres: Mapping[str, Any], **where: Any) -> Figures:
        for part in wheres:
            where = {**part, **where}
        means = kept(table, profile)
        means = means[means["verdict"].isna()]
        empty = [column for column, value in where.items() if value is None]
        rows = select(
            means[means[empty].isna().all(axis=1)], {k: v for k, v in where.items() if k not in empty}
        )
        return Figures(rows, f"{table} {where}")

    return choose


@functools.cache
def trials() -> list[dict[str, Any]]:
    """Return the toy's trials of depth labels and learning rates, on one seed."""
    return json.loads((REFERENCE / "toy" / "trials.json").read_text())


def trial(label: str, rate: float, step: int, head: str) -> float:
    """Return the least accuracy of a head over the held-out splits, at a step of one trial."""
    (log,) = (t["log"] for t in trials() if (t["depth_label"], t["lr"]) == (label, rate))
    (by_split,) = (line["heldout_accuracy"] for line in log if line["step"] == step)
    return min(accuracy[head] for accuracy in by_split.values())


def deepest(label: str) -> float:
    """Return the share of held-out positions at depth 8 under a label: the mean of the three splits."""
    return fmean(next(t["deepest_share"] for t in trials() if t["depth_label"] == label).values())


def decoy_cost(deepest_share: float) -> float:
    """Return the nats that b1's decoy costs at least: ln 2 of one head in three where depths are below 8."""
    return (1 - deepest_share) * math.log(2) / 3


def deepest_needed(nats: float) -> float:
    """Return the share of positions at depth 8 from which on a decoy can cost as little as that."""
    return 1 - nats / decoy_cost(0.0)


def toys() -> list[dict[str, Any]]:
    """Return what is kept of each trained toy: its name, its steps and its held-out accuracy."""
    files = sorted((REFERENCE / "toy" / "models").glob("*.json"))
    return [{"name": p.stem, **json.loads(p.read_text())} for p in files]


def least_of(toy: Mapping[str, Any], head: str) -> float:
    """Return the least accuracy of a head over the held-out splits, of one trained toy."""
    return min(accuracy[head] for accuracy in toy["heldout_accuracy"].values())


def claim(claim_id: str, profile: str = "mini") -> Figures:
    """Return a judged claim: its difference, interval and verdict."""
    rows = kept(claim_id.partition(".")[0], profile)
    return Figures(rows[rows["metric"] == claim_id], claim_id)


def text_of(template: str) -> str:
    """Return the text of a template."""
    environment = Environment(
        loader=FileSystemLoader(HERE), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
        keep_trailing_newline=True,
    )  # fmt: skip
    environment.filters |= {"short": short, "three": three}
    environment.globals |= {table: selector(table) for table in kept_tables("mini")}
    for profile in ("real", "toy"):
        tables = kept_tables(profile)
        environment.globals |= {f"{profile}_{table}": selector(table, profile) for table in tables}
    claims = kept("claims")
    run = claims[claims["verdict"] != "not run"]  # a claim of another profile's table is not run at this one
    environment.globals |= {"trial": trial, "deepest": deepest, "toys": toys()}
    environment.globals |= {"least_of": least_of, "decoy_cost": decoy_cost, "deepest_needed": deepest_needed}
    environment.globals |= {"claim": claim, "claims": run, "paper": str, "unkept": str}
    paragraphs = environment.from_string(template).render().strip().split("\n\n")
    return "\n\n".join(map(_wrapped, paragraphs)) + "\n"


def _wrapped(paragraph: str) -> str:
    """Break the lines of a paragraph or list at ``LINE_LENGTH``; tables and headings stay."""
    if paragraph.startswith(("|", "#")):
        return paragraph
    items = re.split(r"\n(?=- )", paragraph)
    return "\n".join(
        textwrap.fill(
            " ".join(item.split()),
            LINE_LENGTH,
            subsequent_indent="  " if item.startswith("- ") else "",
            break_long_words=False,
            break_on_hyphens=False,
        )
        for item in items
    )


if __name__ == "__main__":
    write_text(FINDINGS, text_of(TEMPLATE.read_text()))
