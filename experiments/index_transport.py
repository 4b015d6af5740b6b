"""Make table a10: lists moved from A to B by a recovered gauge, against the lists computed on B."""

import pandas as pd

from gaugeport.pipeline.report.conditions import (
    ORDER,
    SHORT_CAPTION,
    SHORT_NAMES,
    conditions_of,
    with_conditions,
)
from gaugeport.pipeline.report.judged import judged
from gaugeport.pipeline.report.lists import LISTS, bars, legend, panels
from gaugeport.pipeline.report.narrow import Narrow
from gaugeport.pipeline.report.render import cell
from gaugeport.pipeline.report.tidy import aggregate, means_of, select, tidy

TITLE = "a10 Index transport: precision of top-k lists moved from A to B"
CAPTION = (
    f"Share of a moved list of A that is on B's own list. The true gauge's gap to 1 is drift. {SHORT_CAPTION}"
)
DETAILS = (
    "Signed lists: and agreement of signs. Both lists are of the same tokens; a9 says how far a list "
    "depends on them."
)
EXTRA = ["target", "list", "k", "theory"]

SUMMARY = Narrow(
    columns={
        "model": "model",
        "target": "target",
        "condition": "condition",
        "mean absolute activation": "activation",
        "integrated gradients": "integrated gradients",
        "n": "n",
    },
    words=SHORT_NAMES,
)


def tabulate(records):
    """Return every measurement, the means over seeds, and the judged claims."""
    rows = tidy("a10", records, extra=EXTRA)
    return judged("a10", rows, aggregate(rows, EXTRA))


def pivot(table):
    """Return a row per model, target and condition: gauge accuracy, then precision by list, or "refused"."""
    lines = []
    keys = ["model", "target", "condition"]
    for key, part in with_conditions(means_of(table)).groupby(keys, sort=False):
        line = {**dict(zip(keys, key, strict=True)), "k": int(part["k"].max()), "n": int(part["n"].max())}
        line["gauge index accuracy"] = cell(select(part, {"metric": "index_accuracy"}))
        for name, title in LISTS.items():
            here = select(part, {"list": name})
            text = (
                "refused" if "refused" in set(here["metric"]) else cell(select(here, {"metric": "precision"}))
            )
            signs = select(here, {"metric": "sign_agreement"})["value"]
            line[f"{title} (invariant)" if name == "neuron_activation" else title] = text + "".join(
                f"; signs {s:.2f}" for s in signs
            )
        lines.append(line)
    wide = pd.DataFrame(lines)
    return wide.sort_values(
        keys, key=lambda c: c.map(lambda v: ORDER.get(v, 99)) if c.name == "condition" else c
    )


def plot(table):
    """Draw precision by list, a panel per target: bars by condition (O(d) refuses), chance dotted."""
    figure, targets = panels(table, "precision")
    for axis, here in targets:
        chance = select(here, {"matcher": "none"}).dropna(subset=["theory"]).set_index("list")["theory"]
        bars(
            axis,
            here,
            [condition for condition in conditions_of(here) if condition.name != "O(d)"],
            chance.to_dict().get,
        )
    figure.axes[0].set_ylabel("precision at k of the moved list")
    legend(figure)
    return figure
