"""Make table b7: do the latents of seed 0's SAE fire on the same tokens of other seeds?"""

import pandas as pd

from gaugeport.pipeline.report import figures as f
from gaugeport.pipeline.report.judged import judged
from gaugeport.pipeline.report.model_pairs import GROUPS, by_site, line_style, pair_label
from gaugeport.pipeline.report.narrow import Narrow
from gaugeport.pipeline.report.render import cell
from gaugeport.pipeline.report.tidy import aggregate, by_depth, means_of, select, tidy

TITLE = "b7 Firing patterns: does a latent of seed 0's SAE fire on the same tokens of another seed?"
CAPTION = (
    "Correlation over held-out tokens of each latent with itself on the other seed, mean over all "
    "latents, by map. Self: the share of latents that ever fires."
)
DETAILS = (
    "Scaled: with the ratio of the streams' lengths. Recovered: share of latents with a correlation above "
    "0.5."
)
EXTRA = ["cohort"]
PAPER = {
    ("pythia", "seeds"): {"raw": "0.01–0.07", "O(d)": "0.25–0.44"},
    ("dyck3", "A"): {"self": "0.96–1.00", "raw": "0.03–0.51", "O(d)": "0.27–0.74"},
}
"""Section 8.5, of ReLU-and-L1 SAEs; its shares of recovered latents are lost."""
KINDS = {"default": "TopK", "relu_l1": "ReLU and L1", "relu_l1_16": "ReLU and L1, 16 ×"}
RECOVERED = ("identity", "signed_permutation", "orthogonal")

SUMMARY = Narrow(
    columns={
        "model": "model",
        "setting": "SAE",
        "site": "site",
        "self": "self",
        "raw": "raw",
        "B_d": "B_d",
        "O(d)": "O(d)",
        "n": "n",
    },
    rows=[
        {
            "setting": ("default", "relu_l1"),
            "site": lambda site: site.startswith("block") or site in ("resid_mid_1", "resid_post_1"),
        },
        {"setting": "paper"},
    ],
    words={", independent seeds": "", "cohort ": "", "default": "TopK", "relu_l1": "ReLU"},
    means=("self", "raw", "B_d"),
)


def tabulate(records):
    """Return every measurement, the means over pairs, and the judged claims."""
    rows = tidy("b7", records, extra=EXTRA).assign(matcher=None, route=None)
    return judged("b7", rows, aggregate(rows, EXTRA))


def pivot(table):
    """Return a row per model, cohort and site; then what the paper says."""
    lines, parts = [], list(by_site(means_of(table), []))
    last_of = {(model, cohort): setting for (model, setting, cohort), _ in parts}
    for (model, setting, cohort), whole in parts:
        for site, part in whole.sort_values("site", key=by_depth, kind="stable").groupby("site", sort=False):
            line = {"model": pair_label(model, cohort), "setting": setting, "site": site}
            for group, name in (("self", "self"), *((g, n) for g, (n, _) in GROUPS.items())):
                line[name] = cell(select(part, {"metric": "firing_pearson", "group": group}))
            for group in RECOVERED:
                selected = select(part, {"metric": "recovered_share", "group": group})
                line[f"recovered, {GROUPS[group][0]}"] = cell(selected)
            lines.append({**line, "n": int(part["n"].max())})
        if (model, cohort) in PAPER and setting == last_of[model, cohort]:
            lines.append(
                {
                    "model": pair_label(model, cohort),
                    "setting": "paper",
                    "site": "paper",
                    **PAPER[model, cohort],
                }
            )
    return pd.DataFrame(lines).fillna("–")


def plot(table):
    """Draw mean correlation by site, a panel per model and cohort."""
    parts = [
        (f"{pair_label(model, cohort)}, {KINDS.get(setting, setting)}", part)
        for (model, setting, cohort), part in by_site(means_of(table), [])
    ]
    figure, axes = f.panels(len(parts), width=4.4, columns=3)
    for axis, (title, part) in zip(axes, parts, strict=True):
        for group, (name, colour) in GROUPS.items():
            rows = select(part, {"metric": "firing_pearson", "group": group}).sort_values(
                "site", key=by_depth
            )
            axis.plot(
                rows["site"], rows["value"], f"o{line_style(group)}", color=colour, markersize=3, label=name
            )
        axis.tick_params(axis="x", rotation=30, labelsize=7)
        axis.set(title=title)
    axes[0].set(ylabel="mean correlation of a latent with itself", ylim=(-0.05, 1.02))
    axes[0].legend(fontsize=7)
    return figure
