"""Name the model pairs and the groups of the maps between them, for the rotation audit (b5 to b9)."""

from __future__ import annotations

from typing import Any

import pandas as pd

from gaugeport.pipeline.report import figures as f
from gaugeport.pipeline.report.tidy import by_depth

GROUPS = {
    "identity": ("raw", f.RED),
    "translation": ("means only", f.PURPLE),
    "permutation": ("S_d", f.ORANGE),
    "signed_permutation": ("B_d", f.BLUE),
    "orthogonal": ("O(d)", "black"),
    "orthogonal_scaled": ("O(d), scaled", f.YELLOW),
    "affine": ("affine (ridge)", f.GREEN),
}
"""Group of the map between two models -> its name in tables, and its colour."""

COHORTS = {"seeds": "independent seeds", "runs": "two runs of one base", "A": "cohort A", "B": "cohort B"}


def line_style(group: str) -> str:
    """Return dashes for the scaled rotation, so that the plain one shows where both are the same."""
    return "--" if group == "orthogonal_scaled" else "-"


def by_site(frame: pd.DataFrame, by: list[str]) -> Any:
    """Group a frame by model, setting, cohort and the columns ``by``, sites in order of depth."""
    ordered = frame.sort_values("site", key=by_depth, kind="stable") if "site" in by else frame
    return ordered.groupby(["model", "setting", "cohort", *by], sort=False)


def pair_label(model: str, cohort: str) -> str:
    """Return a label such as ``dyck3, cohort A``."""
    return f"{model}, {COHORTS[cohort]}"
