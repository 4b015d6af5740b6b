"""Make table d6: the interval of the gap between trajectory and endpoint, by number of training seeds."""

import pandas as pd

from gaugeport.pipeline.report import figures as f
from gaugeport.pipeline.report.ablation import Ablation
from gaugeport.pipeline.report.tidy import aggregate, means_of, select

TABLE = Ablation("d6", "training seeds", "seed", short="seeds")
TITLE = "d6 Ablation: the gap between trajectory and endpoint, by number of training seeds"
CAPTION = (
    "Share of coordinates recovered (signed accuracy at block L/2 and the last step) and its intervals over "
    "the first n training seeds."
)
DETAILS, SUMMARY, pivot = TABLE.details, TABLE.summary, TABLE.pivot


def tabulate(records):
    """Return, for each n, the measurements of the first n seeds and their means."""
    measured = TABLE.measurements(records)
    seeds = sorted(measured["seed"].unique())
    first = [
        measured[measured["seed"].isin(seeds[:n])].assign(**{TABLE.axis: n}) for n in range(1, len(seeds) + 1)
    ]
    measured = pd.concat(first, ignore_index=True)
    return pd.concat([measured, aggregate(measured, [TABLE.axis])], ignore_index=True)


def plot(table):
    """Draw the gap and its 95 % interval over the number of seeds."""
    figure, (axis,) = f.panels(1, width=5.4)
    means = select(means_of(table), {"metric": "gap_to_endpoint"})
    f.line_with_band(axis, means, TABLE.axis, f.BLUE, "mean and 95 % t-interval")
    axis.axhline(0, color="black", linewidth=0.8)
    axis.set(xlabel="training seeds", ylabel="trajectory − endpoint (share of coordinates)")
    axis.legend(fontsize=7)
    return figure
