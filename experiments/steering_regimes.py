"""Make table b8: how much of its effect a steering vector of seed 0 has on other seeds of its cohort."""

import pandas as pd
from matplotlib.ticker import FixedLocator, NullLocator

from gaugeport.pipeline.report import figures as f
from gaugeport.pipeline.report.class_gaps import CLASS_GAP, least_gaps, told_apart
from gaugeport.pipeline.report.judged import judged
from gaugeport.pipeline.report.model_pairs import COHORTS, GROUPS, by_site, pair_label
from gaugeport.pipeline.report.narrow import Narrow
from gaugeport.pipeline.report.render import cell
from gaugeport.pipeline.report.tidy import aggregate, by_depth, means_of, select, tidy
from gaugeport.pipeline.rotation.features.predictors import FEWEST_POINTS, share_test
from gaugeport.pipeline.rotation.features.regimes import REGIMES

TITLE = "b8 Steering regimes: effect of seed 0's vectors on other seeds, over that on seed 0"
CAPTION = (
    "Slope at the least strength over that on seed 0, median over pairs: the vector unchanged, through the "
    "best signed permutation, through the rotation, and the other seed's own vector. Share: of ‖v‖² in "
    "what the shared unembeddings read. Gap: mean log-odds of held-out positive prompts minus that of "
    "negative ones on seed 0, nats; then in how many pairs both models have 0.1 or more. The other pairs "
    "do not count; void: none does."
)
DETAILS = (
    "Ratios are at strength α (mean lengths of seed 0's stream), median and range over n pairs. Matched: "
    "in mean lengths of the other seed's stream (length: that over seed 0's). cos: of v and R v. "
    "Distance: of the class means, in lengths of the stream. Over random: effects on seed 0 over "
    "those of random directions. Regimes count pairs and α: clean, ratio 0.8–1.25; partial, smaller; "
    "reversed, negative slope; large, beyond 1.25 (the paper's inverted); lost, no more than random "
    "directions; other; none, an effect on seed 0 below 5 standard errors or 3 times that of random "
    "directions. ρ: rank correlation over vectors (void ones too), sites and α of share or cosine with "
    "−|1 − ratio|; over vectors and sites (medians over α and pairs) with p by permuting the shares within "
    "sites, because the shares are seed 0's in every pair and an interval over pairs says nothing of the "
    "predictor."
)
EXTRA = ["cohort", "vector", "arm", "strength"]
VECTORS = {
    "depth_shift": ("depth shift", "levels"),
    "invalid_suppression": ("invalid suppression", "nats"),
    "closer_signal": ("closer signal", "nats"),
    "sentiment": ("sentiment", "nats"),
    "name_bias": ("name bias", "nats"),
    "number_magnitude": ("number magnitude", "nats"),
}
PAPER_SITE = "resid_mid_1"
PAPER = {
    ("A", "depth_shift"): "clean, 1.02",
    ("A", "invalid_suppression"): "partial",
    ("A", "closer_signal"): "inverted, 8.43; accuracy −0.183",
    **{("seeds", v): "inverted, 1.8–10" for v in ("sentiment", "name_bias", "number_magnitude")},
}
"""The paper's ratios and regimes (section 8.6), at strengths lost from the text; on the toy at one site."""
PERMUTATIONS = 9999
CORRELATIONS = {
    "ρ share": "share_transfer_correlation",
    "ρ cosine": "cosine_transfer_correlation",
    "ρ share, matched": "matched_share_transfer_correlation",
    "ρ cosine, matched": "matched_cosine_transfer_correlation",
}
UNCHANGED = {"arm": "cross", "group": "identity"}
LINES = {
    "on seed 0": ({"arm": "within"}, "black", "-"),
    "unchanged": (UNCHANGED, f.RED, "-"),
    "rotated": ({"arm": "cross", "group": "orthogonal"}, f.BLUE, "-"),
    "native": ({"arm": "native"}, f.GREEN, ":"),
}
MARKS = ("o", "s", "^")

SUMMARY = Narrow(
    columns={
        "model": "model",
        "vector": "vector",
        "site": "site",
        "share": "share",
        "gap": "gap",
        "slope, unchanged": "raw",
        "slope, B_d": "B_d",
        "slope, O(d)": "O(d)",
        "slope, native": "own",
        "paper": "paper",
    },
    rows={"setting": "default", "vector": tuple(title for title, _ in VECTORS.values())},
    words={
        ", independent seeds": "",
        "depth shift": "depth",
        "invalid suppression": "suppress",
        "number magnitude": "magnitude",
        "resid_": "",
        " of ": "/",
        "inverted, 1.8": "inverted 1.8",
        "closer signal": "closer",
        "dyck3, cohort": "toy",
        "; accuracy −0.183": "",
    },
    means=True,
)


def tabulate(records):
    """Return every measurement, the means over pairs, and the judged claims."""
    rows = tidy("b8", records, extra=EXTRA).assign(matcher=None, route=None)
    rows = told_apart(rows)
    rows = pd.concat([rows, _clean_shares(rows)], ignore_index=True)
    return judged("b8", rows, aggregate(rows, EXTRA))


