"""Judging claims: what each declares in ``experiments/claims.yaml`` before it is run, against the seeds' values."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import yaml

from gaugeport.pipeline.paths import data_dir
from gaugeport.pipeline.report.tidy import by_number, middle_site, select, t_interval

DECLARED_UNITS = 5
"""Units below which only a direction is reported."""


@dataclass(frozen=True)
class Claim:
    """One claim: a paired contrast ``left − right`` of a metric (or ``left`` alone), its null and its direction.

    ``where`` fixes the setting and site it is read at (``site: middle``, ``step: last`` are resolved per model);
    ``delta`` says how near counts as the paper's figure; ``paper`` is that figure for the estimand, ``quote`` its words.
    ``unjudged`` says why a claim carries no verdict, though it is measured: a chosen setting could fabricate it, or the
    seeds do not vary what it is about. ``by_construction``: how the measurement is made leaves it no other outcome (theory
    is shown, not tested), which its verdict says. ``two_sided``: neither side of the paper's figure is the better one.
    """

    id: str
    table: str
    claim: str
    metric: str
    where: dict[str, Any]
    left: dict[str, Any]
    right: dict[str, Any] | None
    null_value: float
    direction: str
    delta: float
    paper: float | None
    quote: str
    unit: str = "seed"
    unjudged: str | None = None
    by_construction: bool = False
    two_sided: bool = False

    def __post_init__(self) -> None:
        if self.direction not in ("greater", "less"):
            raise ValueError(f"claim {self.id}: direction {self.direction!r}; allowed: greater, less")
        if self.unit != "seed":
            raise ValueError(f"claim {self.id}: unit {self.unit!r}; allowed: seed (the training seed)")


def load_claims() -> list[Claim]:
    """Every declared claim, in the order of their tables, and of the file."""
    return list(_claims((data_dir("experiments") / "claims.yaml").read_text()))


@functools.cache  # every table reads them all, and the file takes a third of a second
def _claims(text: str) -> tuple[Claim, ...]:
    found = [Claim(**c) for c in yaml.safe_load(text)]
    return tuple(sorted(found, key=lambda claim: by_number(claim.table)))


def judge(claim: Claim, values: Sequence[float], profile: str) -> tuple[str, float, float, float, int]:
    """(verdict, mean, ci_low, ci_high, n) of a claim from one value per training seed.

    *reproduced*: the 95 % interval excludes the null in the claimed direction; *matched* (paper profile): and lies
    within the paper's figure ± delta or, unless that is two-sided, wholly on its better side; *not reproduced*: otherwise,
    with the declared number of units; *direction only (n = …)*: fewer units; *not run*: none; *no verdict (why)*: the
    claim declares none; *reproduced (by construction)*: it could not have been otherwise.
    """
    if not values:
        return "not run", float("nan"), float("nan"), float("nan"), 0
    mean, low, high, n = t_interval(values)
    if claim.unjudged:
        return f"no verdict ({claim.unjudged})", mean, low, high, n
    if n < DECLARED_UNITS:
        return f"direction only (n = {n})", mean, low, high, n
    sign = 1 if claim.direction == "greater" else -1
    worst = low if sign > 0 else high
    if sign * (worst - claim.null_value) <= 0:
        return "not reproduced", mean, low, high, n
    if claim.by_construction:
        return "reproduced (by construction)", mean, low, high, n
    if profile == "paper" and claim.paper is not None:
        near = low >= claim.paper - claim.delta and high <= claim.paper + claim.delta
        if near or (sign * (worst - claim.paper) >= 0 and not claim.two_sided):
            return "matched", mean, low, high, n
    return "reproduced", mean, low, high, n


def claim_sides(claim: Claim, frame: pd.DataFrame) -> pd.DataFrame:
    """``left``, ``right`` (0 where the claim has none) and their ``difference``, a row per training seed having both."""
    where, left, right = (
        _resolved(part, claim, frame) for part in (claim.where, claim.left, claim.right or {})
    )
    frame = select(frame, {**where, "metric": claim.metric})
    sides = {"left": _by_seed(claim, select(frame, left))}
    sides["right"] = sides["left"] * 0 if claim.right is None else _by_seed(claim, select(frame, right))
    paired = pd.DataFrame(sides).dropna()
    return paired.assign(difference=paired["left"] - paired["right"])


def judged(table: str, rows: pd.DataFrame, means: pd.DataFrame) -> pd.DataFrame:
    """A whole table: its measurements, their means over seeds, and the table's claims judged on the measurements."""
    return pd.concat([rows, means, claim_rows(table, rows)], ignore_index=True)


def claim_rows(table: str, frame: pd.DataFrame) -> pd.DataFrame:
    """The judged claims of a table as tidy rows: ``value`` is the difference, ``left`` and ``right`` its sides' means.

    ``frame`` holds the table's per-seed rows; ``claim`` names the claim.
    """
    rows = []
    for claim in load_claims():
        if claim.table != table:
            continue
        profile, sides = str(frame["profile"].iloc[0]), claim_sides(claim, frame)
        verdict, mean, low, high, n = judge(claim, sides["difference"].tolist(), profile)
        measured = {
            "value": mean,
            "ci_low": low,
            "ci_high": high,
            "n": n,
            "paper": claim.paper,
            "verdict": verdict,
        }
        means = {side: sides[side].mean() for side in ("left", "right")}
        where = {"table": table, "profile": profile, **_resolved(claim.where, claim, frame)}
        rows.append({**where, "metric": claim.id, **measured, "claim": claim.claim, **means})
    return pd.DataFrame(rows)


def _resolved(where: dict[str, Any], claim: Claim, frame: pd.DataFrame) -> dict[str, Any]:
    """``where`` with ``step: last`` and ``site: middle`` read off the rows of the claim's model and setting."""
    mine = select(frame, {k: v for k, v in claim.where.items() if k in ("model", "setting")})
    where = dict(where)
    if where.get("step") == "last":
        where["step"] = mine["step"].max()
    if where.get("site") == "middle":
        where["site"] = middle_site([s for s in mine["site"].dropna().unique() if s])
    return where


def _by_seed(claim: Claim, frame: pd.DataFrame) -> pd.Series:
    counts = frame.groupby("seed").size()
    if (counts > 1).any():
        raise ValueError(
            f"claim {claim.id} does not name one measurement per seed: {counts.to_dict()} rows match"
        )
    return frame.set_index("seed")["value"]
