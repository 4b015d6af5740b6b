"""Make table a3: coordinates recovered across two fine-tuning runs from one base, by route."""

import pandas as pd

from gaugeport.pipeline.report import figures as f
from gaugeport.pipeline.report.conditions import condition_name
from gaugeport.pipeline.report.judged import judged
from gaugeport.pipeline.report.render import with_intervals
from gaugeport.pipeline.report.tidy import (
    MAIN_MODELS,
    aggregate,
    by_depth,
    main_model,
    means_of,
    middle_site,
    models_of,
    select,
    tidy,
)

TITLE = "a3 Trajectory: share of coordinates recovered, by route"
CAPTION = (
    "Two runs are fine-tuned from one base, and one is written in random signed coordinates. Endpoint "
    "matches the last checkpoints, via base matches by way of the base, trajectory composes the gauges of "
    "all checkpoints. Signed accuracy at "
    "block L/2 and the last step; gap: what the trajectory recovers more than the endpoint. Unsigned: "
    "matched with the signs dropped."
)
DETAILS = "The wide form has every site at the default setting, and block L/2 elsewhere."
SETTINGS = {"lr": "training.run.lr", "spacing": "measurement.spacing", "tokens": "measurement.tokens"}
METRICS = ["signed_accuracy", "index_accuracy", "gap_to_endpoint", "gap_to_via_base", "loop_consistency"]
PAPER = {"endpoint": 0.603, "trajectory": 0.911}

CONDITIONS = {
    ("permutation", "hungarian_raw", "endpoint"): ("endpoint, S_d raw", f.GREY, "--"),
    ("permutation", "hungarian_abs", "endpoint"): ("endpoint, S_d signs dropped", f.PURPLE, "--"),
    ("signed_permutation", "hungarian_abs", "endpoint"): ("endpoint, B_d", f.RED, "-"),
    ("signed_permutation", "hungarian_abs", "via_base"): ("via base, B_d", f.ORANGE, "-"),
    ("signed_permutation", "hungarian_abs", "trajectory"): ("trajectory, B_d", f.BLUE, "-"),
    ("global_sign_permutation", "hungarian_raw", "endpoint"): ("endpoint, S_d × {±1}", f.RED, "-"),
    ("global_sign_permutation", "hungarian_raw", "via_base"): ("via base, S_d × {±1}", f.ORANGE, "-"),
    ("global_sign_permutation", "hungarian_raw", "trajectory"): ("trajectory, S_d × {±1}", f.BLUE, "-"),
}


def tabulate(records):
    """Return every measurement, the means over seeds with the paper's figures, and the judged gaps."""
    rows = tidy("a3", records, SETTINGS)
    rows = pd.concat([rows, _gaps(rows)], ignore_index=True)
    means = aggregate(rows, list(SETTINGS))
    mid = _at_middle(means)
    ours = (means.index.isin(mid.index)) & means["model"].isin(MAIN_MODELS) & (means["setting"] == "default")
    ours &= (means["group"] == "signed_permutation") & (means["matcher"] == "hungarian_abs")
    ours &= (means["metric"] == "signed_accuracy") & (means["step"] == means["step"].max())
    means.loc[ours, "paper"] = means.loc[ours, "route"].map(PAPER).astype(float)
    return judged("a3", rows, means)


def pivot(table):
    """Return a row per model, setting, condition and site: accuracies at the last step, and losses."""
    means = means_of(table)
    last = means[means["step"] == means.groupby(["model", "setting"])["step"].transform("max")]
    by_site = last[(last["evidence"] == "site") & (last["setting"] == "default")]
    shown = pd.concat(
        [by_site, _at_middle(last[last["setting"] != "default"]), last[last["evidence"].isna()]]
    )
    shown = shown[shown["metric"].isin(METRICS)]
    shown = shown.assign(text=with_intervals(shown), site=shown["site"].fillna("–"))
    keys = ["model", "setting", "group", "matcher", "route", "site"]
    wide = shown.pivot(index=[*keys, "n"], columns="metric", values="text").fillna("–").reset_index()
    wide = wide[[*keys, "n", *[m for m in METRICS if m in wide]]]
    wide = wide.sort_values("site", key=lambda s: by_depth(s.replace("–", "embed")), kind="stable")
    wide = wide.sort_values(keys[:-1], kind="stable")
    paper = shown.dropna(subset=["paper"]).set_index(keys)["paper"]
    wide["paper"] = [f"{paper[k]:.3f}" if k in paper else "" for k in map(tuple, wide[keys].to_numpy())]
    return wide.merge(_losses(means), on=["model", "setting"], how="left")


