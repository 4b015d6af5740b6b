"""Make table c4: which optimizer states transport under which group, by theory and on resumed runs."""

import numpy as np
import pandas as pd

from gaugeport.pipeline.report import figures as f
from gaugeport.pipeline.report.judged import judged
from gaugeport.pipeline.report.narrow import Narrow
from gaugeport.pipeline.report.tidy import aggregate, tidy

TITLE = "c4 Optimizers: which state transports under which group"
CAPTION = (
    "Displacement of a moved run after 5 resumed steps, over the distance travelled: worst of n random "
    "models. Exact, broken, refused: theory, which the measurement confirms unless the cell says "
    "otherwise. ±: the displacement when MLP neurons alone are reordered. Unsigned: signs dropped."
)
DETAILS = "The largest displacement where theory says exact, the smallest elsewhere."
CONDITIONS = {
    "signs": "signs only",
    "signed": "B_d or S_d × {±1}",
    "signs_dropped": "the same, state without signs",
    "rotation_frozen": "O(d), gains folded and frozen",
    "rotation_trained": "O(d), gains folded and trained",
}
BROKEN = 0.01
"""A run that is off by more than this share of the distance travelled, and its yardstick, is broken."""

YARDSTICK_FACTOR = 10
"""The yardstick is this many times the displacement of a run with its MLP neurons reordered."""
VISIBLE = 1e-6

SUMMARY = Narrow(
    columns={
        "optimizer": "optimizer",
        "B_d or S_d × {±1}": "B_d, S_d × {±1}",
        "the same, state without signs": "state unsigned",
        "O(d), gains folded and frozen": "O(d), frozen",
        "O(d), gains folded and trained": "O(d), trained",
    },
    words={"noise ": "± ", "adafactor_transformers": "adafactor (HF)", "adafactor_torch": "adafactor"},
)


def tabulate(records):
    """Return every measurement, the means over seeds, and the judged claims."""
    rows = tidy("c4", records).assign(matcher=None, route=None)
    means = aggregate(rows, ["optimizer", "arm", "theory", "library"])
    return judged("c4", rows, means)


def measured(rows):
    """Return exact where no seed exceeds its yardstick, broken where every seed exceeds it and 0.01, else
    unclear.

    It is unclear as well where reordering neurons alone takes a run as far as what would be broken: such a
    yardstick measures nothing.
    """
    if (rows["yardstick"] / YARDSTICK_FACTOR > BROKEN).any():
        return "unclear"
    if (rows["value"] <= rows["yardstick"]).all():
        return "exact"
    return "broken" if (rows["value"] > rows["yardstick"].clip(lower=BROKEN)).all() else "unclear"


def cell(rows):
    """Return ``exact 2e-15``, ``broken 1e+00``, or ``refused 1e+00`` (forced, as the library refuses to move
    it).

    Where the measurement or the library disagrees with theory, all three are named. Where reordering neurons
    alone already moves the run (bfloat16), the cell gives that noise as well.
    """
    theory, library, outcome = rows["theory"].iloc[0], rows["library"].iloc[0], measured(rows)
    agrees = outcome == ("exact" if theory == "exact" else "broken")
    agrees &= (rows["library"] == ("refuses" if theory == "refused" else "moves")).all()
    value = rows["value"].max() if theory == "exact" else rows["value"].min()
    mark = theory if agrees else f"{outcome}, library {library} (theory: {theory})"
    noise = rows["yardstick"].max() / YARDSTICK_FACTOR
    return f"{mark} {value:.0e}" + (f" (noise {noise:.0e})" if theory == "exact" and noise > VISIBLE else "")


def pivot(table):
    """Return a row per model and optimizer, with a column per group."""
    seeds = table[table["seed"].notna()]
    lines = []
    for (model, optimizer), part in seeds.groupby(["model", "optimizer"], sort=False):
        line = {"model": model, "optimizer": optimizer, "n": part["seed"].nunique()}
        line |= {
            name: cell(part[part["arm"] == arm])
            for arm, name in CONDITIONS.items()
            if arm in set(part["arm"])
        }
        lines.append(line)
    return pd.DataFrame(lines).fillna("–")


def plot(table):
    """Draw a heat map of the logarithm of the displacement: dark where exact, light where broken."""
    seeds = table[table["seed"].notna()]
    names = list(dict.fromkeys(zip(seeds["model"], seeds["optimizer"], strict=True)))
    worst = seeds.groupby(["model", "optimizer", "arm"])["value"].max()
    grid = np.array([[max(worst.get((m, o, a), np.nan), 1e-17) for a in CONDITIONS] for m, o in names])
    figure, axes = f.panels(1, width=7.5, height=0.3 * len(names) + 1.8)
    image = axes[0].imshow(np.log10(grid), cmap="cividis", aspect="auto", vmin=-16, vmax=0)
    axes[0].set_xticks(range(len(CONDITIONS)), CONDITIONS.values(), rotation=20, ha="right", fontsize=7)
    axes[0].set_yticks(range(len(names)), [f"{m}, {o}" for m, o in names], fontsize=7)
    figure.colorbar(image, label="log10 of displacement / distance travelled")
    return figure
