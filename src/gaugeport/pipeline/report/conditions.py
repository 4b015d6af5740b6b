"""Name and style every condition, which is one (group, matcher, route), for tables and figures."""

from __future__ import annotations

from typing import NamedTuple

import pandas as pd

from gaugeport.pipeline.report import figures as f


class ConditionStyle(NamedTuple):
    """Hold a condition's name in tables, and its colour and line style in figures."""

    name: str
    colour: str
    style: str


CONDITIONS = {
    ("identity", "none", "endpoint"): ConditionStyle("identity", f.RED, "-"),
    ("permutation", "hungarian_raw", "endpoint"): ConditionStyle("S_d raw", f.ORANGE, "-"),
    ("permutation", "hungarian_raw", "trajectory"): ConditionStyle("S_d raw, trajectory", f.ORANGE, "--"),
    ("permutation", "hungarian_abs", "endpoint"): ConditionStyle("S_d, signs dropped", f.PURPLE, "-"),
    ("permutation", "hungarian_abs", "trajectory"): ConditionStyle(
        "S_d, signs dropped, trajectory", f.PURPLE, "--"
    ),
    ("global_sign_permutation", "hungarian_raw", "endpoint"): ConditionStyle("S_d × {±1}", f.BLUE, "-"),
    ("global_sign_permutation", "hungarian_raw", "trajectory"): ConditionStyle(
        "S_d × {±1}, trajectory", f.SKY, "--"
    ),
    ("signed_permutation", "hungarian_abs", "endpoint"): ConditionStyle("B_d", f.BLUE, "-"),
    ("signed_permutation", "hungarian_abs", "trajectory"): ConditionStyle("B_d, trajectory", f.SKY, "--"),
    ("signed_permutation", "weights", "endpoint"): ConditionStyle("B_d, weights", f.GREEN, "-"),
    ("orthogonal", "procrustes", "endpoint"): ConditionStyle("O(d)", "black", "-"),
    ("signed_permutation", "oracle", "endpoint"): ConditionStyle("oracle", f.GREY, ":"),
    ("global_sign_permutation", "oracle", "endpoint"): ConditionStyle("oracle", f.GREY, ":"),
}
"""(group, matcher, route) -> style, in the order in which tables and figures show them."""

SHORT_NAMES = {", signs dropped": " unsigned", ", trajectory": ", traj."}
"""Words of names -> what narrow tables write for them; :data:`SHORT_CAPTION` says what they mean."""
SHORT_CAPTION = (
    "Unsigned: matched with the signs dropped. Traj.: composed along the trajectory, else endpoints."
)

BY_NAME = {condition.name: condition for condition in CONDITIONS.values()}
ORDER = {name: i for i, name in enumerate(BY_NAME)}
"""Name -> position in a table."""


def condition_name(group: object, matcher: object, route: object) -> str:
    """Return a condition's name; one that is not declared is called ``group/matcher/route``."""
    known = CONDITIONS.get((str(group), str(matcher), str(route)))
    return known.name if known else f"{group}/{matcher}/{route}"


def with_conditions(means: pd.DataFrame) -> pd.DataFrame:
    """Return the rows with a further column ``condition``, the name of each row's condition."""
    keys = zip(means["group"], means["matcher"], means["route"], strict=True)
    return means.assign(condition=[condition_name(*key) for key in keys])


def conditions_of(means: pd.DataFrame) -> list[ConditionStyle]:
    """Return the styles of the conditions in ``means["condition"]``; undeclared ones come last, in grey."""
    present = list(dict.fromkeys(means["condition"]))
    declared = [condition for condition in BY_NAME.values() if condition.name in present]
    return declared + [ConditionStyle(name, f.GREY, "-.") for name in present if name not in BY_NAME]
