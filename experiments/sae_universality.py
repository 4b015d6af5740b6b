"""Make table b5: what an SAE of seed 0 explains of other seeds' streams, by map."""

import pandas as pd

from gaugeport.pipeline.report import figures as f
from gaugeport.pipeline.report.judged import judged
from gaugeport.pipeline.report.model_pairs import GROUPS, by_site, line_style, pair_label
from gaugeport.pipeline.report.narrow import Narrow
from gaugeport.pipeline.report.render import cell
from gaugeport.pipeline.report.tidy import aggregate, by_depth, means_of, middle_site, select, tidy

TITLE = "b5 An SAE of seed 0 on other seeds: explained variance, by map"
CAPTION = (
    "Explained variance of held-out tokens at home (self) and on the other seed: as it is (raw), and "
    "through the best map of each group, fitted on other tokens. Principal axes: a control that aligns "
    "those and knows no token's partner."
)
DETAILS = (
    "Noise: Gaussian, with the mean and covariance of seed 0's stream. Maps are centred; permutations by "
    "correlation, the rotation by covariance, as in the paper; scaled: with the ratio of the streams' "
    "lengths, which the paper's has not. Noise, rotated: Gaussian noise with the other's moments through "
    "the rotation. Affine, no SAE: what that map keeps of the stream there and back (the others keep "
    "all), the most that its column can be. Native: the other seed's own SAE. Decoder rows: share with "
    "greatest cosine above 0.7 (one-to-one: assigned), and its mean; SAEs trained from the same or from "
    "their own initialisation, never trained, and rotated."
)
EXTRA = ["cohort", "tokens", "init"]
OWN_LINES = {"self": "self", "noise": "noise"}
CONTROLS = {"native": "native", "principal_axes": "principal axes", "noise_rotated": "noise, rotated"}
KINDS = {"default": "TopK", "relu_l1": "ReLU and L1"}
DECODERS = {
    "above .7, same init": {"metric": "decoder_max_above", "group": "identity", "init": "same"},
    "above .7, own init": {"metric": "decoder_max_above", "group": "identity", "init": "own"},
    "above .7, own init, rotated": {"metric": "decoder_max_above", "group": "orthogonal", "init": "own"},
    "one-to-one above .7, own init, rotated": {
        "metric": "decoder_matched_above",
        "group": "orthogonal",
        "init": "own",
    },
    "cosine, same init": {"metric": "decoder_mean_max_cosine", "group": "identity", "init": "same"},
    "cosine, own init": {"metric": "decoder_mean_max_cosine", "group": "identity", "init": "own"},
    "cosine, untrained": {"metric": "decoder_mean_max_cosine", "group": "identity", "init": "untrained"},
    "cosine, own init, rotated": {"metric": "decoder_mean_max_cosine", "group": "orthogonal", "init": "own"},
    "to its initialisation": {"metric": "cosine_to_initial", "init": "same"},
}
PAPER = {
    ("pythia", "seeds"): {
        "raw": "negative from layer 2 on",
        "O(d)": "0.85–0.99",
        "above .7, same init": "0.98; last site 0.62",
        "cosine, same init": "0.91–0.93",
    },
    ("dyck3", "A"): {
        "raw": "negative",
        "O(d)": "within 0.025 of self",
        "above .7, same init": "0.98",
        "cosine, same init": "0.89",
    },
    ("dyck3", "B"): {"raw": "negative", "O(d)": "as cohort A"},
}
"""The paper's figures (sections 7.1, 8.1–8.4). It does not say whether its SAEs shared an initialisation."""

SUMMARY = Narrow(
    columns={
        "model": "model",
        "setting": "setting",
        "site": "site",
        "self": "self",
        "raw": "raw",
        "B_d": "B_d",
        "O(d)": "O(d)",
        "principal axes": "axes",
    },
    rows=[
        {
            "setting": ("default", "relu_l1"),
            "site": lambda site: site.startswith("block") or site in ("resid_mid_1", "resid_post_1"),
        },
        {"setting": "paper"},
    ],
    words={
        ", independent seeds": "",
        "relu_l1": "ReLU, L1",
        "default": "TopK",
        "cohort ": "",
        "negative from layer 2 on": "negative",
        "within 0.025 of self": "within 0.025",
    },
    means=True,
)


def tabulate(records):
    """Return every measurement, the means over pairs, and the judged claims."""
    rows = tidy("b5", records, extra=EXTRA).assign(matcher=None, route=None)
    return judged("b5", rows, aggregate(rows, EXTRA))


def pivot(table):
    """Return a row per model, cohort, setting and site; then what the paper says."""
    lines = []
    means = means_of(table)
    for (model, setting, cohort), whole in by_site(means, []):
        for site, part in whole.sort_values("site", key=by_depth, kind="stable").groupby("site", sort=False):
            line = {"model": pair_label(model, cohort), "setting": setting, "site": site}
            for group, name in (
                *OWN_LINES.items(),
                *((g, n) for g, (n, _) in GROUPS.items()),
                *CONTROLS.items(),
            ):
                line[name] = cell(select(part, {"metric": "explained_variance", "group": group}))
            line["affine, no SAE"] = cell(select(part, {"metric": "round_trip", "group": "affine"}))
            line |= {name: cell(select(part, where)) for name, where in DECODERS.items()}
            lines.append({**line, "n": int(part["n"].max())})
        if setting == "default" and (model, cohort) in PAPER:
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
    """Draw explained variance by site, a panel per model and kind of SAE, and by number of fitting tokens."""
    means = means_of(table)
    parts = sorted(by_site(means, []), key=lambda part: part[0][1] != "default")
    figure, axes = f.panels(len(parts) + 1, width=4.4, columns=3)
    lines = {"self": ("self", f.GREY), "principal_axes": ("principal axes, unpaired", f.SKY), **GROUPS}
    for axis, ((model, setting, cohort), part) in zip(axes, parts, strict=False):
        for group, (name, colour) in lines.items():
            rows = select(part, {"metric": "explained_variance", "group": group})
            rows = rows.sort_values("site", key=by_depth)
            style = "o:" if group in CONTROLS else f"o{line_style(group)}"
            axis.plot(rows["site"], rows["value"], style, color=colour, markersize=3, label=name)
        axis.tick_params(axis="x", rotation=30, labelsize=7)
        axis.set(
            title=f"{pair_label(model, cohort)}, {KINDS.get(setting, setting)}", ylabel="explained variance"
        )
        axis.axhline(0, color=f.GREY, linewidth=0.5)
    axes[0].set_ylim(max(-1.0, axes[0].get_ylim()[0]), 1.04)  # a map that is worse than that is off the panel
    f.legend_below(figure, axes[0])
    default = select(means, {"setting": "default"})
    last, first = axes[len(parts)], default[default["model"] == "pythia"]
    curve = select(first if len(first) else default, {"metric": "explained_variance_by_tokens"})
    sites = [s for s in curve["site"].unique() if s.startswith("block")]
    curve = select(curve, {"site": middle_site(sites)}) if sites else curve.iloc[:0]
    for group, (name, colour) in GROUPS.items():
        rows = select(curve, {"group": group})
        if len(rows):
            f.line_with_band(last, rows, "tokens", colour, name, line_style(group))
    last.set(xscale="log", xlabel="tokens fitted on", title="pythia, mid-stack, TopK")
    return figure
