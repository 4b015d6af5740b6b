"""What the tables of the rotation audit (b5 to b9) share: names and colours of groups, and of the models compared."""

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
"""Group of the map between two models -> what tables call it, and its colour."""

COHORTS = {"seeds": "independent seeds", "runs": "two runs of one base", "A": "cohort A", "B": "cohort B"}


def line_style(group: str) -> str:
    """Dashes for the scaled rotation, so that the rotation shows where the two are one."""
    return "--" if group == "orthogonal_scaled" else "-"


def by_site(frame: pd.DataFrame, by: list[str]) -> Any:
    """The parts of a frame by model, setting, cohort and ``by``, sites in order of depth."""
    ordered = frame.sort_values("site", key=by_depth, kind="stable") if "site" in by else frame
    return ordered.groupby(["model", "setting", "cohort", *by], sort=False)


def pair_label(model: str, cohort: str) -> str:
    """``dyck3, cohort A``."""
    return f"{model}, {COHORTS[cohort]}"
