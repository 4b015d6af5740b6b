"""Make table b11: accuracy on strings of 50 to 60 brackets, by the longest trained string."""

import pandas as pd

from gaugeport.pipeline.report import figures as f
from gaugeport.pipeline.report.judged import judged
from gaugeport.pipeline.report.narrow import Narrow
from gaugeport.pipeline.report.render import cell
from gaugeport.pipeline.report.tidy import aggregate, means_of, select, tidy

TITLE = "b11 Length extrapolation: accuracy on strings longer than any trained on"
CAPTION = "Accuracy per position on held-out strings, of cohort B."
EXTRA = ["cohort", "lengths", "longest"]
PAPER = {(48, "longer"): 0.95, (62, "longer"): 0.9999, (62, "trained"): 0.9999}
"""The paper's depth accuracy (appendix A), by longest trained string and lengths tested."""
LENGTHS = {"trained": "trained lengths", "longer": "50–60"}

SUMMARY = Narrow(columns={c: c for c in ("trained on", "tested on", "depth", "paper's depth", "valid", "n")})


def tabulate(records):
    """Return every measurement, the means over seeds with the paper's figures, and the judged claim."""
    rows = tidy("b11", records, extra=EXTRA).assign(group=None, matcher=None, route=None)
    means = aggregate(rows, EXTRA)
    depth = means["metric"] == "depth_accuracy"
    keys = zip(means.loc[depth, "longest"], means.loc[depth, "lengths"], strict=True)
    means.loc[depth, "paper"] = [PAPER.get(key, float("nan")) for key in keys]
    return judged("b11", rows, means)


def pivot(table):
    """Return a row per longest trained string and lengths tested: accuracy of each head."""
    lines = []
    means = means_of(table)
    for longest in sorted(means["longest"].unique()):
        for lengths, name in LENGTHS.items():
            part = select(means, {"longest": longest, "lengths": lengths})
            line = {"trained on": f"2–{longest:.0f}", "tested on": name}
            line |= {
                h: cell(select(part, {"metric": f"{h}_accuracy"}), digits=4)
                for h in ("token", "depth", "valid")
            }
            paper = select(part, {"metric": "depth_accuracy"})["paper"].iloc[0]
            lines.append(
                {
                    **line,
                    "paper's depth": "–" if pd.isna(paper) else f"{paper:.4f}",
                    "n": int(part["n"].max()),
                }
            )
    return pd.DataFrame(lines)


def plot(table):
    """Draw depth and valid accuracy by lengths tested, a line per seed, a panel per longest trained
    string."""
    seeds = table[table["seed"].notna()]
    longest = sorted(seeds["longest"].unique())
    figure, axes = f.panels(len(longest), width=3.4, height=3.4)
    for axis, top in zip(axes, longest, strict=True):
        for head, colour in (("depth", f.BLUE), ("valid", f.ORANGE)):
            part = select(seeds, {"longest": top, "metric": f"{head}_accuracy"})
            for k, (_, one) in enumerate(part.groupby("seed")):
                values = [select(one, {"lengths": name})["value"].iloc[0] for name in LENGTHS]
                axis.plot(
                    range(2),
                    values,
                    "o-",
                    color=colour,
                    markersize=4,
                    alpha=0.8,
                    label=head if k == 0 else None,
                )
        axis.set_xticks(range(2), LENGTHS.values())
        axis.set(title=f"trained on 2 to {top:.0f}", xlim=(-0.3, 1.3))
        f.paper_line(axis, PAPER[(48 if top < 62 else 62), "longer"], f.PURPLE, "paper, depth, 50–60")
    axes[0].set_ylabel("accuracy per position")
    axes[0].legend(fontsize=7)
    return figure
