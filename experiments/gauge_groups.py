"""Make table a1: which group leaves which architecture's function alone."""

import numpy as np
import pandas as pd

from gaugeport.pipeline.report import figures as f
from gaugeport.pipeline.report.judged import judged
from gaugeport.pipeline.report.narrow import Narrow
from gaugeport.pipeline.report.tidy import aggregate, tidy

TITLE = "a1 Gauge groups: which group leaves which architecture alone"
CAPTION = (
    "A random element of each group is applied to random models. The number is the largest change of the "
    "logits, in units of their standard deviation, over all models. The function is kept where it is at "
    "rounding error."
)
GROUPS = {
    "permutation": "S_d",
    "global_sign_permutation": "S_d × {±1}",
    "signed_permutation": "B_d",
    "mean_preserving_orthogonal": "O(d) fixing 1",
    "orthogonal": "O(d)",
}
BROKEN = 0.1
"""A logit change above this share of the logits' standard deviation is a different function."""

SUMMARY = Narrow(
    columns={"model": "model", "chart": "chart", **{name: name for name in GROUPS.values()}},
    words={"exact": "kept", "broken": "lost"},
)


def tabulate(records):
    """Return every measurement, its mean over seeds, and the judged contrasts inside against outside."""
    rows = tidy("a1", records)
    rows = rows.assign(matcher=None, route=None)
    return judged("a1", rows, aggregate(rows, ["chart", "theory"]))


def measured(rows):
    """Return exact where no seed exceeds its yardstick, broken where every seed exceeds 0.1, else unclear."""
    if (rows["value"] <= rows["yardstick"]).all():
        return "exact"
    return "broken" if (rows["value"] > BROKEN).all() else "unclear"


def pivot(table):
    """Return a row per model and chart, a column per group: theory, what was measured, and the largest
    change."""
    seeds = table[table["seed"].notna()]
    lines = []
    for (model, chart), part in seeds.groupby(["model", "chart"], sort=False):
        line = {"model": model, "chart": chart, "n": part["seed"].nunique()}
        for group, name in GROUPS.items():
            rows = part[part["group"] == group]
            theory, outcome = rows["theory"].iloc[0], measured(rows)
            mark = outcome if theory == outcome else f"{outcome} (theory: {theory})"
            line[name] = f"{mark} {rows['value'].max():.0e}"
        lines.append(line)
    return pd.DataFrame(lines)


def plot(table):
    """Draw a heat map of the logarithm of the change: dark where exact, light where broken."""
    seeds = table[table["seed"].notna()]
    names = list(dict.fromkeys(zip(seeds["model"], seeds["chart"], strict=True)))
    worst = seeds.groupby(["model", "chart", "group"])["value"].max()
    grid = np.array([[max(worst[m, c, g], 1e-17) for g in GROUPS] for m, c in names])
    figure, axes = f.panels(1, width=6, height=0.26 * len(names) + 1.4)
    image = axes[0].imshow(np.log10(grid), cmap="cividis", aspect="auto", vmin=-16, vmax=0)
    axes[0].set_xticks(range(len(GROUPS)), GROUPS.values(), rotation=20)
    axes[0].set_yticks(range(len(names)), [f"{m}, {c}" for m, c in names], fontsize=7)
    figure.colorbar(image, label="log10 of the relative logit change")
    return figure
