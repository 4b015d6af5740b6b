"""Make table a7: the loss barrier between two models that are aligned first, under every condition."""

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
from gaugeport.pipeline.report.render import cell
from gaugeport.pipeline.report.tidy import ITSELF, MAIN_MODELS, aggregate, main_model, means_of, select, tidy

TITLE = "a7 Merging: loss barrier between A, moved to B's coordinates, and B"
CAPTION = (
    "Barrier: the largest rise of the held-out loss along the line from A to B over the line between "
    "their losses, in nats per token. A is first written in random signed coordinates. Folded: with norm "
    "gains folded. Reordered: A's neurons and heads are shuffled as well; matched says what is put back. "
    "Average: held-out loss of the average. The paper gives the order only: no gauge and S_d above B_d. "
    f"{SHORT_CAPTION}"
)
DETAILS = (
    "Two fine-tunes as they are share their coordinates, which is the oracle. Task arithmetic adds both "
    "runs' changes to the base, λ times."
)
EXTRA = ["target", "planted", "matched", "folded", "alpha", "scaling"]
CASE = ["model", "setting", "target", "planted", "matched"]
PANELS = (
    {"setting": "default", "target": "identical", "planted": "none", "matched": "none"},
    {"setting": "default", "target": "self", "planted": "none", "matched": "none"},
    {"setting": "default", "target": "finetuned", "planted": "none", "matched": "none"},
    {"setting": "folded", "target": "finetuned", "planted": "none", "matched": "none"},
    {"setting": "reordered", "target": "finetuned", "planted": "both"},
)

SUMMARY = Narrow(
    columns={
        "setting": "setting",
        "target": "target",
        "matched": "matched",
        "condition": "condition",
        "barrier": "barrier",
        "average": "average",
        "n": "n",
    },
    rows=[
        {"model": MAIN_MODELS, "setting": ("default", "folded"), "planted": "none", "matched": "none"},
        {"model": MAIN_MODELS, "setting": "reordered", "planted": "both"},
    ],
    words=SHORT_NAMES,
    means=("average",),
)


def tabulate(records):
    """Return every measurement, the means over seeds, and the judged claims."""
    rows = tidy("a7", records, extra=EXTRA)
    return judged("a7", rows, aggregate(rows, EXTRA))


def pivot(table):
    """Return a row per case and condition: gauge accuracy, barrier, losses of merges, of A and of B."""
    means = with_conditions(means_of(table))
    lines = []
    for key, part in means.groupby([*CASE, "condition"], sort=False, dropna=False):
        line = {**dict(zip([*CASE, "condition"], key, strict=True)), "n": int(part["n"].max())}
        line["gauge accuracy"] = _text(part, "signed_accuracy")
        line["barrier"] = _text(part, "barrier")
        line["sd over plants"] = _text(part, "barrier_plants_sd")
        line["average"] = _text(part, "loss_average")
        sums = select(part, {"metric": "loss_task_arithmetic"}).sort_values("scaling")
        line["task arithmetic"] = "; ".join(
            f"λ={s:g}: {v:.2f}" for s, v in sums[["scaling", "value"]].to_numpy()
        )
        matched = {kind: _text(part, f"{kind}_matched") for kind in ("neurons", "heads")}
        line["placed by matching"] = "; ".join(f"{k} {v}" for k, v in matched.items() if v != "–")
        line |= {f"loss {m}": _text(part, f"loss_{m}", 2) for m in ("A", "B")}
        lines.append({k: v if v not in ("", None) else "–" for k, v in line.items()})
    ranks = {
        "model": [*MAIN_MODELS, "qwen", "pythia"],
        "setting": ["default"],
        "target": [*ITSELF, "finetuned"],
    }
    ranks |= {"planted": ["none", "neurons", "both"], "matched": ["none", "neurons", "heads", "both"]}

    def rank(column):
        known = ORDER if column.name == "condition" else {v: i for i, v in enumerate(ranks[column.name])}
        return column.map(lambda v: (known.get(v, 99), str(v)))

    return pd.DataFrame(lines).sort_values([*CASE, "condition"], key=rank)


def plot(table):
    """Draw the loss along the line from A' (α = 0) to B (α = 1), a panel per case."""
    means = select(with_conditions(means_of(table)), {"metric": "loss"})
    model = main_model(means)
    means = select(means, {"model": model})
    cases = [case for case in PANELS if len(select(means, case))]
    figure, axes = f.panels(len(cases), width=4.2, columns=4)
    for axis, case in zip(axes, cases, strict=True):
        here = select(means, case)
        for condition in conditions_of(here):
            for matched, part in select(here, {"condition": condition.name}).groupby("matched"):
                label = condition.name if "matched" in case else f"{condition.name}; matched: {matched}"
                lines = {"none": "-", "neurons": "-.", "heads": ":", "both": "--"}
                part = part.sort_values("alpha")
                style = condition.style if "matched" in case else lines[matched]
                axis.plot(
                    part["alpha"],
                    part["value"],
                    style,
                    color=condition.colour,
                    label=label,
                    marker="o",
                    markersize=2,
                )
                if part["ci_low"].notna().any():
                    axis.fill_between(
                        part["alpha"], part["ci_low"], part["ci_high"], color=condition.colour, alpha=0.12
                    )
        what = {"default": "", "folded": ", gains folded", "reordered": ", neurons and heads reordered"}[
            case["setting"]
        ]
        axis.set(title=f"{model}, {case['target']}{what}", xlabel="α: from A' (0) to B (1)")
        axis.title.set_fontsize(8)
        axis.legend(fontsize=6)
    axes[0].set_ylabel("held-out loss (nats per token)")
    return figure


def _text(part, metric, digits=3):
    return cell(select(part, {"metric": metric}), digits)
