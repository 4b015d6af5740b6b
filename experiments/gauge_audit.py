"""Table a9: what is left of top-k lists under random gauges, raw and after naming the gauge."""

import pandas as pd

from gaugeport.report import figures as f
from gaugeport.report.arms import ARMS, means_of, named
from gaugeport.report.claims import claim_rows
from gaugeport.report.render import interval
from gaugeport.report.tidy import aggregate, tidy

TITLE = (
    "a9 gauge audit: top-k lists of a model against those of a target in a random gauge: Jaccard overlap (identity: raw); ρ: "
    "Spearman's rank correlation of all scores; signs: agreement on the list (means over n training seeds)"
)
EXTRA = ["target", "planted", "list", "named", "k", "theory"]
LISTS = {
    "activation": "mean absolute activation",
    "mean_activation": "mean activation",
    "mean_gradient": "mean gradient",
    "gradient_activation": "gradient × activation",
    "integrated_gradients": "integrated gradients",
    "neuron_activation": "neurons, mean absolute activation",
}


def tabulate(records):
    """Every measurement, its mean over seeds, and the judged contrasts."""
    rows = tidy("a9", records)
    for column in EXTRA:
        rows[column] = rows.get(column)
    return pd.concat([rows, aggregate(rows, EXTRA), claim_rows("a9", rows)], ignore_index=True)


def pivot(table):
    """One row per model, target, planted gauge and list; a column per arm, what chance gives beside the raw one.

    The last row of a target is the arms' gauge accuracy. A list under the gauge that does not move it is the control.
    """
    means = _means(table)
    lines = []
    for (model, target), part in means.groupby(["model", "target"], sort=False):
        arms = [name for name in dict.fromkeys(name for name, _ in ARMS.values()) if name in set(part["arm"])]
        found = part[part["list"].notna()].groupby(["planted", "list"])
        # the residual gauge and what it moves first
        for (planted, name), rows in sorted(found, key=lambda g: (g[0][0] != "residual", list(LISTS).index(g[0][1]))):
            line = {"model": model, "target": target, "planted": planted, "list": LISTS[name]}
            moved = (planted == "neuron") == (name == "neuron_activation")
            raw = rows[rows["named"] == "raw"]
            line |= {"chance": _cell(raw.assign(value=raw["theory"], ci_low=None)) if moved else "invariant"}
            line |= {arm: _cell(rows[rows["arm"] == arm]) for arm in arms}
            lines.append({**line, "k": int(rows["k"].max()), "n": int(rows["n"].max())})
        gauge = part[part["metric"] == "index_accuracy"]
        line = {"model": model, "target": target, "planted": "residual", "list": "gauge index accuracy", "chance": "–"}
        line |= {arm: _interval(gauge[gauge["arm"] == arm]) for arm in arms}
        lines.append({**line, "k": "–", "n": int(gauge["n"].max())})
    wide = pd.DataFrame(lines).fillna("–")
    arms = [name for name in dict.fromkeys(name for name, _ in ARMS.values()) if name in wide]
    return wide[["model", "target", "planted", "list", "chance", *arms, "k", "n"]]


def plot(table):
    """Jaccard overlap by list, a panel per target: bars by arm, chance dotted. Neurons under their own gauge."""
    means = _means(table)
    model = "tinyllama" if "tinyllama" in set(means["model"]) else means["model"].iloc[0]
    means = means[(means["metric"] == "jaccard") & (means["model"] == model)]
    means = means[(means["planted"] == "neuron") == (means["list"] == "neuron_activation")]
    targets = [t for t in ("identical", "finetuned") if t in set(means["target"])]
    figure, axes = f.panels(len(targets), width=6.5, height=3.8)
    for axis, target in zip(axes, targets, strict=True):
        here = means[means["target"] == target]
        arms = [(name, colour) for name, colour in ARMS.values() if name in set(here["arm"])]
        names = [name for name in LISTS if name in set(here["list"])]
        width = 0.8 / len(arms)
        for i, (arm, colour) in enumerate(arms):
            values = here[here["arm"] == arm].set_index("list")["value"]
            at = [x + (i - (len(arms) - 1) / 2) * width for x, name in enumerate(names) if name in values]
            axis.bar(at, [values[name] for name in names if name in values], width, color=colour, label=arm)
        chance = here[here["named"] == "raw"].set_index("list")["theory"].to_dict()
        for x, name in enumerate(names):
            if name in chance:
                label = "chance" if x == 0 else None
                axis.plot([x - 0.45, x + 0.45], [chance[name]] * 2, ":", color="black", linewidth=1, label=label)
        axis.set_xticks(range(len(names)), [LISTS[name] for name in names], rotation=25, ha="right", fontsize=7)
        axis.set(title=f"{model}, target {target}", ylim=(0, 1.04))
    axes[0].set_ylabel("Jaccard overlap of the top k")
    entries = {label: h for axis in axes for h, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    figure.legend(entries.values(), entries, loc="outside upper center", ncols=len(entries), fontsize=7)
    return figure


def _means(table):
    return named(means_of(table))


def _cell(rows):
    jaccard, others = rows[rows["metric"] == "jaccard"], rows.set_index("metric")["value"]
    marks = {"rank_correlation": "ρ", "sign_agreement": "signs"}
    return _interval(jaccard) + "".join(f"; {mark} {others[m]:.2f}" for m, mark in marks.items() if m in others)


def _interval(rows):
    return "–" if rows.empty else interval(*rows[["value", "ci_low", "ci_high"]].iloc[0])
