"""What tables and figures call the arms: a (group, matcher, route) each, in the order shown."""

from __future__ import annotations

from typing import NamedTuple

import pandas as pd

from gaugeport.pipeline.report import figures as f


class Arm(NamedTuple):
    """An arm's name in tables, and its colour and line style in figures."""

    name: str
    colour: str
    style: str


ARMS = {
    ("identity", "none", "endpoint"): Arm("identity", f.RED, "-"),
    ("permutation", "hungarian_raw", "endpoint"): Arm("S_d raw", f.ORANGE, "-"),
    ("permutation", "hungarian_raw", "trajectory"): Arm("S_d raw, trajectory", f.ORANGE, "--"),
    ("permutation", "hungarian_abs", "endpoint"): Arm("S_d, signs dropped", f.PURPLE, "-"),
    ("permutation", "hungarian_abs", "trajectory"): Arm("S_d, signs dropped, trajectory", f.PURPLE, "--"),
    ("global_sign_permutation", "hungarian_raw", "endpoint"): Arm("S_d × {±1}", f.BLUE, "-"),
    ("global_sign_permutation", "hungarian_raw", "trajectory"): Arm("S_d × {±1}, trajectory", f.SKY, "--"),
    ("signed_permutation", "hungarian_abs", "endpoint"): Arm("B_d", f.BLUE, "-"),
    ("signed_permutation", "hungarian_abs", "trajectory"): Arm("B_d, trajectory", f.SKY, "--"),
    ("signed_permutation", "weights", "endpoint"): Arm("B_d, weights", f.GREEN, "-"),
    ("orthogonal", "procrustes", "endpoint"): Arm("O(d)", "black", "-"),
    ("signed_permutation", "oracle", "endpoint"): Arm("oracle", f.GREY, ":"),
    ("global_sign_permutation", "oracle", "endpoint"): Arm("oracle", f.GREY, ":"),
}
"""By (group, matcher, route)."""

BY_NAME = {arm.name: arm for arm in ARMS.values()}
ORDER = {name: i for i, name in enumerate(BY_NAME)}
"""Name -> where it stands in a table."""


def named(means: pd.DataFrame) -> pd.DataFrame:
    """The rows with their arm's name in a column ``arm``."""
    keys = zip(means["group"], means["matcher"], means["route"], strict=True)
    return means.assign(arm=[ARMS[key].name if key in ARMS else "/".join(map(str, key)) for key in keys])


def shown(means: pd.DataFrame) -> list[Arm]:
    """The arms that occur among named rows, in the order shown."""
    return [arm for arm in BY_NAME.values() if arm.name in set(means["arm"])]
