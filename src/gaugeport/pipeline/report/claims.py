"""Judge claims: what each declares in ``experiments/claims.yaml``, against the value of every seed."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import yaml

from gaugeport.pipeline.paths import by_number, data_dir
from gaugeport.pipeline.report.tidy import middle_site, select, t_interval

DECLARED_UNITS = 5
"""Training seeds below which only a direction is reported."""

FIGURES_COUNT = ("real", "paper")
"""Profiles of pretrained models, where a figure is compared with the paper's and not its direction alone."""

CHOSEN = ("learning rate chosen", "setting chosen")
"""Reasons against a verdict that a declared setting takes away."""

SETTINGS_DECLARED = ("real",)
"""Profiles all of whose settings were declared before their first run."""

READ_AT: dict[str, dict[str, dict[str, str]]] = {
    "real": {"model": {"tinyllama": "smollm2", "llama": "smollm2"}, "target": {"identical": "self"}}
}
"""Profile -> column -> value that a claim declares -> the one it is read at there: the profile's model, and
that model as it is in place of a fine-tune of it in other coordinates."""


@dataclass(frozen=True)
class Claim:
    """Hold one claim: a paired contrast ``left − right`` of a metric, or ``left`` alone.

    Attributes:
        id: ``b5.rotation_level``. ``table``: the table it is judged in. ``metric``: what is compared.
        claim: Its sentence. ``short``: the same in at most 41 characters, for the README.
        where: The setting and site it is read at; ``site: middle`` and ``step: last`` are resolved per model.
        left: What tells the left side apart. ``right``: the right side; None compares with the null alone.
        null_value: The interval has to lie beyond it in the ``direction``, ``greater`` or ``less``.
        paper: The paper's figure for the contrast. ``delta``: how near counts as it. ``quote``: the paper's
            words. ``short_quote``: the same, shorter.
        unjudged: Why a measured claim carries no verdict: a chosen setting could produce it, or the seeds do
            not vary what it is about. Of :data:`CHOSEN` it does not hold at :data:`SETTINGS_DECLARED`.
        by_construction: The measurement leaves it no other outcome, which its verdict says.
        two_sided: Neither side of the paper's figure is the better one.
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
    short: str = ""
    short_quote: str = ""

    def __post_init__(self) -> None:
        if self.direction not in ("greater", "less"):
            raise ValueError(f"claim {self.id}: direction {self.direction!r}; allowed: greater, less")
        if self.unit != "seed":
            raise ValueError(f"claim {self.id}: unit {self.unit!r}; allowed: seed (the training seed)")


def load_claims() -> list[Claim]:
    """Return every declared claim, in the order of their tables, then of the file."""
    return list(_claims((data_dir("experiments") / "claims.yaml").read_text()))


@functools.cache  # every table reads them all, and the file takes a third of a second
def _claims(text: str) -> tuple[Claim, ...]:
    claims = [Claim(**c) for c in yaml.safe_load(text)]
    return tuple(sorted(claims, key=lambda claim: by_number(claim.table)))


def judge(claim: Claim, values: Sequence[float], profile: str) -> tuple[str, float, float, float, int]:
    """Judge a claim from one value per training seed.

    Args:
        claim: The claim.
        values: Its difference, one per training seed.
        profile: ``mini``, ``paper``, ...; only at :data:`FIGURES_COUNT` is a figure compared with the
            paper's.

    Returns:
        Verdict, mean, ends of the 95 % interval, and n. The verdict is *reproduced* where the interval
        excludes the null in the claimed direction; *matched* (at :data:`FIGURES_COUNT`) where it also lies
        within the paper's figure ± delta or, unless that is two-sided, wholly on its better side; *not
        reproduced* otherwise. Fewer than ``DECLARED_UNITS`` seeds give *direction only (n = …)*, or *not the
        direction (n = …)* where their mean is not beyond the null; none give *not run*. *no verdict (why)*:
        the claim declares none. *reproduced (by construction)*: it could not have been otherwise.
    """
    if not values:
        return "not run", float("nan"), float("nan"), float("nan"), 0
    mean, low, high, n = t_interval(values)
    if claim.unjudged and not (claim.unjudged in CHOSEN and profile in SETTINGS_DECLARED):
        return f"no verdict ({claim.unjudged})", mean, low, high, n
    sign = 1 if claim.direction == "greater" else -1
    if n < DECLARED_UNITS:
        found = "direction only" if sign * (mean - claim.null_value) > 0 else "not the direction"
        return f"{found} (n = {n})", mean, low, high, n
    worst = low if sign > 0 else high
    if sign * (worst - claim.null_value) <= 0:
        return "not reproduced", mean, low, high, n
    if claim.by_construction:
        return "reproduced (by construction)", mean, low, high, n
    if profile in FIGURES_COUNT and claim.paper is not None:
        near = low >= claim.paper - claim.delta and high <= claim.paper + claim.delta
        if near or (sign * (worst - claim.paper) >= 0 and not claim.two_sided):
            return "matched", mean, low, high, n
    return "reproduced", mean, low, high, n


def claim_sides(claim: Claim, frame: pd.DataFrame) -> pd.DataFrame:
    """Return ``left``, ``right`` (0 without one) and their ``difference``, a row per seed that has both.

    ``frame`` holds the table's rows per seed.

    Raises:
        ValueError: The claim names several measurements of one seed.
    """
    where, left, right = (
        _resolved(part, claim, frame) for part in (claim.where, claim.left, claim.right or {})
    )
    frame = select(frame, {**where, "metric": claim.metric})
    sides = {"left": _by_seed(claim, select(frame, left))}
    sides["right"] = sides["left"] * 0 if claim.right is None else _by_seed(claim, select(frame, right))
    paired = pd.DataFrame(sides).dropna()
    return paired.assign(difference=paired["left"] - paired["right"])


def judged(table: str, rows: pd.DataFrame, means: pd.DataFrame) -> pd.DataFrame:
    """Return a whole table: measurements (``rows``), their ``means``, and the claims judged on the rows."""
    return pd.concat([rows, means, claim_rows(table, rows)], ignore_index=True)


def claim_rows(table: str, frame: pd.DataFrame) -> pd.DataFrame:
    """Return the judged claims of a table as tidy rows.

    ``frame`` holds the table's rows per seed. In a returned row ``value`` is the difference, ``left`` and
    ``right`` are the means of its sides, ``metric`` is the claim's id and ``claim`` its sentence.
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
    """Return ``where`` as it is read at the profile of the rows, with ``step: last`` and ``site: middle``
    read off those of the claim's model."""
    changes = READ_AT.get(str(frame["profile"].iloc[0]), {})

    def here(where: dict[str, Any]) -> dict[str, Any]:
        return {column: changes.get(column, {}).get(value, value) for column, value in where.items()}

    mine = select(frame, {k: v for k, v in here(claim.where).items() if k in ("model", "setting")})
    where = here(where)
    if where.get("step") == "last":
        where["step"] = mine["step"].max()
    sites = [s for s in mine["site"].dropna().unique() if str(s).startswith("block")]
    if where.get("site") == "middle" and sites:  # without rows of the claim's model it is not run
        where["site"] = middle_site(sites)
    return where


def _by_seed(claim: Claim, frame: pd.DataFrame) -> pd.Series:
    counts = frame.groupby("seed").size()
    if (counts > 1).any():
        raise ValueError(
            f"claim {claim.id} does not name one measurement per seed: {counts.to_dict()} rows match"
        )
    return frame.set_index("seed")["value"]
