"""Table d6: how far the interval of the gap between trajectory and endpoint closes with the number of training seeds."""

import pandas as pd

from gaugeport.report import figures as f
from gaugeport.report.ablation import Ablation
from gaugeport.report.tidy import aggregate, means_of, select

TABLE = Ablation("d6", "training seeds", "seed")
TITLE = "d6 gap between trajectory and endpoint (signed accuracy, block L/2, last step) over the first n training seeds"
pivot = TABLE.pivot


def tabulate(records):
    """Every seed's measurements, and for each n the means over the first n seeds (``level``)."""
    found = TABLE.measurements(records).drop(columns="level")
    seeds = sorted(found["seed"].unique())
    first = [found[found["seed"].isin(seeds[:n])].assign(level=n) for n in range(1, len(seeds) + 1)]
    return pd.concat([found, aggregate(pd.concat(first), ["level"])], ignore_index=True)


def plot(table):
    """The gap and its 95 % interval over the number of seeds."""
    figure, (axis,) = f.panels(1, width=5.4)
    means = select(means_of(table), {"metric": "gap_to_endpoint"})
    f.line_with_band(axis, means, "level", f.BLUE, "mean and 95 % t-interval")
    axis.axhline(0, color="black", linewidth=0.8)
    axis.set(xlabel="training seeds", ylabel="trajectory − endpoint (share of coordinates)")
    axis.legend(fontsize=7)
    return figure
