"""Make table a8: AdamW resumed from moved, functionally identical checkpoints, by what is done to its
state."""

import pandas as pd

from gaugeport.pipeline.measures.noise_floor import FLOOR, LARGEST_RESOLVED_FLOOR
from gaugeport.pipeline.report import figures as f
from gaugeport.pipeline.report.judged import judged
from gaugeport.pipeline.report.narrow import Narrow
from gaugeport.pipeline.report.render import of_seeds
from gaugeport.pipeline.report.tidy import MAIN_MODELS, aggregate, select, tidy

TITLE = "a8 AdamW: a run resumed from a moved checkpoint, by what is done to its state"
CAPTION = (
    "Divergence from the reference run on identical batches, over the distance travelled since resuming. "
    "Horizon: the last step up to which the noise floor (the same function with its MLP neurons permuted) is "
    f"below {LARGEST_RESOLVED_FLOOR:g}; beyond it every run is chaotic."
)
DETAILS = "Divergence is ‖g⁻¹θ' − θ‖ / ‖θ − θ_resume‖; the horizon's range is over seeds."
SETTINGS = {"lr": "training.run.lr"}
EXTRA = ["arm", "theory", "resume_step", *SETTINGS]
STATES = {
    "zeroed": ("moments zeroed, step kept", f.PURPLE, "-"),
    "no_state": ("no state", f.ORANGE, "-"),
    "permutation_only": ("state permuted, signs dropped", f.RED, "-"),
    "signed": ("state moved with signs", f.BLUE, "-"),
    "recovered": ("moved by the recovered gauge", f.SKY, "--"),
    FLOOR: ("noise floor: MLP neurons permuted", f.GREY, ":"),
    "sign_only": ("plant of signs only, state with signs", f.GREEN, "-"),
}

SUMMARY = Narrow(
    columns={
        "setting": "setting",
        "state": "AdamW state",
        "theory": "theory",
        "horizon": "horizon",
        "at horizon": "at horizon",
        "step 50": "step 50",
        "n": "n",
    },
    rows={"model": MAIN_MODELS, "setting": ("default", "lr=0.003", "self")},
)


def tabulate(records):
    """Return every measurement, the means over seeds, and the judged claims."""
    rows = tidy("a8", records, SETTINGS).assign(route=None)
    return judged("a8", rows, aggregate(rows, EXTRA))


def pivot(table):
    """Return a row per model, setting and state: divergence at the first step, the horizon and the last
    step."""
    seeds = table[table["seed"].notna() & (table["arm"] != "reference")]
    lines = []
    for model, setting in _cases(seeds):
        group = select(seeds, {"model": model, "setting": setting})
        first, last = group["step"].min(), group["step"].max()
        for arm, (name, _, _) in STATES.items():
            part = select(group, {"arm": arm})
            line = {"model": model, "setting": setting, "state": name, "theory": part["theory"].iloc[0]}
            line |= {"n": part["seed"].nunique(), f"step {first:.0f}": _mean(part, "divergence", first)}
            line |= {
                "horizon": _range(part, "horizon"),
                "at horizon": _mean(part, "divergence_at_horizon", last),
            }
            line |= {"over floor": _mean(part, "over_floor_at_horizon", last)}
            line |= {f"step {last:.0f}": _mean(part, "divergence", last)}
            line |= {f"over floor, step {last:.0f}": _mean(part, "divergence_over_floor", last)}
            line |= {"held-out loss gap": _mean(part, "heldout_gap", last, "{:+.1e}")}
            line |= {"gauge accuracy": _mean(part, "signed_accuracy", last, "{:.3f}")}
            lines.append(line)
    return pd.DataFrame(lines).fillna("–")


def plot(table):
    """Draw divergence against steps, a panel per model and setting. What is exactly 0 stands in the
    legend."""
    rows = select(table[table["seed"].notna()], {"metric": "divergence"})
    settings = _cases(rows)
    figure, axes = f.panels(len(settings), width=4.6, columns=3)
    for axis, (model, setting) in zip(axes, settings, strict=True):
        here = select(rows, {"model": model, "setting": setting})
        for arm, (name, colour, style) in STATES.items():
            part = select(here, {"arm": arm})
            if (part["value"] == 0).all():
                axis.plot([], [], style, color=colour, label=f"{name}: exactly 0")
                continue
            for _, seed in part.groupby("seed"):
                axis.plot(seed["step"], seed["value"], style, color=colour, alpha=0.35, linewidth=0.8)
            mean = part.groupby("step")["value"].mean()
            axis.plot(mean.index, mean, style, color=colour, label=name)
        axis.axhline(LARGEST_RESOLVED_FLOOR, color="black", linewidth=0.5)
        where = {"xycoords": ("axes fraction", "data"), "fontsize": 6, "ha": "right", "va": "bottom"}
        axis.annotate("horizon: the floor crosses this", (0.98, LARGEST_RESOLVED_FLOOR), **where)
        what = "" if setting == "default" else f", {setting}"
        axis.set(title=f"{model}{what}", xlabel="steps since the checkpoint", yscale="log")
    axes[0].set_ylabel("divergence / distance travelled")
    axes[0].legend(fontsize=6)
    return figure


def _cases(rows):
    """Return the models and settings that were run, the default of the main model first."""
    cases = set(rows[["model", "setting"]].itertuples(index=False, name=None))
    return sorted(cases, key=lambda c: (c[0] not in MAIN_MODELS, c[1] != "default", c))


def _mean(rows, metric, step, form="{:.1e}"):
    values = select(rows, {"metric": metric, "step": step})["value"]
    if not len(values):
        return None
    text = "0" if (values == 0).all() else form.format(values.mean())
    return text + of_seeds(len(values), rows["seed"].nunique())


def _range(rows, metric):
    values = select(rows, {"metric": metric})["value"]
    if not len(values):
        return None
    low, high = values.min(), values.max()
    return f"{low:.0f}" if low == high else f"{low:.0f}–{high:.0f}"
