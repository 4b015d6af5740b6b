"""Make table b3: integrated gradients and attribution patching as predictors of mean ablation."""

import numpy as np
import pandas as pd

from gaugeport.pipeline.report import figures as f
from gaugeport.pipeline.report.judged import judged
from gaugeport.pipeline.report.render import cell, interval, scientific
from gaugeport.pipeline.report.tidy import aggregate, means_of, select, tidy

TITLE = "b3 Integrated gradients or attribution patching as predictors of ablation"
CAPTION = (
    "Integrated: by integrated gradients; patching: by attribution patching. "
    "Pearson correlation r of predicted with measured effects of mean ablation: of the toy's ten "
    "components, and of every block of the language models, ablating the whole stream behind it or its "
    "update alone. < 0: on how many seeds patching's r is negative."
)
DETAILS = (
    "Effects are rises of the mean loss, in nats. Completeness error: the largest difference of "
    "prediction and effect, by points on the path. |predicted / measured|: median over blocks. Effects by "
    "block are means over n seeds."
)
EXTRA = ["cohort", "component", "predictor", "points", "ablated"]
NAMES = {"integrated_gradients": "integrated gradients", "attribution_patching": "attribution patching"}
COLOURS = {"integrated_gradients": f.BLUE, "attribution_patching": f.RED}
PAPER = {"integrated_gradients": 0.9997, "attribution_patching": None}
"""The paper's means of five seeds (appendix C). Those of patching are lost; three of five are negative."""
APPENDIX_D = pd.DataFrame(
    {
        "measured": [6.04, 6.02, 5.10, 5.37, 5.56, 5.52],
        "attribution_patching": [0.15, 0.03, 0.01, 0.12, 0.06, 0.37],
        "integrated_gradients": [5.87, 5.97, 5.01, 5.27, 5.31, 5.36],
    },
    index=[f"layer{n}" for n in range(6)],
)
"""The paper's effects of pythia-70m-seed1's blocks, nats. Its correlations are lost."""
POINTS = (4, 32, 128, 512)


def paper_pearson(predictor):
    """Return the correlation of appendix D's six rows, which the paper lost."""
    return float(np.corrcoef(APPENDIX_D[predictor], APPENDIX_D["measured"])[0, 1])


def tabulate(records):
    """Return every measurement, the means over seeds with the paper's figures, and the judged claims."""
    rows = tidy("b3", records, extra=EXTRA).assign(group=None, matcher=None, route=None)
    below = select(rows, {"metric": "predictor_pearson"})
    below = below.assign(metric="predictor_negative", value=(below["value"] < 0).astype(float))
    rows = pd.concat([rows, below], ignore_index=True)
    means = aggregate(rows, EXTRA)
    correlations = means["metric"] == "predictor_pearson"
    toy, language = correlations & (means["cohort"] == "A"), correlations & (means["ablated"] == "stream")
    means.loc[toy, "paper"] = means.loc[toy, "predictor"].map(PAPER).astype(float)
    means.loc[language, "paper"] = means.loc[language, "predictor"].map(paper_pearson).astype(float)
    return judged("b3", rows, means)


def pivot(table):
    """Return correlations and completeness errors by seed and cohort, then effects by block and the
    paper's."""
    lines = []
    for name, part in _ablations(table[table["seed"].notna()]):
        losses = select(table, {"metric": "cross_entropy", "cohort": name["cohort"]})
        for seed, mine in part.groupby("seed"):
            lines.append(
                {**name, "seed": f"{seed:.0f}", "loss": cell(select(losses, {"seed": seed})), **_line(mine)}
            )
    for name, part in _ablations(means_of(table)):
        loss = cell(select(means_of(table), {"metric": "cross_entropy", "cohort": name["cohort"]}))
        lines.append({**name, "seed": f"mean of {int(part['n'].max())}", "loss": loss, **_line(part)})
    for name, part in _ablations(means_of(table)):
        if name["ablated"] != "–":
            lines += [{**name, **line} for line in _blocks(part)]
    for block, row in APPENDIX_D.iterrows():
        effects = {"measured": row["measured"], **{NAMES[p]: row[p] for p in NAMES}}
        paper = {"model": "paper", "cohort": "pythia-70m-seed1", "component": block}
        lines.append({**paper, **{name: f"{value:.2f}" for name, value in effects.items()}})
    return pd.DataFrame(lines).fillna("–")


def summary(wide):
    """Return each cohort's means with the paper's figures beside them."""
    rows = wide[wide["seed"].str.startswith("mean of") & (wide["r, integrated gradients"] != "–")]
    columns = {
        "model": "model",
        "cohort": "cohort",
        "ablated": "ablated",
        "r, integrated gradients": "integrated",
        "r, attribution patching": "patching",
        "patching < 0": "< 0",
        "paper's r": "paper",
    }
    shown = rows[list(columns)].rename(columns=columns).replace(r" \(of its six rows\)", "", regex=True)
    shown["paper"] = shown["paper"].str.replace("negative in 3 of 5", "3 of 5 < 0")
    return shown.assign(integrated=shown["integrated"].str.partition(" [")[0])