def _clean_shares(rows):
    """Return, by pair, condition and group, the share of transfers that are clean.

    They are counted over vectors, sites and strengths; those without an effect on seed 0 do not count.
    """
    counts = rows[rows["metric"].str.startswith("regime_")]
    found = []
    for _, part in counts.groupby(["model", "setting", "cohort", "seed", "arm", "group"]):
        points = select(rows, {"metric": "ratio", "record": part["record"].iloc[0]})
        tried = len(select(points, {"arm": part["arm"].iloc[0], "group": part["group"].iloc[0]}))
        if tried:
            clean = select(part, {"metric": "regime_clean"})["value"].sum() / tried
            at = {"metric": "clean_share", "value": clean, "site": None, "vector": None}
            found.append(part.iloc[:1].assign(**at))
    return pd.concat(found, ignore_index=True) if found else rows.iloc[:0]


def pivot(table):
    """Return a row per cohort, vector and site, then each cohort's regimes and rank correlations."""
    lines = []
    seeds = table[table["seed"].notna()]
    for (model, setting, cohort), means in by_site(means_of(table), []):
        pairs = select(seeds, {"model": model, "setting": setting, "cohort": cohort})
        where = {"model": pair_label(model, cohort), "setting": setting}
        for vector in (v for v in VECTORS if v in set(pairs["vector"])):
            here = select(pairs, {"vector": vector}).sort_values("site", key=by_depth, kind="stable")
            for site, part in here.groupby("site", sort=False):
                line = {**where, "vector": VECTORS[vector][0], "site": site}
                line |= _line(part, select(means, {"vector": vector, "site": site}))
                if (cohort, vector) in PAPER and site in (PAPER_SITE, _middle(here)):
                    line["paper"] = PAPER[cohort, vector]
                lines.append(line)
        whole = {name: cell(select(means, {"metric": metric})) for name, metric in CORRELATIONS.items()}
        whole["ρ share by vector"] = _tested(pairs, "cross")
        whole["ρ share by vector, matched"] = _tested(pairs, "matched")
        line = {**where, "vector": "all", "site": "all", "regimes": _regimes(pairs), **whole}
        lines.append({**line, "n": pairs["seed"].nunique()})
    return pd.DataFrame(lines).fillna("–")


def plot(table):
    """Draw effects over α where the paper measures them, and ratios against share and against cosine."""
    means, seeds = means_of(table), table[table["seed"].notna()]
    panels = []
    for (model, setting, cohort), part in by_site(means[means["vector"].notna()], []):
        if setting == "default":
            site = PAPER_SITE if PAPER_SITE in set(part["site"]) else _middle(part)
            here = select(part, {"site": site})
            vectors = [v for v in VECTORS if v in set(select(here, {"metric": "effect"})["vector"])]
            panels += [(pair_label(model, cohort), site, v, select(here, {"vector": v})) for v in vectors]
    figure, axes = f.panels(len(panels) + 3, width=4.2, height=3.2, columns=3, sharey=False)
    for axis, (model, site, vector, part) in zip(axes, panels, strict=False):
        for name, (where, colour, style) in LINES.items():
            rows = select(part, {"metric": "effect", **where}).sort_values("strength")
            curve = {**dict(zip(rows["strength"], rows["value"], strict=True)), 0.0: 0.0}
            axis.plot(
                sorted(curve),
                [curve[a] for a in sorted(curve)],
                style,
                marker="o",
                markersize=3,
                color=colour,
                label=name,
            )
        title, unit = VECTORS[vector]
        axis.set_title(f"{title}: {model}, {site}", fontsize=8)
        axis.set(xlabel="strength (mean lengths of seed 0's stream)", ylabel=f"effect ({unit})")
        axis.axhline(0, color=f.GREY, linewidth=0.5)
        axis.axvline(0, color=f.GREY, linewidth=0.5)
    if panels:
        axes[0].legend(fontsize=7)
    seeds = select(seeds, {"setting": "default"})
    _scatters(axes[len(panels) :], seeds)
    return figure