def summary(wide):
    """Return the middle site of the default setting: a row per model, group and route."""
    default = wide[wide["setting"] == "default"]
    sites = default[default["site"] != "–"].groupby("model")["site"].unique()
    at = default["model"].map({model: middle_site(list(names)) for model, names in sites.items()})
    here = default[default["site"] == at].copy()
    keys = zip(here["group"], here["matcher"], strict=True)
    names = [condition_name(group, matcher, "endpoint") for group, matcher in keys]
    here["gauge"] = [name.replace(", signs dropped", " unsigned") for name in names]
    order = {"endpoint": 0, "via_base": 1, "trajectory": 2}
    ranks = here.assign(
        first=~here["model"].isin(MAIN_MODELS),
        second=here["group"].map({"signed_permutation": 0, "global_sign_permutation": 0}).fillna(1),
        third=here["route"].map(order),
    )
    here = here.loc[ranks.sort_values(["first", "model", "second", "gauge", "third"]).index]
    return here.assign(route=here["route"].str.replace("_", " ")).rename(
        columns={"signed_accuracy": "recovered", "gap_to_endpoint": "gap"}
    )[["model", "gauge", "route", "recovered", "paper", "gap", "n"]]


def plot(table):
    """Draw accuracy over steps by route, a panel per model, then by site and by learning rate."""
    signed = select(means_of(table), {"metric": "signed_accuracy"})
    means = _at_middle(signed)
    models = models_of(means)
    has_lr = means["setting"].str.startswith("lr=").any()
    figure, axes = f.panels(len(models) + 1 + int(has_lr), columns=3)
    for axis, model in zip(axes, models, strict=False):
        _draw(axis, select(means, {"model": model, "setting": "default"}), "step")
        axis.set(
            title=f"{model}, {_at_middle(signed[signed['model'] == model])['site'].iloc[0]}", ylim=(0, 1.04)
        )
        axis.set_xlabel("fine-tuning steps of A and of B")
    for route, colour in (("trajectory", f.BLUE), ("endpoint", f.RED)):
        f.paper_line(axes[0], PAPER[route], colour, f"paper, {route}")
    axes[0].set_ylabel("signed accuracy (share of coordinates)")
    _draw(axes[len(models)], _by_site(signed, models[0]), "site")
    axes[len(models)].set(title=f"{models[0]}, last step", xlabel="site")
    if len(axes[len(models)].get_xticklabels()) > 6:  # side by side they would touch
        axes[len(models)].tick_params(axis="x", rotation=45)
    if has_lr:
        _draw(axes[-1], _by_learning_rate(means), "lr")
        axes[-1].set(title=f"{models[0]}, last step", xlabel="fine-tuning learning rate", xscale="log")
        ticks = sorted(_by_learning_rate(means)["lr"].unique())
        axes[-1].set_xticks(ticks, [f"{t:g}" for t in ticks])
        axes[-1].minorticks_off()
    for axis, model in zip(axes, models, strict=False):
        if model != "qwen":  # whose conditions are tinyllama's
            axis.legend(fontsize=6.5, loc="lower left")
    return figure


def _gaps(rows):
    """Return, per seed, site and step, what the trajectory recovers more than the endpoint and the base."""
    signed = rows[(rows["metric"] == "signed_accuracy") & (rows["evidence"] == "site")]
    ours = signed[signed["route"] == "trajectory"]
    same = ["model", "seed", "setting", "group", "matcher", "site", "step"]
    parts = []
    for other in ("endpoint", "via_base"):
        theirs = signed[signed["route"] == other]
        values = dict(zip(_keys(theirs, same), theirs["value"], strict=True))
        gap = ours["value"] - [values.get(key, float("nan")) for key in _keys(ours, same)]
        parts.append(ours.assign(metric=f"gap_to_{other}", value=gap).dropna(subset=["value"]))
    return pd.concat(parts)


def _keys(rows, columns):
    return zip(*(rows[column] for column in columns), strict=True)


def _draw(axis, means, x):
    for (group, matcher, route), (label, colour, style) in CONDITIONS.items():
        rows = select(means, {"group": group, "matcher": matcher, "route": route})
        if len(rows):
            f.line_with_band(axis, rows, x, colour, label, style)


def _by_site(signed, model):
    rows = select(signed, {"model": model, "setting": "default", "evidence": "site"})
    return rows[rows["step"] == rows["step"].max()].sort_values("site", key=by_depth)


def _by_learning_rate(means):
    rows = select(means, {"model": main_model(means)})
    rows = rows[rows["step"] == rows["step"].max()]
    return rows[(rows["setting"] == "default") | rows["setting"].str.startswith("lr=")]


def _at_middle(frame):
    at_site = frame[frame["evidence"] == "site"]
    parts = [
        part[part["site"] == middle_site(list(part["site"].unique()))]
        for _, part in at_site.groupby("model", sort=False)
    ]
    return pd.concat(parts) if parts else at_site


def _losses(means):
    losses = means[means["metric"].isin(["loss_base", "loss_A", "loss_B"])]
    # every condition of a setting reports the losses of the same models: take the one with the most seeds
    losses = losses.sort_values("n", ascending=False).drop_duplicates(["model", "setting", "metric"])
    wide = losses.pivot(index=["model", "setting"], columns="metric", values="value")
    return wide.map(lambda v: f"{v:.2f}").reset_index()
