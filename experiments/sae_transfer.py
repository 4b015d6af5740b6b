"""Make table a4: what an SAE of A explains of B after its transport."""

import pandas as pd

from gaugeport.pipeline.report import figures as f
from gaugeport.pipeline.report.conditions import (
    ORDER,
    SHORT_CAPTION,
    SHORT_NAMES,
    conditions_of,
    with_conditions,
)
from gaugeport.pipeline.report.judged import judged
from gaugeport.pipeline.report.narrow import Narrow
from gaugeport.pipeline.report.render import cell, interval
from gaugeport.pipeline.report.tidy import (
    ITSELF,
    MAIN_MODELS,
    UNIFORM_SHARE,
    aggregate,
    main_model,
    means_of,
    select,
    share_setting,
    shares_of,
    tidy,
)

TITLE = "a4 SAE transfer: variance of B that a moved SAE of A leaves unexplained (NMSE)"
CAPTION = (
    "The target is A itself in other coordinates (identical) or a run fine-tuned apart (finetuned). "
    "Theory holds for uniformly random signs. Loss recovered is relative to zero ablation. The paper does "
    "not say which target, nor which S_d. "
    f"{SHORT_CAPTION}"
)
DETAILS = (
    "The reference value of theory counts silent latents and bounds nothing. To oracle: against the SAE "
    "that the true gauge moves. CE: loss recovered over zero ablation, of one plant. Massive tokens (norms "
    "over ten medians) are left out; NMSE with them has a column where there are any."
)
EXTRA = ["target", "architecture", "theory"]
UNIFORM = ("identity", "S_d, signs dropped")
"""Conditions whose error has uniformly random signs on an identical target, where theory applies."""
PAPER = {"S_d raw": 1.08, "S_d, signs dropped": 1.08, "B_d": 0.004}  # the text does not say which S_d
COLUMNS = {
    "nmse": "NMSE",
    "theory": "theory",
    "paper": "paper",
    "nmse_native": "native",
    "nmse_excess": "excess",
    "nmse_to_oracle": "to oracle",
    "nmse_massive": "NMSE with massive tokens",
    "nmse_first_token": "NMSE with first token",
    "ce_recovered": "CE recovered",
    "l0": "L0",
    "dead_latents": "dead",
    "signed_accuracy": "gauge accuracy",
    "loss_A": "loss A",
    "loss_B": "loss B",
}

SUMMARY = Narrow(
    columns={
        "target": "target",
        "condition": "condition",
        "NMSE": "NMSE",
        "theory": "theory",
        "paper": "paper",
        "CE recovered": "loss recovered",
        "n": "n",
    },
    rows={"model": MAIN_MODELS, "setting": "default", "architecture": "topk"},
    words=SHORT_NAMES,
)


def tabulate(records):
    """Return every measurement, the means with the paper's figures and theory, and the judged claims."""
    share = share_setting(records)
    rows = tidy("a4", records, share, EXTRA)
    means = with_conditions(aggregate(rows, [*EXTRA, *share]))
    same = [*_SAME, *share]
    silent = means[means["metric"] == "nmse_silent"].drop_duplicates(same).set_index(same)["value"]
    identical = means["target"].isin(ITSELF) & (means["metric"] == "nmse")
    # moved by the identity, a stream is at wrong places: only uniform signs say what it meets there
    uniform = identical & means["condition"].isin(UNIFORM)
    uniform &= (means["condition"] != "identity") | (shares_of(means) == UNIFORM_SHARE)
    means.loc[uniform, "theory"] = [
        silent.get(key) for key in map(tuple, means.loc[uniform, same].to_numpy())
    ]
    ours = identical & means["model"].isin(MAIN_MODELS) & (means["setting"] == "default")
    ours &= means["architecture"] == "topk"
    means.loc[ours, "paper"] = means.loc[ours, "condition"].map(PAPER)
    return judged("a4", rows, means.drop(columns="condition"))


def pivot(table):
    """Return a row per model, SAE, target and condition: reconstruction, loss recovered, sparsity, losses."""
    lines, measured = [], set(table["metric"])
    by = ["model", "setting", "architecture", "target", "site", "condition"]
    for key, part in with_conditions(means_of(table)).groupby(by, sort=False, dropna=False):
        line = dict(zip(by, key, strict=True))
        by_metric = part.drop_duplicates("metric").set_index("metric")
        for name, title in COLUMNS.items():
            if name == "nmse_massive" and name not in measured:
                continue
            if name in ("theory", "paper"):
                line[title] = interval(by_metric.at["nmse", name], None, None)
            else:
                line[title] = cell(select(part, {"metric": name}))
        lines.append({**line, "n": int(by_metric.at["nmse", "n"])})
    wide = pd.DataFrame(lines)
    wide["order"] = wide["condition"].map(ORDER).fillna(len(ORDER))
    wide["topk"] = wide["architecture"] != "topk"
    wide["same"] = ~wide["target"].isin(ITSELF)
    keys = ["model", "setting", "topk", "same", "order"]
    return (
        wide.sort_values(keys, kind="stable").drop(columns=["topk", "same", "order"]).reset_index(drop=True)
    )


def plot(table):
    """Draw NMSE by condition, a panel per target (filled: TopK, hollow: standard; tick: theory; line:
    paper)."""
    means = with_conditions(means_of(table))
    model = main_model(means)
    means = select(means, {"model": model, "setting": "default"})
    targets = [t for t in (*ITSELF, "finetuned") if t in set(means["target"])]
    figure, axes = f.panels(len(targets), width=5.2, height=3.8)
    for axis, target in zip(axes, targets, strict=True):
        here = select(means, {"target": target, "metric": "nmse"})
        conditions = conditions_of(here)
        for x, condition in enumerate(conditions):
            for architecture, shift, fill in (("topk", -0.1, condition.colour), ("standard", 0.1, "white")):
                for _, row in select(
                    here, {"condition": condition.name, "architecture": architecture}
                ).iterrows():
                    _point(axis, x + shift, row, condition.colour, fill)
        axis.set_xticks(
            range(len(conditions)),
            [condition.name for condition in conditions],
            rotation=30,
            ha="right",
            fontsize=7,
        )
        axis.set(title=f"{model}, target {target}", yscale="log")
    axes[0].set_ylabel("NMSE, held-out tokens of the target")
    if targets[0] in ITSELF:
        for condition, text in (("S_d, signs dropped", "paper, S_d"), ("B_d", "paper, B_d")):
            f.paper_line(axes[0], PAPER[condition], f.PURPLE if condition != "B_d" else f.BLUE, text)
    return figure


_SAME = ["profile", "model", "setting", "architecture", "target", "site"]


def _point(axis, x, row, colour, fill):
    low = (
        max(row["ci_low"], row["value"] / 10) if pd.notna(row["ci_low"]) else row["value"]
    )  # the axis is logarithmic
    high = row["ci_high"] if pd.notna(row["ci_high"]) else row["value"]
    axis.plot([x, x], [low, high], color=colour, linewidth=1)
    axis.plot([x], [row["value"]], "o", color=colour, markerfacecolor=fill, markersize=5)
    if pd.notna(row["theory"]):
        axis.plot([x - 0.25, x + 0.25], [row["theory"]] * 2, ":", color="black", linewidth=1.2)
