"""Make table c5: which settings of evidence and planting give the figures of paper A."""

import numpy as np
import pandas as pd

from gaugeport.pipeline.report import figures as f
from gaugeport.pipeline.report.judged import judged
from gaugeport.pipeline.report.narrow import Narrow
from gaugeport.pipeline.report.tidy import aggregate, select, tidy

TITLE = "c5 Calibration: which settings give paper A's figures"
CAPTION = (
    "Gauges are recovered under every setting: site (each block, pooled, weights), tokens a row, first token "
    "of each row in or out, or massive tokens out, number of tokens, row means in place of tokens. ± .03: "
    "how many settings, of all settings of every pair of runs, give the paper's figure so nearly; where many "
    "do, it says little of any one. Nearest: the closest one; 1k/64 in is 1,024 tokens in rows of 64, first "
    "tokens in. Moved: ‖θ_B − θ_A‖ / ‖θ_A‖. Share placed (60.3 %, 91.1 %), a direction's effect kept "
    "(17.2 %), NMSE (1.08)."
)
DETAILS = (
    "Share placed is signed accuracy for B_d and index accuracy for S_d. Signs dropped and raw matching are "
    "compared at the endpoint, token by token and at one row length, under three planted gauges for each "
    "share p of positive signs, which follows the gauge's name. The effect kept is computed from the signs "
    "and indices recovered, as a direction with independent coordinates keeps it; a5 measures it. The NMSE "
    "is that of an SAE that loses nothing, moved with the true indices and no signs (a4 has real SAEs). Row "
    "means leave out the first token of each row and keep what else is massive."
)
SETTINGS = {"lr": "training.run.lr"}
MADE_BY = ["lr", "noise"]
"""Columns that say what made B of A; pairs of runs that share them differ by seed."""
KEYS = ["length", "left_out", "tokens", "samples", "p", "noise", "link"]
WITHIN = 0.03
B_D, DROPPED, RAW = (
    ("signed_permutation", "hungarian_abs"),
    ("permutation", "hungarian_abs"),
    ("permutation", "hungarian_raw"),
)
NAMES = {B_D: "B_d", DROPPED: "S_d unsigned", RAW: "S_d raw"}
PLACED, KEPT, NMSE = (
    "share of coordinates placed",
    "share of a direction's effect kept",
    "NMSE of an SAE that loses nothing",
)
FIGURES = {  # paper's figure -> its name, what it is, the metric it is compared with by gauge, and the route
    0.603: ("60.3 %", PLACED, {B_D: "signed_accuracy", RAW: "index_accuracy"}, "endpoint"),
    0.911: ("91.1 %", PLACED, {B_D: "signed_accuracy"}, "trajectory"),
    0.172: ("17.2 %", KEPT, {DROPPED: "retention", RAW: "retention"}, "endpoint"),
    1.08: ("1.08", NMSE, {DROPPED: "lossless_nmse"}, "endpoint"),
}
LEFT_OUT = {
    "none": "first token in",
    "first": "first token out",
    "massive": "massive tokens out",
    "means": "means of rows, first token out",
    "weights": "weights",
}
COLOURS = dict(zip(LEFT_OUT, (f.RED, f.BLUE, f.GREEN, f.GREY, f.PURPLE), strict=True))
GOLDEN = 0.618034
SUMMARY = Narrow(
    columns={
        "paper": "paper",
        "gauge": "gauge",
        "pair": "pair",
        "moved": "moved",
        "within": "± .03",
        "nearest": "nearest",
        "at": "its setting",
        "n": "n",
    },
    rows={"pair": lambda pair: True},  # every setting, where the default is to show one
)


def tabulate(records):
    """Return every measurement, the means over pairs of runs, and the judged claims."""
    rows = tidy("c5", records, SETTINGS, extra=KEYS)
    return judged("c5", rows, aggregate(rows, [*SETTINGS, *KEYS]))


