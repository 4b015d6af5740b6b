"""Table a7: merges of two models that are aligned first; the loss barrier between them under every arm."""

import pandas as pd

from gaugeport.report import figures as f
from gaugeport.report.claims import claim_rows
from gaugeport.report.render import interval
from gaugeport.report.tidy import aggregate, select, tidy

TITLE = (
    "a7 merging: loss barrier between A, carried to B's coordinates, and B, in nats per token (means over n training seeds; "
    "the paper gives the order: none, S_d above B_d). Reordered: A's neurons and heads were shuffled first"
)
EXTRA = ["target", "planted", "matched", "folded", "alpha", "scaling"]
CASE = ["model", "setting", "target", "planted", "matched"]
ARMS = {
    ("identity", "none", "endpoint"): ("none", f.GREY, "-"),
    ("permutation", "hungarian_raw", "endpoint"): ("S_d raw", f.ORANGE, "-"),
    ("permutation", "hungarian_raw", "trajectory"): ("S_d raw, trajectory", f.ORANGE, "--"),
    ("permutation", "hungarian_abs", "endpoint"): ("S_d, signs dropped", f.PURPLE, "-"),
    ("permutation", "hungarian_abs", "trajectory"): ("S_d, signs dropped, trajectory", f.PURPLE, "--"),
    ("signed_permutation", "hungarian_abs", "endpoint"): ("B_d", f.BLUE, "-"),
    ("signed_permutation", "hungarian_abs", "trajectory"): ("B_d, trajectory", f.BLUE, "--"),
    ("global_sign_permutation", "hungarian_raw", "endpoint"): ("S_d × {±1}", f.BLUE, "-"),
    ("global_sign_permutation", "hungarian_raw", "trajectory"): ("S_d × {±1}, trajectory", f.BLUE, "--"),
    ("orthogonal", "procrustes", "endpoint"): ("O(d)", f.GREEN, "-"),
    ("signed_permutation", "oracle", "endpoint"): ("oracle", f.RED, ":"),
}
PANELS = (
    {"setting": "default", "target": "identical", "planted": "none", "matched": "none"},
    {"setting": "default", "target": "finetuned", "planted": "none", "matched": "none"},
    {"setting": "folded", "target": "finetuned", "planted": "none", "matched": "none"},
    {"setting": "reordered", "target": "finetuned", "planted": "both"},
)


def tabulate(records):
    """Every measurement, its mean over seeds, and the judged contrasts."""
    rows = tidy("a7", records)
    for column in EXTRA:
        rows[column] = rows.get(column)
    return pd.concat([rows, aggregate(rows, EXTRA), claim_rows("a7", rows)], ignore_index=True)


def pivot(table):
    """One row per case and arm: gauge accuracy, barrier and its spread over plants, losses of merges, A and B."""
    means = _means(table)
    lines = []
    for key, part in means.groupby([*CASE, "arm"], sort=False, dropna=False):
        line = {**dict(zip([*CASE, "arm"], key, strict=True)), "n": int(part["n"].max())}
        line["gauge accuracy"] = _text(part, "signed_accuracy")
        line["barrier"] = _text(part, "barrier")
        line["sd over plants"] = _text(part, "barrier_plants_sd")
        line["average"] = _text(part, "loss_average")
        sums = select(part, {"metric": "loss_task_arithmetic"}).sort_values("scaling")
        line["task arithmetic"] = "; ".join(f"λ={s:g}: {v:.2f}" for s, v in sums[["scaling", "value"]].to_numpy())
        matched = {kind: _text(part, f"{kind}_matched") for kind in ("neurons", "heads")}
        line["placed by matching"] = "; ".join(f"{k} {v}" for k, v in matched.items() if v != "–")
        line |= {f"loss {m}": _text(part, f"loss_{m}", 2) for m in ("A", "B")}
        lines.append({k: v if v not in ("", None) else "–" for k, v in line.items()})
    order = {name: i for i, (name, _, _) in enumerate(ARMS.values())}
    ranks = {"model": ["tinyllama", "qwen", "pythia"], "setting": ["default"], "target": ["identical", "finetuned"]}
    ranks |= {"planted": ["none", "neurons", "both"], "matched": ["none", "neurons", "heads", "both"]}

    def rank(column):
        known = order if column.name == "arm" else {v: i for i, v in enumerate(ranks[column.name])}
        return column.map(lambda v: (known.get(v, 99), str(v)))

    return pd.DataFrame(lines).sort_values([*CASE, "arm"], key=rank)


def plot(table):
    """Loss along the line from A' (α = 0) to B (α = 1), a panel per case of the first model."""
    means = select(_means(table), {"metric": "loss"})
    means = means[means["model"] == means["model"].iloc[0]]
    cases = [case for case in PANELS if len(select(means, case))]
    figure, axes = f.panels(len(cases), width=4.2, columns=4)
    for axis, case in zip(axes, cases, strict=True):
        here = select(means, case)
        for name, colour, style in ARMS.values():
            for matched, part in select(here, {"arm": name}).groupby("matched"):
                label = name if "matched" in case else f"{name}; matched: {matched}"
                lines = {"none": "-", "neurons": "-.", "heads": ":", "both": "--"}
                part = part.sort_values("alpha")
                shown = style if "matched" in case else lines[matched]
                axis.plot(part["alpha"], part["value"], shown, color=colour, label=label, marker="o", markersize=2)
                if part["ci_low"].notna().any():
                    axis.fill_between(part["alpha"], part["ci_low"], part["ci_high"], color=colour, alpha=0.12)
        what = {"default": "", "folded": ", gains folded", "reordered": ", neurons and heads reordered"}[
            case["setting"]
        ]
        axis.set(title=f"{means['model'].iloc[0]}, {case['target']}{what}", xlabel="α: from A' (0) to B (1)")
        axis.title.set_fontsize(8)
        axis.legend(fontsize=6)
    axes[0].set_ylabel("held-out loss (nats per token)")
    return figure


def _means(table):
    means = table[table["seed"].isna() & table["verdict"].isna()]
    keys = zip(means["group"], means["matcher"], means["route"], strict=True)
    return means.assign(arm=[ARMS.get(key, ("/".join(map(str, key)), f.GREY, "-"))[0] for key in keys])


def _text(part, metric, digits=3):
    rows = select(part, {"metric": metric})
    return "–" if rows.empty else interval(*rows[["value", "ci_low", "ci_high"]].iloc[0], digits)
