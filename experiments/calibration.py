"""Make table c5: which settings of evidence and planting give the figures of paper A."""

import pandas as pd

from gaugeport.pipeline.report import figures as f
from gaugeport.pipeline.report.judged import judged
from gaugeport.pipeline.report.narrow import Narrow
from gaugeport.pipeline.report.tidy import aggregate, by_depth, means_of, middle_site, select, tidy

TITLE = "c5 Calibration: which settings give paper A's figures"
CAPTION = (
    "Gauges are recovered under every setting: site (each block, pooled, weights), tokens a row, first token "
    "of each row in or out, or massive tokens out, number of tokens, row means in place of tokens. ± .03: "
    "how many of all settings give the paper's figure so nearly; where many do, it says little of any one. "
    "Nearest: the closest one; 1k/64 in is 1,024 tokens in rows of 64, first tokens in. Moved: "
    "‖θ_B − θ_A‖ / ‖θ_A‖. Share placed (60.3 %, 91.1 %), a direction's effect kept (17.2 %), NMSE (1.08)."
)
DETAILS = (
    "Share placed is signed accuracy for B_d and index accuracy for S_d. Signs dropped and raw matching are "
    "measured token by token at one row length, under planted gauges with a share p of positive signs, which "
    "follows the gauge's name. The NMSE is that of an SAE that loses nothing, moved with the true indices "
    "and no signs (a4 has real SAEs)."
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
    0.603: ("60.3 %", {B_D: "signed_accuracy", RAW: "index_accuracy"}, "endpoint"),
    0.911: ("91.1 %", {B_D: "signed_accuracy"}, "trajectory"),
    0.172: ("17.2 %", {DROPPED: "retention", RAW: "retention"}, "endpoint"),
    1.08: ("1.08", {DROPPED: "lossless_nmse"}, "endpoint"),
}
SUMMARY = Narrow(
    columns={
        "paper": "paper",
        "gauge": "gauge",
        "pair": "pair",
        "moved": "moved",
        "within": "± .03",
        "nearest": "nearest",
        "at": "its setting",
    },
    rows={"pair": lambda pair: True},  # every setting, where the default is to show one
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
                gauge = NAMES[group, matcher] + ("" if pd.isna(p) else f", {p:g}".replace("0.", "."))
                lines.append(
                    {
                        "paper": name,
                        "gauge": gauge,
                        "route": route,
                        "pair": _pair(setting, noise),
                        "moved": _moved(means, setting, noise),
                        "within": f"{int((away <= WITHIN).sum())}/{len(part)}",
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
    return "runs" if setting == "default" else setting


def _moved(means, setting, noise):
    """Return how far the weights of B are from those of A, of a pair of runs or of noise."""
    here = select(means, {"metric": "weight_distance", "link": "A to B", "setting": setting})
    here = here[here["noise"].isna() if pd.isna(noise) else here["noise"] == noise]
    return f"{100 * here['value'].iloc[0]:.1f} %"


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