def _scatters(axes, seeds):
    """Draw ratios of all pairs, sites and strengths against share, matched share, and cosine."""
    share, matched, cosine = axes
    for vector, marker, colour in zip(list(VECTORS)[:3], MARKS, (f.BLUE, f.ORANGE, f.GREEN), strict=True):
        toy = select(seeds, {"cohort": "A", "vector": vector})
        for axis, arm in ((share, "cross"), (matched, "matched")):
            ratios = _against(toy, "pinned_share", arm)
            axis.plot(
                ratios["known"], ratios["value"], marker, color=colour, markersize=4, label=VECTORS[vector][0]
            )
    for cohort, colour in (("A", f.BLUE), ("B", f.ORANGE), ("seeds", f.PURPLE)):
        ratios = _against(select(seeds, {"cohort": cohort}), "rotation_cosine", "cross")
        cosine.plot(
            ratios["known"],
            ratios["value"],
            "o",
            color=colour,
            markersize=3,
            alpha=0.6,
            label=COHORTS[cohort],
        )
    labels = ("share in the pinned subspace, cohort A", "share, at matched lengths", "cosine of v and R v")
    for axis, label in zip(axes, labels, strict=True):
        axis.axhspan(0.8, 1.25, color=f.GREY, alpha=0.15)
        axis.axhline(1, color=f.GREY, linewidth=0.5)
        axis.set_yscale("symlog", linthresh=0.5)
        axis.margins(y=0.08)
        axis.yaxis.set_major_locator(FixedLocator([-10, -3, -1, 0, 0.5, 1, 3, 10, 30]))
        axis.yaxis.set_minor_locator(NullLocator())
        axis.yaxis.set_major_formatter("{x:g}")
        axis.set(xlabel=label, ylabel="transfer ratio, unchanged")
        axis.legend(fontsize=7)
    f.paper_line(share, 1.02, f.BLUE, "paper, depth shift")
    f.paper_line(share, 8.43, f.GREEN, "paper, closer signal")


def _line(pairs, means):
    def known(metric):
        return cell(select(means, {"metric": metric}), digits=2)

    line = {"share": known("pinned_share"), "cos": known("rotation_cosine"), "length": known("length_ratio")}
    gaps = least_gaps(pairs)
    counted = int((gaps >= CLASS_GAP).sum()) if len(gaps) else pairs["seed"].nunique()
    gap = f"{known('class_gap').replace('0.', '.', 1)}, {counted} of {len(gaps)}" if len(gaps) else "–"
    line |= {"distance": known("class_distance"), "gap": gap, "n": counted}
    line["over random"] = _range(select(pairs, {"metric": "effect_control_ratio"}))
    unchanged = select(pairs, {"metric": "ratio", **UNCHANGED})
    strengths = sorted(a for a in pairs["strength"].dropna().unique() if a > 0)
    for a in strengths:
        line[f"α = {a:g}"] = _range(select(unchanged, {"strength": a}))
    slopes = select(pairs, {"metric": "ratio_slope"})
    slopes = slopes[slopes["strength"].isin(strengths[:1])]
    arms = {"unchanged": UNCHANGED}
    directional = [
        g for g in GROUPS if g not in ("identity", "translation", "orthogonal_scaled")
    ]  # no means, no scale
    arms |= {GROUPS[g][0]: {"arm": "cross", "group": g} for g in directional}
    arms |= {"native": {"arm": "native"}}
    arms |= {
        f"matched, {n}": {"arm": "matched", "group": g}
        for n, g in (("unchanged", "identity"), ("O(d)", "orthogonal"))
    }
    line |= {f"slope, {name}": _range(select(slopes, where)) for name, where in arms.items()}
    if not counted:
        line |= dict.fromkeys((column for column in line if column.startswith("slope")), "void")
    drop = select(pairs, {"metric": "accuracy", **UNCHANGED})
    line["least accuracy change"] = f"{drop['value'].min():.3f}" if len(drop) else "–"
    return {**line, "regimes": _regimes(pairs)}


def _range(rows):
    """Return the median over pairs, and their range where there are several."""
    if rows.empty:
        return "–"
    values = rows["value"]
    ends = f" ({values.min():.2f} to {values.max():.2f})" if len(values) > 1 else ""
    return f"{values.median():.2f}{ends}"


def _regimes(pairs):
    unchanged = select(pairs, UNCHANGED)
    counts = {name: unchanged.loc[unchanged["metric"] == f"regime_{name}", "value"].sum() for name in REGIMES}
    return ", ".join(f"{name.replace('no_effect', 'none')} {n:.0f}" for name, n in counts.items() if n) or "–"


def _tested(pairs, arm):
    """Correlate share with closeness of the ratio to 1 over vectors and sites, with p by permutation."""
    ratios = _against(pairs, "pinned_share", arm)
    ratios["close"] = -(1 - ratios["value"]).abs()
    cells = ratios.groupby(["vector", "site"], sort=False)[["known", "close"]].median()
    if len(cells) < FEWEST_POINTS or cells["known"].nunique() < 2:
        return "–"
    sites = list(cells.index.get_level_values("site"))
    rho, p = share_test(list(cells["known"]), list(cells["close"]), sites, PERMUTATIONS)
    return f"{rho:.2f} (p {p:.2g}, {len(cells)} cells)"


def _against(pairs, metric, arm):
    """Join a metric of each vector with its unchanged ratios, a row per pair, site and strength."""
    keys = ["cohort", "seed", "vector", "site"]
    known = select(pairs, {"metric": metric})[[*keys, "value"]].rename(columns={"value": "known"})
    ratios = select(pairs, {**UNCHANGED, "metric": "ratio", "arm": arm})
    return ratios[[*keys, "value"]].merge(known, on=keys)


def _middle(part):
    """Return the only site of a language model; None where there are several."""
    sites = part["site"].dropna().unique()
    return sites[0] if len(sites) == 1 else None
