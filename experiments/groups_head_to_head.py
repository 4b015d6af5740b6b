"""Make table c1: S_d, B_d, O(d) and an affine map on the same tasks."""

import pandas as pd

from gaugeport.pipeline.report import figures as f
from gaugeport.pipeline.report.judged import judged
from gaugeport.pipeline.report.narrow import Narrow
from gaugeport.pipeline.report.render import cell
from gaugeport.pipeline.report.tidy import aggregate, means_of, select, tidy

TITLE = "c1 Groups head to head: S_d, B_d, O(d) and an affine map on the same tasks"
CAPTION = (
    "Maps from run A's last checkpoint to run B's (finetuned: unmoved is the true gauge), or to the base "
    "model of another seed (independent), fitted on 4096 tokens. Fit: explained variance of held-out "
    "tokens; shrunk: with the scale of least squares, as a regression has it. SAE: NMSE of A's SAE "
    "through the map. Index: precision of the top k."
)
DETAILS = (
    "No SAE: NMSE of the map there and back. Steering retention: of B's own sentiment effect, of the "
    "seeds that have one. Index precision: among the top k."
)
EXTRA = ["target", "tokens"]
GROUPS = {
    "identity": ("unmoved", f.GREY),
    "permutation": ("S_d raw", f.ORANGE),
    "signed_permutation": ("B_d", f.BLUE),
    "orthogonal": ("O(d)", "black"),
    "affine": ("affine (ridge)", f.GREEN),
}
TASKS = {
    "sae_nmse": "SAE NMSE",
    "round_trip_nmse": "no SAE",
    "retention_native": "steering retention",
    "index_precision": "index precision",
}

SUMMARY = Narrow(
    columns={
        "target": "target",
        "group": "map",
        "fit, 4096 tokens": "fit",
        "shrunk, 4096 tokens": "shrunk",
        "SAE NMSE": "SAE",
        "index precision": "index",
    },
    words={"affine (ridge)": "affine"},
    means=("index precision",),
)


def tabulate(records):
    """Return every measurement, the means over seeds, and the judged claims."""
    rows = tidy("c1", records, extra=EXTRA)
    return judged("c1", rows, aggregate(rows, EXTRA))


def pivot(table):
    """Return a row per target and group: held-out fit by number of tokens, then the tasks."""
    lines = []
    means = means_of(table)
    for (model, setting, target), part in means.groupby(["model", "setting", "target"], sort=False):
        for group, (name, _) in GROUPS.items():
            here = select(part, {"group": group})
            if not len(here):
                continue
            line = {"model": model, "setting": setting, "target": target, "group": name}
            n = int(here["n"].max())
            sizes = sorted(select(part, {"metric": "heldout_fit"})["tokens"].unique())
            for metric, title in {"heldout_fit": "fit", "heldout_fit_shrunk": "shrunk"}.items():
                for tokens in sizes:
                    line[f"{title}, {tokens:g} tokens"] = _cell(here, {"metric": metric, "tokens": tokens})
            for metric, title in TASKS.items():
                line[title] = cell(select(here, {"metric": metric}), n=n)
            if select(here, {"metric": "no_effect_to_transport"})["value"].eq(1).all():
                line["steering retention"] = "no effect to transport"
            if len(select(here, {"metric": "index_refused"})):
                line["index precision"] = "refused"
            lines.append({**line, "native SAE": _cell(part, {"metric": "sae_nmse_native"}), "n": n})
    return pd.DataFrame(lines)


def plot(table):
    """Draw held-out fit over the number of tokens, a panel per target; dashed with the scale of least
    squares."""
    means = means_of(table)
    targets = list(dict.fromkeys(means["target"]))
    figure, axes = f.panels(len(targets), width=4.6)
    for axis, target in zip(axes, targets, strict=True):
        for group, (name, colour) in GROUPS.items():
            for metric, style in (("heldout_fit", "-"), ("heldout_fit_shrunk", "--")):
                rows = select(means, {"target": target, "group": group, "metric": metric})
                if len(rows):
                    f.line_with_band(axis, rows, "tokens", colour, name if style == "-" else "_shrunk", style)
        axis.set(title=f"target {target}", xscale="log", xlabel="tokens fitted on", ylim=(-1, 1.04))
        axis.axhline(0, color=f.GREY, linewidth=0.5)
    axes[0].set_ylabel("explained variance of held-out tokens (dashed: shrunk)")
    axes[0].legend(fontsize=7)
    return figure


def _cell(frame, where):
    return cell(select(frame, where))
