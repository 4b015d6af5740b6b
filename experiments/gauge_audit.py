"""Make table a9: overlap of top-k lists under random gauges, raw and after naming the gauge."""

import pandas as pd

from gaugeport.pipeline.report.conditions import conditions_of, with_conditions
from gaugeport.pipeline.report.judged import judged
from gaugeport.pipeline.report.lists import LISTS, bars, legend, panels
from gaugeport.pipeline.report.narrow import Narrow
from gaugeport.pipeline.report.render import cell
from gaugeport.pipeline.report.tidy import ITSELF, MAIN_MODELS, aggregate, means_of, select, tidy

TITLE = "a9 Gauge audit: overlap of top-k lists in a random gauge"
CAPTION = (
    "Jaccard overlap of a model's top-k coordinates with those of a target: as they are (raw), and after "
    "naming the gauge. Other tokens: two lists of one model on two halves of the tokens; what they lack "
    "to 1 is the list's own noise."
)
DETAILS = (
    "ρ: Spearman's rank correlation of all scores. Signs: agreement on the list. Other model, other "
    "tokens: lists of A and B in one basis, each on its own half of the tokens; what they lack beyond the "
    "noise is drift."
)
EXTRA = ["target", "planted", "list", "named", "k", "theory"]

OTHER_TOKENS = {"_same_model": "same model, other tokens", "_other_model": "other model, other tokens"}

SUMMARY = Narrow(
    columns={
        "target": "target",
        "list": "list",
        "chance": "chance",
        "identity": "raw",
        "B_d": "B_d",
        "oracle": "true gauge",
        "same model, other tokens": "other tokens",
    },
    rows={"model": MAIN_MODELS, "planted": "residual"},
    words={"neurons, mean absolute activation": "neurons", "mean absolute activation": "absolute activation"},
    means=True,
    cut=";",
)


def tabulate(records):
    """Return every measurement, the means over seeds, and the judged claims."""
    rows = tidy("a9", records, extra=EXTRA)
    return judged("a9", rows, aggregate(rows, EXTRA))


def pivot(table):
    """Return a row per model, target, planted gauge and list, with a column per condition and one for chance.

    The last row of a target is the conditions' gauge accuracy. A list under a gauge that does not move it is
    the control, invariant where the target is A itself.
    """
    lines = []
    for (model, target), part in with_conditions(means_of(table)).groupby(["model", "target"], sort=False):
        conditions = [condition.name for condition in conditions_of(part)]
        lists = part[part["list"].notna()].groupby(["planted", "list"])
        # the residual gauge and what it moves first
        for (planted, name), rows in sorted(
            lists, key=lambda g: (g[0][0] != "residual", list(LISTS).index(g[0][1]))
        ):
            line = {"model": model, "target": target, "planted": planted, "list": LISTS[name]}
            raw = select(rows, {"named": "raw"})
            control = "invariant" if target in ITSELF else "–"
            chance = (
                _overlap(raw.assign(value=raw["theory"], ci_low=None)) if _moved(planted, name) else control
            )
            line |= {"chance": chance}
            line |= {condition: _overlap(select(rows, {"condition": condition})) for condition in conditions}
            if _moved(planted, name):
                here = select(part, {"list": name})
                line |= {title: _overlap(here, suffix) for suffix, title in OTHER_TOKENS.items()}
            lines.append({**line, "k": int(rows["k"].max()), "n": int(rows["n"].max())})
        gauge = select(part, {"metric": "index_accuracy"})
        line = {
            "model": model,
            "target": target,
            "planted": "residual",
            "list": "gauge index accuracy",
            "chance": "–",
        }
        line |= {condition: cell(select(gauge, {"condition": condition})) for condition in conditions}
        lines.append({**line, "k": "–", "n": int(gauge["n"].max())})
    wide = pd.DataFrame(lines).fillna("–")
    named = conditions_of(with_conditions(means_of(table)))
    shown_conditions = [condition.name for condition in named if condition.name in wide]
    return wide[
        ["model", "target", "planted", "list", "chance", *shown_conditions, *OTHER_TOKENS.values(), "k", "n"]
    ]


def plot(table):
    """Draw Jaccard overlap by list, a panel per target: bars by condition, chance dotted."""
    figure, targets = panels(table, "jaccard")
    for axis, means in targets:
        here = means[[_moved(*key) for key in zip(means["planted"], means["list"], strict=True)]]
        bars(
            axis,
            here,
            conditions_of(here),
            select(here, {"named": "raw"}).set_index("list")["theory"].to_dict().get,
        )
    figure.axes[0].set_ylabel("Jaccard overlap of the top k")
    legend(figure)
    return figure


def _moved(planted, name):
    return (planted == "neuron") == (name == "neuron_activation")


def _overlap(rows, suffix=""):
    others = rows.set_index("metric")["value"]
    marks = {f"rank_correlation{suffix}": "ρ", f"sign_agreement{suffix}": "signs"}
    return cell(select(rows, {"metric": f"jaccard{suffix}"})) + "".join(
        f"; {mark} {others[m]:.2f}" for m, mark in marks.items() if m in others
    )
