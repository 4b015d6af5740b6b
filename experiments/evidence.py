"""Make table c2: how far endpoint recovery goes with each kind of evidence."""

from gaugeport.pipeline.report import figures as f
from gaugeport.pipeline.report.judged import judged
from gaugeport.pipeline.report.narrow import Narrow
from gaugeport.pipeline.report.render import with_intervals
from gaugeport.pipeline.report.tidy import aggregate, means_of, middle_site, select, tidy

TITLE = "c2 Evidence: how far endpoint recovery goes with each kind of evidence"
CAPTION = (
    "Signed accuracy at the last step: from the activations of one site (block L/2), of all sites pooled, "
    "from the weights, from both. Shuffled: from the weights, B's neurons and heads in random order."
)
SETTINGS = {"lr": "training.run.lr"}

NARROW = Narrow(
    columns={
        "model": "model",
        "setting": "setting",
        "one site": "one site",
        "pooled sites": "pooled sites",
        "weights": "weights",
        "weights, any order": "shuffled",
        "pooled + weights": "both",
        "n": "n",
    },
    rows={},
    means=("weights", "weights, any order", "pooled + weights"),
)


def tabulate(records):
    """Return every measurement, the means over seeds, and the judged claims."""
    rows = tidy("c2", records, SETTINGS)
    return judged("c2", rows, aggregate(rows, list(SETTINGS)))


def pivot(table):
    """Return a row per model and setting, a column per evidence."""
    last = _last(table)
    last = last.assign(text=with_intervals(last))
    wide = last.pivot(index=["model", "setting", "n"], columns="label", values="text")
    order = [label for label in ORDER if label in wide]
    return wide[order].fillna("–").reset_index()


def summary(wide):
    """Return, for each model and setting, one site (block L/2) beside pooled sites and weights."""
    sites = [column.removeprefix("site ") for column in wide if column.startswith("site block")]
    return NARROW(wide.rename(columns={f"site {middle_site(sites)}": "one site"}) if sites else wide)


def plot(table):
    """Draw bars by evidence, a panel per model and setting."""
    last = _last(table)
    groups = list(last.groupby(["model", "setting"], sort=False))
    figure, axes = f.panels(len(groups), width=max(2.4, 11 / len(groups)))
    for axis, ((model, setting), part) in zip(axes, groups, strict=True):
        low, high = (
            (part["value"] - part["ci_low"]).clip(lower=0),
            (part["ci_high"] - part["value"]).clip(lower=0),
        )
        error = [low.fillna(0), high.fillna(0)]
        colours = [f.SKY if s.startswith("site") else COLOURS[s] for s in part["label"]]
        axis.barh(part["label"], part["value"], xerr=error, color=colours)
        axis.set(title=f"{model}\n{setting}", xlim=(0, 1.04), xlabel="signed accuracy")
        axis.invert_yaxis()
    return figure


LABELS = {
    ("pooled", "endpoint"): "pooled sites",
    ("weights", "endpoint"): "weights",
    ("weights_any_order", "endpoint"): "weights, any order",
    ("weights_row_by_row", "endpoint"): "any order, row by row",
    ("weights_all_rows", "endpoint"): "weights, untrained rows too",
    ("both", "endpoint"): "pooled + weights",
    ("site", "trajectory"): "trajectory, one site",
}
ORDER = ["site embed", *(f"site block{i}" for i in range(200)), *LABELS.values()]
COLOURS = dict(
    zip(LABELS.values(), (f.GREEN, f.ORANGE, f.YELLOW, f.GREY, f.RED, f.PURPLE, f.BLUE), strict=True)
)


def _last(table):
    means = select(means_of(table), {"metric": "signed_accuracy"})
    means = means[means["step"] == means.groupby(["model", "setting"])["step"].transform("max")]
    middle = {m: middle_site(list(p["site"].dropna().unique())) for m, p in means.groupby("model")}
    at_site = (means["evidence"] == "site") & (means["route"] == "trajectory")
    means = means[(means["route"] == "endpoint") | (at_site & (means["site"] == means["model"].map(middle)))]
    endpoint_site = (means["evidence"] == "site") & (means["route"] == "endpoint")
    labels = [LABELS.get((e, r), "") for e, r in zip(means["evidence"], means["route"], strict=True)]
    means = means.assign(label=labels)
    means.loc[endpoint_site, "label"] = "site " + means.loc[endpoint_site, "site"].astype(str)
    return means.sort_values(
        ["model", "setting", "label"], key=lambda c: c.map(ORDER.index) if c.name == "label" else c
    )