def pivot(table):
    """Return a line per paper's figure, gauge, share p and what made B of A: the settings that give it."""
    # each pair by itself: a mean over pairs can lie where none of them does
    pairs, lines = table[table["seed"].notna()], []
    for paper, gauge, route, made_by, part in _compared(pairs):
        away = (part["value"] - paper).abs()
        nearest = part.loc[away.idxmin()]
        lines.append(
            {
                "paper": FIGURES[paper][0],
                "gauge": gauge,
                "route": route,
                "pair": _name(made_by),
                "moved": _moved(pairs, made_by),
                "within": f"{int((away <= WITHIN).sum())}/{len(part)}",
                "nearest": f"{nearest['value']:.3f}",
                "at": _describe(nearest),
                "least": f"{part['value'].min():.3f}",
                "most": f"{part['value'].max():.3f}",
                "n": part["seed"].nunique(),
            }
        )
    return pd.DataFrame(lines)


def plot(table):
    """Draw a panel per paper's figure: a dot per setting and pair, a row per gauge, share p and rate.

    Colours say which tokens a setting leaves out; height within a row means nothing.
    """
    pairs = table[table["seed"].notna()]
    figure, axes = f.panels(len(FIGURES), columns=2, width=5.6, height=3.2, sharey=False)
    for axis, (figure_of_paper, (name, what, _, route)) in zip(axes, FIGURES.items(), strict=True):
        rows = [c for c in _compared(pairs) if c[0] == figure_of_paper]
        for y, (*_, part) in enumerate(rows):
            spread = y + 0.7 * (np.arange(len(part)) * GOLDEN % 1 - 0.5)
            kind = part["left_out"].where(part["samples"] != "row means", "means")
            for left_out, colour in COLOURS.items():
                here = (kind.fillna("weights") == left_out).to_numpy()
                axis.plot(part["value"][here], spread[here], ".", color=colour, markersize=3, alpha=0.5)
        labels = [f"{gauge}, {_name(by)} (moved {_moved(pairs, by)})" for _, gauge, _, by, _ in rows]
        axis.set_yticks(range(len(rows)), labels, fontsize=7)
        axis.invert_yaxis()
        axis.axvline(figure_of_paper, color="black", linestyle=":", linewidth=1)
        axis.set_title(f"paper: {name} (dotted); ours: {route}", fontsize=9)
        axis.set_xlabel(what)
    for left_out, colour in COLOURS.items():
        axes[0].plot([], [], ".", color=colour, label=LEFT_OUT[left_out])
    f.legend_below(figure, axes[0])
    return figure


def _compared(pairs):
    """Yield a paper's figure, our gauge and route, what made B of A, and our rows."""
    for paper, (_, _, metrics, route) in FIGURES.items():
        for (group, matcher), metric in metrics.items():
            where = {"group": group, "matcher": matcher, "route": route, "metric": metric}
            measured = select(pairs, where)
            for (*made_by, p), part in measured.groupby([*MADE_BY, "p"], dropna=False):
                gauge = NAMES[group, matcher] + ("" if pd.isna(p) else f", {p:g}".replace("0.", "."))
                yield paper, gauge, route, made_by, part


def _name(made_by):
    """Return what made B of A: noise of so many standard deviations, or runs at a learning rate."""
    lr, noise = made_by
    if pd.notna(noise):
        return f"noise {noise:g}"
    return f"runs {np.format_float_scientific(lr, trim='-', exp_digits=1)}"


def _moved(pairs, made_by):
    """Return how far the weights of B are from those of A, the mean over pairs."""
    here = select(pairs, {"metric": "weight_distance", "link": "A to B"})
    for column, value in zip(MADE_BY, made_by, strict=True):
        here = here[here[column].isna() if pd.isna(value) else here[column] == value]
    return f"{100 * here['value'].mean():.1f} %"


def _describe(row):
    """Return a setting in few words: ``block22 1k/16 in`` is 1,024 tokens in rows of 16."""
    if row["evidence"] == "weights":
        return "weights"
    place = row["site"] if row["evidence"] == "site" else "pooled"
    left_out = {"none": "in", "first": "out", "massive": "no massive"}[row["left_out"]]
    if pd.isna(row["tokens"]):  # of the true gauge, read on the most tokens
        return f"{place} {left_out}"
    tokens = f"{row['tokens']:.0f}" if row["tokens"] < 1024 else f"{row['tokens'] / 1024:.0f}k"
    return f"{place} {tokens}/{row['length']:.0f} {'means' if row['samples'] == 'row means' else left_out}"
