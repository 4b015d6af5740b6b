"""Make table c3: do margins sort right from wrong placements?"""

from gaugeport.pipeline.report import figures as f
from gaugeport.pipeline.report.judged import judged
from gaugeport.pipeline.report.narrow import Narrow
from gaugeport.pipeline.report.render import of_seeds, with_intervals
from gaugeport.pipeline.report.tidy import (
    MAIN_MODELS,
    aggregate,
    by_depth,
    main_model,
    means_of,
    middle_site,
    select,
    tidy,
)

TITLE = "c3 Confidence: do margins sort right from wrong placements?"
CAPTION = (
    "Signed accuracy of all coordinates and of the half with the largest margins, at block L/2. Area: "
    "under accuracy against share kept, in order of margins; at random it is the accuracy itself. Margins "
    "sort placements but are not calibrated: the one below which they go wrong depends on the drift."
)
SETTINGS = {"lr": "training.run.lr"}
COLUMNS = {
    "all": "all kept",
    "half": "half kept",
    "area_under_curve": "area",
    "area_random": "area, random order",
    "area_best": "area, best order",
    "margin_auroc": "AUROC of the margin",
}
EVIDENCE = {
    "site": (f.SKY, "-"),
    "pooled": (f.GREEN, "--"),
    "weights": (f.ORANGE, "-."),
    "both": (f.PURPLE, ":"),
}
ROUTES = {"endpoint": f.RED, "via_base": f.ORANGE, "trajectory": f.BLUE}

NARROW = Narrow(
    columns={
        "setting": "setting",
        "route": "route",
        "evidence": "evidence",
        "all kept": "all kept",
        "half kept": "half kept",
        "area": "area",
        "n": "n",
    },
    rows={
        "model": MAIN_MODELS,
        "setting": ("default", "lr=0.03"),
        "group": "signed_permutation",
        "site": ("–", "middle"),
        "route": ("endpoint", "trajectory"),
    },
    means=("area",),
    words={"via_base": "via base"},
)


def tabulate(records):
    """Return every measurement, the means over seeds, and the judged claims."""
    rows = tidy("c3", records, SETTINGS, ["kept"])
    return judged("c3", rows, aggregate(rows, [*SETTINGS, "kept"]))


def pivot(table):
    """Return a row per model, setting, condition and evidence: all sites by default, else the middle one."""
    means = _means(table)
    means = means[(means["setting"] == "default") | _at_middle(means)]
    means.loc[(means["metric"] == "kept_accuracy") & (means["kept"] == 1.0), "metric"] = "all"
    means.loc[(means["metric"] == "kept_accuracy") & (means["kept"] == 0.5), "metric"] = "half"
    means = means[means["metric"].isin(COLUMNS)]
    keys = ["model", "setting", "group", "matcher", "route", "evidence", "site"]
    means = means.assign(site=means["site"].fillna("–"))
    # AUROC is undefined where every placement is right, so a row's n is that of its other columns
    most = means.groupby(keys)["n"].transform("max")
    of = [of_seeds(*pair) for pair in zip(means["n"], most, strict=True)]
    means = means.assign(text=with_intervals(means) + of, n=most)
    wide = means.pivot(index=[*keys, "n"], columns="metric", values="text").reset_index()
    wide = wide.sort_values("site", key=lambda s: by_depth(s.replace("–", "embed")), kind="stable")
    wide = wide.sort_values(keys[:-1], kind="stable")
    shown = [c for c in COLUMNS if c in wide]
    return wide[[*keys, *shown, "n"]].rename(columns=COLUMNS).fillna("–")


def summary(wide):
    """Return the endpoint and the trajectory at block L/2, at the default and the largest learning rate."""
    sites = wide.loc[wide["site"].str.startswith("block"), "site"]
    middle = middle_site(list(sites.unique())) if len(sites) else ""
    return NARROW(wide.assign(site=wide["site"].replace(middle, "middle")))


def plot(table):
    """Draw accuracy against the share kept: by evidence at the endpoint, by route at one site, by learning
    rate."""
    means = _means(table)
    model = main_model(means)
    means = select(means, {"metric": "kept_accuracy", "model": model})
    means = means[means["site"].isna() | _at_middle(means)]
    ours = means[means["group"] == "signed_permutation"]
    default = ours[ours["setting"] == "default"]
    at_site = ours[(ours["evidence"] == "site") & (ours["route"] == "endpoint")]
    rates = at_site[at_site["setting"].str.startswith("lr=") | (at_site["setting"] == "default")]
    has_lr = rates["lr"].nunique() > 1
    figure, axes = f.panels(2 + int(has_lr), width=4.4)
    site = next(iter(default["site"].dropna()), "one site")
    for kind, (colour, style) in EVIDENCE.items():
        label = (
            site if kind == "site" else {"both": "pooled + weights", "pooled": "pooled sites"}.get(kind, kind)
        )
        _draw(axes[0], select(default, {"evidence": kind, "route": "endpoint"}), colour, label, style)
    for route, colour in ROUTES.items():
        _draw(axes[1], select(default, {"evidence": "site", "route": route}), colour, route)
    axes[0].set(title=f"{model}, endpoint, by evidence", ylabel="signed accuracy of the kept coordinates")
    axes[1].set(title=f"{model}, {site}, by route")
    if has_lr:
        palette = [f.BLUE, f.GREEN, f.ORANGE, f.RED, f.PURPLE]
        for (lr, part), colour in zip(rates.groupby("lr"), palette, strict=False):
            _draw(axes[2], part, colour, f"lr {lr:g}")
        axes[2].set(title=f"{model}, {site}, endpoint, by learning rate")
    for axis in axes:
        axis.set(
            xlabel="share of coordinates kept, largest margins first (dotted: random order)", ylim=(0, 1.04)
        )
        axis.xaxis.label.set_fontsize(7)
        axis.legend(fontsize=6.5, loc="lower left")
    return figure


def _draw(axis, rows, colour, label, style="-"):
    if len(rows):
        f.line_with_band(axis, rows, "kept", colour, label, style)
        axis.axhline(rows.loc[rows["kept"] == 1.0, "value"].iloc[0], color=colour, linestyle=":", linewidth=1)


def _means(table):
    return means_of(table).dropna(subset=["evidence"])


def _at_middle(frame):
    sites = frame[frame["site"].notna()].groupby("model")["site"].unique()
    middle = {model: middle_site(list(names)) for model, names in sites.items()}
    return frame["site"].isna() | (frame["site"] == frame["model"].map(middle))
