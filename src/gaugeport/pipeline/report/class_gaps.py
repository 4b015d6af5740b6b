"""Leave out the pairs in which a language model cannot tell the classes of a steering vector apart."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

CLASS_GAP = 0.1
"""In nats. Where either model's gap is smaller, a pair does not count for a language model's vector.

It is not in the paper, and was set when mini's gaps were known: .02 and .06 of two vectors, .6 of one."""

OF_THE_VECTOR = (
    "class_gap", "class_gap_other", "class_distance", "pinned_share", "rotation_cosine", "native_cosine",
    "length_ratio",
)  # fmt: skip
"""Metrics of a vector itself, which stand where its effects do not count."""


def told_apart(rows: pd.DataFrame) -> pd.DataFrame:
    """Drop the effects of language models' vectors in pairs that cannot both tell their classes apart."""
    gaps = least_gaps(rows, ["record", "vector"])
    void = set(gaps.index[gaps < CLASS_GAP])
    here = [key in void for key in rows[["record", "vector"]].itertuples(index=False, name=None)]
    return rows[~pd.Series(here, index=rows.index) | rows["metric"].isin(OF_THE_VECTOR)]


def least_gaps(rows: pd.DataFrame, by: str | Sequence[str] = "record") -> pd.Series:
    """Return the smaller class gap of both models of each pair; toy vectors have none."""
    gaps = rows[rows["metric"].isin(["class_gap", "class_gap_other"])]
    return gaps.groupby([by] if isinstance(by, str) else list(by))["value"].min()
