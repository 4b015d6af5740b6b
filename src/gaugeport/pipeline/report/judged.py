"""Judge the claims of a table on its rows, a value per training seed."""

from __future__ import annotations

from typing import Any

import pandas as pd

from gaugeport.pipeline.report.claims import Claim, load_claims
from gaugeport.pipeline.report.tidy import middle_site, select, values_of
from gaugeport.pipeline.report.verdicts import judge

READ_AT: dict[str, dict[str, dict[str, str]]] = {
    "real": {"model": {"tinyllama": "smollm2", "llama": "smollm2"}, "target": {"identical": "self"}}
}
"""Profile -> column -> value that a claim declares -> the one it is read at there: the profile's model, and
that model as it is in place of a fine-tune of it in other coordinates."""


def claim_sides(claim: Claim, frame: pd.DataFrame) -> pd.DataFrame:
    """Return ``left``, ``right`` (0 without one) and their ``difference``, a row per seed that has both.

    The index has the anchor that a seed is compared with (0 unless the table names others), and the seed.

    ``frame`` holds the table's rows per seed.

    Raises:
        ValueError: The claim names several measurements of one seed.
    """
    where, left, right = (
        _resolved(part, claim, frame) for part in (claim.where, claim.left, claim.right or {})
    )
    left, right = ({"metric": claim.metric, **side} for side in (left, right))
    frame = select(frame, where)
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
        values = dict(zip(sides.index.tolist(), sides["difference"].tolist(), strict=True))
        verdict, mean, low, high, n = judge(claim, values, profile)
        measured = {
            "value": mean,
            "ci_low": low,
            "ci_high": high,
            "n": n,
            "paper": claim.paper,
            "verdict": verdict,
        }
        means = {side: sides[side].mean() for side in ("left", "right")}
        if claim.right is None:
            means["left"] = mean  # of correlations, the mean of their z
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
    try:
        values = values_of(frame)
    except ValueError as e:
        raise ValueError(f"claim {claim.id} does not name one measurement per seed: {e}") from e
    return pd.Series(values, index=pd.MultiIndex.from_tuples(values, names=["anchor", "seed"]), dtype=float)
