"""What tables and figures call the arms: a (group, matcher, route) each, with its colour, in the order shown."""

from __future__ import annotations

import pandas as pd

from gaugeport.report import figures as f

ARMS = {
    ("identity", "none", "endpoint"): ("identity", f.RED),
    ("permutation", "hungarian_raw", "endpoint"): ("S_d raw", f.ORANGE),
    ("permutation", "hungarian_abs", "endpoint"): ("S_d, signs dropped", f.PURPLE),
    ("permutation", "hungarian_abs", "trajectory"): ("S_d, signs dropped, trajectory", f.PURPLE),
    ("global_sign_permutation", "hungarian_raw", "endpoint"): ("S_d × {±1}", f.BLUE),
    ("global_sign_permutation", "hungarian_raw", "trajectory"): ("S_d × {±1}, trajectory", f.SKY),
    ("signed_permutation", "hungarian_abs", "endpoint"): ("B_d", f.BLUE),
    ("signed_permutation", "hungarian_abs", "trajectory"): ("B_d, trajectory", f.SKY),
    ("signed_permutation", "weights", "endpoint"): ("B_d, weights", f.GREEN),
    ("orthogonal", "procrustes", "endpoint"): ("O(d)", "black"),
    ("signed_permutation", "oracle", "endpoint"): ("oracle", f.GREY),
    ("global_sign_permutation", "oracle", "endpoint"): ("oracle", f.GREY),
}
"""(group, matcher, route) -> (name, colour)."""

ORDER = {name: i for i, name in enumerate(dict.fromkeys(name for name, _ in ARMS.values()))}
"""Name -> where it stands in a table."""


def named(means: pd.DataFrame) -> pd.DataFrame:
    """The rows with their arm's name in a column ``arm``."""
    keys = zip(means["group"], means["matcher"], means["route"], strict=True)
    return means.assign(arm=[ARMS.get(key, ("/".join(map(str, key)), f.GREY))[0] for key in keys])


def means_of(table: pd.DataFrame) -> pd.DataFrame:
    """The means over seeds of a table's tidy rows."""
    return table[table["seed"].isna() & table["verdict"].isna()]