def plot(table):
    """Draw predicted against measured effects of components and blocks, and completeness by points."""
    seeds = table[table["seed"].notna()]
    figure, axes = f.panels(5, width=4.0, height=3.6, columns=3, sharey=False)
    toy = seeds[seeds["ablated"].isna()]
    for axis, predictor in zip(axes, NAMES, strict=False):
        _scatter(axis, toy, predictor)
        axis.set(title=f"Dyck-3: {NAMES[predictor]}", xlabel="measured rise of the loss, nats")
    for axis, ablated in zip(axes[2:], ("stream", "update"), strict=False):
        for predictor in NAMES:
            _scatter(axis, select(seeds, {"ablated": ablated}), predictor)
            if ablated == "stream":
                axis.plot(
                    APPENDIX_D["measured"],
                    APPENDIX_D[predictor],
                    "s",
                    color=COLOURS[predictor],
                    markerfacecolor="none",
                    markersize=6,
                    label=f"paper, {NAMES[predictor]}",
                )
        axis.set(title=f"language model, {ablated} of a block", xlabel="measured rise of the loss, nats")
        if axis.lines:
            axis.legend(fontsize=6)
    for axis in (axes[0], axes[3]):
        axis.set_ylabel("predicted rise of the loss, nats")
    _errors(axes[4], select(means_of(table), {"metric": "completeness_error"}))
    return figure


def _ablations(frame):
    """Yield model, cohort and what is ablated, with its rows."""
    rows = frame[frame["metric"] != "cross_entropy"]
    for (model, cohort, ablated), part in rows.groupby(
        ["model", "cohort", "ablated"], dropna=False, sort=False
    ):
        yield {"model": model, "cohort": cohort, "ablated": "–" if pd.isna(ablated) else ablated}, part


def _line(part):
    line = {}
    for predictor, name in NAMES.items():
        digits = 4 if predictor == "integrated_gradients" else 3
        line[f"r, {name}"] = cell(
            select(part, {"metric": "predictor_pearson", "predictor": predictor}), digits=digits
        )
    line["patching < 0"] = _count(
        select(part, {"metric": "predictor_negative", "predictor": "attribution_patching"})
    )
    line["paper's r"] = _paper(select(part, {"metric": "predictor_pearson"}))
    for predictor, name in NAMES.items():
        share = select(part, {"metric": "predicted_share", "predictor": predictor})
        line[f"|predicted / measured|, {name}"] = cell(share, digits=4)
    for points in POINTS:
        selected = select(part, {"metric": "completeness_error", "points": points})
        line[f"error, {points} points"] = (
            scientific(*selected[["value", "ci_low", "ci_high"]].iloc[0]) if len(selected) else "–"
        )
    return line


def _count(shares):
    """Return of how many seeds something holds, ``3 of 5``."""
    if shares.empty:
        return "–"
    seeds = shares["n"].fillna(1).iloc[0]
    return f"{shares['value'].iloc[0] * seeds:.0f} of {seeds:.0f}"


def _paper(correlations):
    paper = correlations.dropna(subset=["paper"]).set_index("predictor")["paper"]
    if paper.empty:
        return "–"
    other = paper.get("attribution_patching")
    said = "negative in 3 of 5" if other is None else f"{other:.4f} (of its six rows)"
    return f"{paper['integrated_gradients']:.4f} vs {said}"


def _blocks(part):
    """Return every block's effect, measured and predicted."""
    effects = select(part, {"metric": "effect"})
    for block, rows in effects.groupby("component", sort=False):
        line = {"seed": f"mean of {int(rows['n'].max())}", "component": block}
        line["measured"] = cell(rows[rows["predictor"].isna()])
        for predictor, name in NAMES.items():
            line[name] = interval(
                *select(rows, {"predictor": predictor})[["value", "ci_low", "ci_high"]].iloc[0]
            )
        yield line


def _scatter(axis, rows, predictor):
    """Draw predicted against measured effects of every model, with the diagonal."""
    effects = select(rows, {"metric": "effect"}).set_index(["cohort", "seed", "component"])
    real = effects.loc[effects["predictor"].isna(), "value"]
    part = effects.loc[effects["predictor"] == predictor, "value"]
    if part.empty:
        return
    axis.plot(
        real.reindex(part.index),
        part,
        "o",
        color=COLOURS[predictor],
        markersize=4,
        alpha=0.7,
        label=NAMES[predictor],
    )
    top = float(real.max())
    axis.plot([0, top], [0, top], ":", color=f.GREY, linewidth=1)


def _errors(axis, means):
    lines = means.groupby(["cohort", "ablated"], dropna=False, sort=False)
    for ((cohort, ablated), part), colour in zip(
        lines, (f.BLUE, f.ORANGE, "black", f.GREEN, f.PURPLE), strict=False
    ):
        part = part.sort_values("points")
        label = f"cohort {cohort}" if pd.isna(ablated) else f"{cohort}, {ablated}"
        axis.plot(part["points"], part["value"], "o-", color=colour, markersize=4, label=label)
    axis.set(
        xscale="log", yscale="log", xlabel="points on the path", ylabel="largest completeness error, nats"
    )
    if len(means):
        axis.legend(fontsize=7)
