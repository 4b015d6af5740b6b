"""Make table c5: which settings of evidence and planting give the figures of paper A."""

import pandas as pd

from gaugeport.pipeline.report import figures as f
from gaugeport.pipeline.report.claims import judged
from gaugeport.pipeline.report.narrow import Narrow
from gaugeport.pipeline.report.tidy import aggregate, by_depth, means_of, middle_site, select, tidy

TITLE = "c5 Calibration: which settings give paper A's figures"
CAPTION = (
    "Gauges are recovered under every setting of the evidence: site (each block, pooled, weights), tokens a "
    "row, first token of each row in or out, number of tokens, tokens or row means. Within: settings whose "
    "value is within ± .03 of the paper's, of all settings of the line; nearest: the closest one. How easily "
    "a figure arises is what to read: where many settings give it, it says little of any one."
)
DETAILS = (
    "Recovered is signed accuracy for B_d and index accuracy for S_d. Signs dropped and raw matching are "
    "measured token by token at one row length, under planted gauges with a share p of positive signs. The "
    "NMSE is that of an SAE that loses nothing, moved with the true indices and no signs (a4 has real SAEs)."
)
SETTINGS = {"lr": "training.run.lr"}
KEYS = ["length", "left_out", "tokens", "samples", "p", "noise", "link"]
WITHIN = 0.03
B_D, DROPPED, RAW = (
    ("signed_permutation", "hungarian_abs"),
    ("permutation", "hungarian_abs"),
    ("permutation", "hungarian_raw"),
)
NAMES = {B_D: "B_d", DROPPED: "S_d unsigned", RAW: "S_d raw"}
FIGURES = {  # paper's figure -> its name, the metric it is compared with by gauge, and the route
    0.603: ("60.3 % endpoint", {B_D: "signed_accuracy", RAW: "index_accuracy"}, "endpoint"),
    0.911: ("91.1 % trajectory", {B_D: "signed_accuracy"}, "trajectory"),
    1.08: ("1.08 NMSE", {DROPPED: "lossless_nmse"}, "endpoint"),
    0.172: ("17.2 % of steering", {DROPPED: "retention", RAW: "retention"}, "endpoint"),
}
SUMMARY = Narrow(
    columns={
        "paper": "paper",
        "gauge": "gauge",
        "runs": "pair",
        "within": "within ± .03",
        "nearest": "nearest",
        "at": "its setting",
    },
    rows={"runs": lambda runs: True},
)


def tabulate(records):
    """Return every measurement, the means over pairs of runs, and the judged claims."""
    rows = tidy("c5", records, SETTINGS, extra=KEYS)
    return judged("c5", rows, aggregate(rows, [*SETTINGS, *KEYS]))


def pivot(table):
    """Return a line per paper's figure, gauge, share p and pair of models: the settings that give it."""
    means, lines = means_of(table), []
    for paper, (name, metrics, route) in FIGURES.items():
        for (group, matcher), metric in metrics.items():
            where = {"group": group, "matcher": matcher, "route": route, "metric": metric}
            measured = select(means, where)
            for (setting, noise, p), part in measured.groupby(["setting", "noise", "p"], dropna=False):
                away = (part["value"] - paper).abs()
                nearest = part.loc[away.idxmin()]
                gauge = NAMES[group, matcher] + ("" if pd.isna(p) else f", p = {p:g}".replace("0.", "."))
                lines.append(
                    {
                        "paper": name,
                        "gauge": gauge,
                        "runs": _pair(setting, noise),
                        "within": f"{int((away <= WITHIN).sum())} of {len(part)}",
                        "nearest": f"{nearest['value']:.3f}",
                        "at": _describe(nearest),
                        "least": f"{part['value'].min():.3f}",
                        "most": f"{part['value'].max():.3f}",
                        "n": int(part["n"].max()),
                    }
                )
    return pd.DataFrame(lines)


def plot(table):
    """Draw what is recovered against the number of calibration tokens.

    Columns are an early, the middle and the last block; the upper row has the first token of each row in,
    the lower one out. Lines are routes, or the base against itself plus noise where there are no runs.
    """
    means = select(means_of(table), {"evidence": "site", "samples": "tokens"})
    means = means[means["length"] == _detail_length(means)]
    sites = sorted((s for s in means["site"].unique() if s.startswith("block")), key=_block)
    shown = dict.fromkeys((sites[len(sites) // 4], middle_site(sites), sites[-1]))
    figure, axes = f.panels(2 * len(shown), columns=len(shown), width=3.4, height=2.8)
    panels = [(left_out, site) for left_out in ("none", "first") for site in shown]
    for axis, (left_out, site) in zip(axes, panels, strict=True):
        here = select(means, {"left_out": left_out, "site": site})
        for rows, label, colour, style in _lines(here):
            f.line_with_band(axis, rows, "tokens", colour, label, style)
        f.paper_line(axis, 0.603, f.RED, "paper, endpoint")
        f.paper_line(axis, 0.911, f.BLUE, "paper, trajectory")
        first = "in" if left_out == "none" else "out"
        axis.set(title=f"{site}, first token {first}", xscale="log", ylim=(0, 1.04))
    for axis in axes[-len(shown) :]:
        axis.set_xlabel("calibration tokens")
    for axis in axes[:: len(shown)]:
        axis.set_ylabel("share of coordinates")
    f.legend_below(figure, axes[0])
    return figure


def _lines(here):
    """Yield rows, label, colour and style of a panel's lines."""
    signed = select(here, {"group": B_D[0], "matcher": B_D[1], "metric": "signed_accuracy"})
    runs = select(signed, {"setting": "default"})
    routes = (("trajectory", f.BLUE, "-"), ("via_base", f.ORANGE, "--"), ("endpoint", f.RED, "-."))
    for route, colour, style in routes:
        yield select(runs, {"route": route}), f"{route.replace('_', ' ')}, B_d", colour, style
    raw = select(here, {"group": RAW[0], "matcher": RAW[1], "metric": "index_accuracy", "setting": "default"})
    for p, colour in ((0.5, f.GREY), (0.6, f.PURPLE)):
        yield select(raw, {"p": p}), f"endpoint, S_d raw, p = {p:g}", colour, ":"
    if len(runs):
        return
    for (sigma, rows), colour in zip(signed.groupby("noise"), (f.SKY, f.GREEN, f.RED), strict=False):
        yield rows, f"noise of {sigma:g} std, B_d", colour, "-"


def _detail_length(means):
    """Return the row length at which signs are dropped; without runs, the middle one."""
    detail = means.loc[means["p"].notna(), "length"]
    lengths = sorted(means["length"].dropna().unique())
    return detail.iloc[0] if len(detail) else lengths[len(lengths) // 2]


def _block(site):
    return by_depth(pd.Series([site])).iloc[0]


def _pair(setting, noise):
    if pd.notna(noise):
        return f"noise {noise:g}"
    return "runs" if setting == "default" else f"runs, {setting}"


def _describe(row):
    """Return a setting in few words: ``block22 64×16 first in`` is 64 tokens of rows of 16."""
    if row["evidence"] == "weights":
        return "weights"
    left_out = {"none": "first in", "first": "first out", "massive": "massive out"}[row["left_out"]]
    means = " means" if row["samples"] == "row means" else ""
    place = row["site"] if row["evidence"] == "site" else "pooled"
    return f"{place}, {row['tokens']:.0f} of {row['length']:.0f}, {left_out}{means}"
