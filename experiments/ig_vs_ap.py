"""Table b3: what integrated gradients and attribution patching predict of mean ablation, beside what it does."""

import pandas as pd

from gaugeport.report import figures as f
from gaugeport.report.claims import judged
from gaugeport.report.render import interval, scientific
from gaugeport.report.tidy import aggregate, means_of, select, tidy

TITLE = (
    "b3 integrated gradients or attribution patching: Pearson of predicted with measured effects of mean-ablating each of "
    "the ten components (rise of the mean loss, nats); completeness error: largest difference of prediction and effect, by "
    "points on the path. Dyck-3; the language model's half of the claim waits for table b5's models"
)
EXTRA = ["cohort", "component", "predictor", "points"]
NAMES = {"integrated_gradients": "integrated gradients", "attribution_patching": "attribution patching"}
PAPER = {"integrated_gradients": 0.9997, "attribution_patching": None}
"""Means over the paper's five seeds (appendix C); its values for attribution patching are lost, three of five negative."""
POINTS = (4, 32, 128, 512)


def tabulate(records):
    """Every measurement, its mean over seeds with the paper's, and the judged contrast of the predictors."""
    rows = tidy("b3", records, extra=EXTRA).assign(group=None, matcher=None, route=None)
    means = aggregate(rows, EXTRA)
    main = (means["metric"] == "predictor_pearson") & (means["cohort"] == "A")
    means.loc[main, "paper"] = means.loc[main, "predictor"].map(PAPER)
    return judged("b3", rows, means)


def pivot(table):
    """One row per model, then the means of each cohort: both correlations and the completeness errors."""
    lines = []
    for (cohort, seed), part in table[table["seed"].notna()].groupby(["cohort", "seed"]):
        lines.append({"cohort": cohort, "seed": f"{seed:.0f}", **_line(part)})
    for cohort, part in means_of(table).groupby("cohort", sort=False):
        lines.append({"cohort": cohort, "seed": f"mean of {int(part['n'].max())}", **_line(part)})
    return pd.DataFrame(lines)


def plot(table):
    """Predicted against measured effects of every component and seed, and the completeness error against path points."""
    seeds = table[table["seed"].notna()]
    figure, axes = f.panels(3, width=4.0, height=3.6, sharey=False)
    effects = select(seeds, {"metric": "effect"})
    real = effects[effects["predictor"].isna()].set_index(["cohort", "seed", "component"])["value"]
    for axis, (predictor, colour) in zip(
        axes, (("integrated_gradients", f.BLUE), ("attribution_patching", f.RED)), strict=False
    ):
        part = select(effects, {"predictor": predictor}).set_index(["cohort", "seed", "component"])["value"]
        axis.plot(real.reindex(part.index), part, "o", color=colour, markersize=4, alpha=0.7)
        top = float(real.max())
        axis.plot([0, top], [0, top], ":", color=f.GREY, linewidth=1)
        axis.set(title=NAMES[predictor], xlabel="measured rise of the loss, nats")
    axes[0].set_ylabel("predicted rise of the loss, nats")
    errors = axes[2]
    means = select(means_of(table), {"metric": "completeness_error"})
    for (cohort, part), colour in zip(means.groupby("cohort"), (f.BLUE, f.ORANGE), strict=False):
        part = part.sort_values("points")
        errors.plot(part["points"], part["value"], "o-", color=colour, markersize=4, label=f"cohort {cohort}")
    errors.set(xscale="log", yscale="log", xlabel="points on the path", ylabel="largest completeness error, nats")
    errors.legend(fontsize=7)
    return figure


def _line(part):
    line = {}
    for predictor, name in NAMES.items():
        found = select(part, {"metric": "predictor_pearson", "predictor": predictor})
        line[f"r, {name}"] = interval(*found[["value", "ci_low", "ci_high"]].iloc[0], digits=4)
    paper = select(part, {"metric": "predictor_pearson", "predictor": "integrated_gradients"})["paper"].iloc[0]
    line["paper's r"] = "–" if pd.isna(paper) else f"{paper:.4f} vs negative in 3 of 5"
    for points in POINTS:
        found = select(part, {"metric": "completeness_error", "points": points})
        line[f"error, {points} points"] = (
            scientific(*found[["value", "ci_low", "ci_high"]].iloc[0]) if len(found) else "–"
        )
    return line
