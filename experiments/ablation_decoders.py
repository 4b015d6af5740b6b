"""Make table d11: how alike SAE decoders look by how long the SAEs were trained, and from which start."""

import pandas as pd

from gaugeport.pipeline.report import figures as f
from gaugeport.pipeline.report.judged import judged
from gaugeport.pipeline.report.model_pairs import pair_label
from gaugeport.pipeline.report.narrow import Narrow
from gaugeport.pipeline.report.render import cell
from gaugeport.pipeline.report.tidy import aggregate, means_of, select, tidy

TITLE = "d11 Ablation: SAE decoder columns of two seeds that look alike, by the SAEs' training"
CAPTION = (
    "Share of one SAE's decoder columns whose greatest cosine with a column of another seed's SAE is above "
    "0.7, nothing rotated. Both SAEs start from one initialisation (same), or each from its own."
)
DETAILS = (
    "Mean: of the greatest cosines. To its start: mean cosine of a decoder column with itself before "
    "training. Length: of the columns at the start, sae-lens's .1 or the paper's 1. EV: explained variance "
    "of held-out tokens at home. 0 steps: two untrained SAEs with an initialisation each (from one they "
    "would be the same). Steps are of one batch; every SAE has the whole schedule of warm-up and decay."
)
EXTRA = ["cohort", "place", "lr", "steps", "init"]
BY = ["setting", "cohort", "place"]
LENGTHS = {"default": ".1", "unit": "1"}
"""Setting -> the length of decoder columns at the start."""
INITS = {"same": ("same start", "-"), "own": ("own start each", ":")}
COLOURS = {1e-4: f.BLUE, 4e-4: f.ORANGE, 2e-3: f.GREEN}
"""By learning rate."""
PAPER = {"seeds": {"middle": 0.98, "last": 0.62}, "A": {"middle": 0.98, "last": 0.98}}
"""The paper's shares (sections 7.1 and 8.3); it does not say how its SAEs start, or how long they train."""

SUMMARY = Narrow(
    columns={
        "model": "model",
        "place": "site",
        "length": "length",
        "rate": "rate",
        "steps": "steps",
        "same start": "same start",
        "own start": "own start",
        "to its start": "to its start",
        "EV": "EV",
    },
    rows=[{"place": "middle"}],
    words={", independent seeds": "", "cohort ": ""},
    means=True,
)


def tabulate(records):
    """Return every measurement, the means over pairs, and the judged claims."""
    rows = tidy("d11", records, extra=EXTRA).assign(matcher=None, route=None)
    return judged("d11", rows, aggregate(rows, EXTRA))


def pivot(table):
    """Return a row per model, cohort, site, learning rate and number of steps; then what the paper says."""
    lines = []
    for (model, setting, cohort, place), part in _parts(table):
        pair = {"model": pair_label(model, cohort), "place": place, "length": LENGTHS[setting]}
        untrained = select(part, {"init": "untrained"})
        lines.append({**pair, "rate": "–", "steps": 0, **_shares(untrained, {"own start": "untrained"})})
        trained = part[part["steps"].notna()]
        for (lr, steps), here in trained.groupby(["lr", "steps"]):
            line = {**pair, "rate": f"{lr:g}", "steps": int(steps)}
            line |= _shares(here, {"same start": "same", "own start": "own"})
            line["to its start"] = cell(select(here, {"metric": "cosine_to_initial"}))
            line["EV"] = cell(select(here, {"metric": "explained_variance"}))
            lines.append({**line, "n": int(here["n"].max())})
        if setting == "unit" and place in PAPER.get(cohort, {}):
            lines.append({**pair, "rate": "paper", "same start": PAPER[cohort][place]})
    return pd.DataFrame(lines).fillna("–")


def _parts(table):
    """Return the means by model, setting, cohort and site, a model's middle site first."""
    parts = means_of(table).groupby(["model", *BY])
    return sorted(parts, key=lambda part: (*part[0][:3], part[0][3] != "middle"))


def _shares(part, inits):
    shares = {}
    for name, init in inits.items():
        of_init = select(part, {"init": init})
        shares[name] = cell(select(of_init, {"metric": "decoder_max_above"}))
        shares[f"mean, {name}"] = cell(select(of_init, {"metric": "decoder_mean_max_cosine"}))
    return shares


def plot(table):
    """Draw the shares over training steps, a panel per model and site, a colour per learning rate."""
    parts = _parts(table)
    figure, axes = f.panels(len(parts), width=5.4, columns=2)
    for axis, ((model, setting, cohort, place), part) in zip(axes, parts, strict=True):
        shares = select(part, {"metric": "decoder_max_above"})
        for init, (name, style) in INITS.items():
            of_init = select(shares, {"init": init}).sort_values("steps")
            for lr, rows in of_init.groupby("lr"):
                colour = COLOURS.get(lr, f.PURPLE)
                f.line_with_band(axis, rows, "steps", colour, f"{name}, rate {lr:g}", style)
        if place in PAPER.get(cohort, {}):
            f.paper_line(axis, PAPER[cohort][place], f.GREY, "the paper's share")
        steps = sorted(int(n) for n in shares["steps"].dropna().unique())
        axis.set(
            title=f"{pair_label(model, cohort)}, {place}, length {LENGTHS[setting]}",
            xscale="log",  # before its ticks are set
            xlabel="training steps of the SAEs",
            ylabel="columns with a partner above 0.7",
            ylim=(-0.02, 1.04),
        )
        axis.set_xticks(steps, steps)
        axis.minorticks_off()
        axis.legend(fontsize=7, loc="upper right")
    return figure
