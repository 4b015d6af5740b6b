"""Make table a2: raw matching is capped at the share of positive signs, matching by |C| is not."""

import pandas as pd

from gaugeport.pipeline.report import figures as f
from gaugeport.pipeline.report.judged import judged
from gaugeport.pipeline.report.narrow import Narrow
from gaugeport.pipeline.report.render import interval
from gaugeport.pipeline.report.tidy import aggregate, means_of, select, tidy

TITLE = "a2 Sign ceiling: index accuracy by the share p of positive signs"
CAPTION = (
    "Raw matching cannot place more than the share p of positive signs (theory); matching by |C|, which "
    "ignores signs, can. Seeds are draws of synthetic activations, or trainings."
)
NAMES = {
    "default": "synthetic, decorrelated",
    "correlated": "synthetic, correlated",
    "real": "real, as they are",
    "real_whitened": "real, whitened",
}

SUMMARY = Narrow(
    columns={
        "activations": "activations",
        "p": "p",
        "theory": "theory",
        "raw (S_d)": "raw (S_d)",
        "sign-marginalized (B_d)": "signs ignored (B_d)",
        "n": "n",
    },
    rows={"p": ("0.1", "0.3", "0.5", "0.7", "0.9")},
)


def tabulate(records):
    """Return every measurement, the means over seeds with theory (p), and the judged ceiling."""
    rows = tidy("a2", records)
    synthetic = rows["setting"].isin(["default", "correlated"])
    rows = rows.assign(
        route=None, model=rows["model"].mask(synthetic), activations=rows["setting"].map(NAMES)
    )
    means = aggregate(rows, ["p"])
    raw = (means["matcher"] == "hungarian_raw") & (means["metric"] == "index_accuracy")
    means["theory"] = means["p"].where(raw)
    return judged("a2", rows, means)


def pivot(table):
    """Return a row per activations and p: raw and sign-marginalized accuracy with theory between them."""
    means = select(means_of(table), {"metric": "index_accuracy"})
    lines = []
    for (setting, p), part in means.groupby(["setting", "p"], sort=False):
        by = part.set_index("matcher")
        raw, marginal = by.loc["hungarian_raw"], by.loc["hungarian_abs"]
        lines.append(
            {
                "activations": NAMES[setting],
                "p": f"{p:.1f}",
                "raw (S_d)": interval(raw["value"], raw["ci_low"], raw["ci_high"]),
                "theory": f"{p:.3f}",
                "sign-marginalized (B_d)": interval(
                    marginal["value"], marginal["ci_low"], marginal["ci_high"]
                ),
                "n": int(raw["n"]),
            }
        )
    return pd.DataFrame(lines)


def plot(table):
    """Draw accuracy against p with theory as a line, a panel per kind of activations."""
    means = select(means_of(table), {"metric": "index_accuracy"})
    settings = [s for s in NAMES if s in set(means["setting"])]
    figure, axes = f.panels(len(settings), width=3.2)
    for axis, setting in zip(axes, settings, strict=True):
        part = select(means, {"setting": setting})
        axis.plot([0, 1], [0, 1], ":", color=f.GREY, label="theory: accuracy = p")
        f.line_with_band(axis, select(part, {"matcher": "hungarian_raw"}), "p", f.RED, "raw (S_d)")
        f.line_with_band(
            axis, select(part, {"matcher": "hungarian_abs"}), "p", f.BLUE, "sign-marginalized (B_d)"
        )
        axis.set(title=NAMES[setting], xlabel="p, share of positive signs", ylim=(-0.02, 1.04))
    axes[0].set_ylabel("index accuracy")
    axes[0].legend(fontsize=7)
    return figure
