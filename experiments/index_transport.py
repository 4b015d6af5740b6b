"""Table a10: lists moved from A to B by a recovered gauge, against the lists computed on B."""

import pandas as pd

from gaugeport.report import figures as f
from gaugeport.report.arms import ARMS, means_of, named
from gaugeport.report.claims import claim_rows
from gaugeport.report.render import interval
from gaugeport.report.tidy import aggregate, tidy

TITLE = (
    "a10 index transport: precision at k of lists of A moved to B by the arm's gauge, against B's own "
    "(signed lists: and agreement of signs; means over n training seeds; the oracle's gap to 1 is drift)"
)
EXTRA = ["target", "list", "k", "theory"]
LISTS = {
    "activation": "mean absolute activation",
    "mean_activation": "mean activation",
    "mean_gradient": "mean gradient",
    "gradient_activation": "gradient × activation",
    "integrated_gradients": "integrated gradients",
    "neuron_activation": "neurons (invariant)",
}


def tabulate(records):
    """Every measurement, its mean over seeds, and the judged contrasts."""
    rows = tidy("a10", records)
    for column in EXTRA:
        rows[column] = rows.get(column)
    return pd.concat([rows, aggregate(rows, EXTRA), claim_rows("a10", rows)], ignore_index=True)


def pivot(table):
    """One row per model, target and arm: gauge accuracy, then precision by list; an arm that refuses says so."""
    means = _means(table)
    lines = []
    keys = ["model", "target", "arm"]
    for key, part in means.groupby(keys, sort=False):
        gauge = part[part["metric"] == "index_accuracy"]
        line = {**dict(zip(keys, key, strict=True)), "k": int(part["k"].max()), "n": int(part["n"].max())}
        line["gauge index accuracy"] = _text(gauge)
        for name, title in LISTS.items():
            here = part[part["list"] == name]
            text = "refused" if "refused" in set(here["metric"]) else _text(here[here["metric"] == "precision"])
            signs = here[here["metric"] == "sign_agreement"]
            line[title] = text + (f"; signs {signs['value'].iloc[0]:.2f}" if len(signs) else "")
        lines.append(line)
    order = {name: i for i, (name, _) in enumerate(ARMS.values())}
    wide = pd.DataFrame(lines)
    return wide.sort_values(keys, key=lambda c: c.map(lambda v: order.get(v, 99)) if c.name == "arm" else c)


def plot(table):
    """Precision by list, a panel per target: bars by arm, chance (k/d) dotted."""
    means = _means(table)
    model = "tinyllama" if "tinyllama" in set(means["model"]) else means["model"].iloc[0]
    means = means[means["list"].notna() & (means["model"] == model)]
    targets = [t for t in ("identical", "finetuned") if t in set(means["target"])]
    figure, axes = f.panels(len(targets), width=6.5, height=3.8)
    for axis, target in zip(axes, targets, strict=True):
        here = means[(means["target"] == target) & (means["metric"] == "precision")]
        arms = [(name, colour) for name, colour in ARMS.values() if name in set(here["arm"]) and name != "O(d)"]
        width = 0.8 / max(1, len(arms))
        for i, (arm, colour) in enumerate(arms):
            values = here[here["arm"] == arm].set_index("list")["value"]
            at = [x + (i - (len(arms) - 1) / 2) * width for x, name in enumerate(LISTS) if name in values]
            hatch = "//" if arm.startswith("S_d") and arm.endswith("trajectory") else None
            heights = [values[name] for name in LISTS if name in values]
            axis.bar(at, heights, width, color=colour, label=arm, hatch=hatch)
        chance = here.loc[here["matcher"] == "none", "theory"].dropna()
        if len(chance):
            axis.axhline(chance.min(), linestyle=":", color="black", linewidth=1, label="chance (coordinates)")
        axis.set_xticks(range(len(LISTS)), LISTS.values(), rotation=25, ha="right", fontsize=7)
        axis.set(title=f"{model}, target {target}", ylim=(0, 1.04))
    axes[0].set_ylabel("precision at k of the moved list")
    entries = {label: h for axis in axes for h, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    figure.legend(entries.values(), entries, loc="outside upper center", ncols=len(entries), fontsize=7)
    return figure


def _means(table):
    return named(means_of(table))


def _text(rows):
    return "–" if rows.empty else interval(*rows[["value", "ci_low", "ci_high"]].iloc[0])
