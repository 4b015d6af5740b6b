"""Make table b6: the rotation between independently trained models, compared with Haar-random ones."""

import math
import re

import pandas as pd
import torch

from gaugeport.pipeline.report import figures as f
from gaugeport.pipeline.report.judged import judged
from gaugeport.pipeline.report.model_pairs import COHORTS
from gaugeport.pipeline.report.render import cell, interval
from gaugeport.pipeline.report.tidy import aggregate, by_depth, means_of, select, tidy
from gaugeport.pipeline.rotation.haar.null import naive_p_value, pooled_p_value
from gaugeport.pipeline.rotation.haar.statistics import TAILS

TITLE = "b6 The rotation between models, compared with a random one"
CAPTION = (
    "First rows: the share of matrices of each kind that is rejected at 5 %, under ‖R−I‖ by a test of that "
    "distance, under naive p by the paper's two-sample KS, which takes eigen-angles as independent. Then "
    "‖R−I‖ in units of √(2d); random: Haar's 95 % range; p: calibrated by Monte Carlo over Haar matrices; "
    "support: ‖R−I‖ on the directions with 99 % of seed 0's variance."
)
DETAILS = (
    "d: the dimensions in which R is free. In parentheses Haar's 95 % range; p is of all pairs of a site "
    "together, not adjusted for how many there are. Controls: R = I on data of that rank with a little "
    "noise; Gaussian noise with both covariances and nothing shared. A rotation that several pairs have "
    "counts once (cohort A's input). S_d, B_d: share of the Procrustes objective (of one rotated at "
    "random)."
)
EXTRA = ["cohort", "width", "haar", "statistic", "test", "control", "alternative", "rank"]
BY = [c for c in EXTRA if c != "rank"]
DRAWN = ("eigen_angle", "null_draw", "null_angle")
"""Metrics that are samples: pooled, never averaged."""
PAPER_DISTANCE = 1.0
"""‖R−I‖ over √(2d): within 5 % at d = 64 (section 8.4), within 0.1 % at d = 512 (section 8.3)."""
PAPER = {
    "seeds": {"‖R−I‖": "1 within 0.1 %", "naive p": "≈ 1", "to a permutation": "that of a random matrix"},
    "A": {"‖R−I‖": "far from 0 (figure lost)"},
    "B": {"‖R−I‖": "1 within 5 %"},
}
COLOURS = {"seeds": f.BLUE, "A": f.ORANGE, "B": f.GREEN, "runs": f.PURPLE}
COLUMNS = {
    "distance_from_identity": "‖R−I‖",
    "ks_distance": "KS distance",
    "largest_entry": "max |R_ij|",
    "distance_to_permutation": "to a permutation",
    "distance_to_signed_permutation": "to a signed permutation",
}
ALTERNATIVES = {
    "haar": "Haar itself",
    "signed_permutation": "signed permutations",
    "permutation": "permutations",
    "near_identity": "near the identity",
    "low_rank_identity": "identity on 1 of 6 directions",
}

KINDS = dict(zip(ALTERNATIVES.values(), ("Haar", "B_d", "S_d", "near I", "low rank"), strict=True))
"""Kind of matrix whose share of rejections is measured -> its name in the narrow table."""


def tabulate(records):
    """Return every measurement, the means over pairs, p-values of all pairs together, and the judged
    claims."""
    rows = tidy("b6", records, extra=[*EXTRA, "anchor"]).assign(matcher=None, route=None)
    rows["model"] = rows["model"].mask(rows["cohort"].isna())
    distinct = _distinct(rows)
    means = aggregate(distinct[~distinct["metric"].isin(DRAWN)], BY)
    main = (means["metric"] == "distance_from_identity") & (means["group"] == "orthogonal")
    means.loc[main & means["cohort"].isin(["seeds", "B"]), "paper"] = PAPER_DISTANCE
    pooled = pd.DataFrame([*_calibrated(distinct), *_naive(distinct)]).reindex(columns=rows.columns)
    parts = [means, pooled.assign(table="b6", profile=rows["profile"].iloc[0])] if len(pooled) else [means]
    return judged("b6", rows, pd.concat(parts, ignore_index=True))


def pivot(table):
    """Return a row per cohort and site, the paper's figures, then the power of every test."""
    lines, means = [], means_of(table)
    for (model, setting, cohort), part in means[means["cohort"].notna()].groupby(
        ["model", "setting", "cohort"], sort=False
    ):
        where = {"model": model, "setting": setting, "cohort": cohort}
        for site in _sites(part):
            lines.append({**where, "site": site, **_line(select(part, {"site": site}))})
        naive = select(part, {"metric": "pooled_p_value", "test": "naive"})
        lines.append({**where, "site": "all", "naive p": cell(naive), "n": _whole(naive["n"])})
        if cohort in PAPER:
            lines.append({**where, "site": "paper", **PAPER[cohort]})
    power = select(means, {"metric": "rejection_rate"})
    for (haar, width), part in power.groupby(["haar", "width"], sort=False):
        for alternative, name in ALTERNATIVES.items():
            rate = select(part, {"alternative": alternative}).set_index("statistic")["value"]
            line = {"cohort": "power", "site": name, "d": f"{_free(width, haar):.0f}"}
            line |= {column: f"{rate[statistic]:.2f}" for statistic, column in COLUMNS.items()}
            lines.append({**line, "naive p": f"{rate['naive_ks']:.2f}, pooled {rate['naive_ks_pooled']:.2f}"})
    return pd.DataFrame(lines).fillna("–")


def summary(wide):
    """Return how often two tests reject each kind of matrix, then distances with Haar's range and p."""
    lines = []
    for _, row in wide[wide["cohort"] == "power"].iterrows():
        line = {"cohort": f"d = {row['d']}", "site": KINDS[row["site"]], "‖R−I‖": row["‖R−I‖"]}
        lines.append({**line, "naive p": row["naive p"].partition(",")[0]})
    for _, row in wide[(wide["cohort"] != "power") & (wide["site"] != "all")].iterrows():
        value, _, rest = row["‖R−I‖"].partition(" (Haar ")
        random, _, p = rest.partition("); p ")
        line = {"cohort": row["cohort"], "site": row["site"], "‖R−I‖": value.partition(" (figure")[0]}
        line |= {"random": random, "p": p, "support": re.split(r" [\[(]", row["on the support"])[0]}
        lines.append({**line, "naive p": row["naive p"].partition(" [")[0], "n": row["n"]})
    columns = ["cohort", "site", "‖R−I‖", "random", "p", "support", "naive p", "n"]
    return pd.DataFrame(lines).reindex(columns=columns).fillna("–").replace("", "–")


def plot(table):
    """Draw eigen-angles with Haar's density, distances from the identity by site, and power."""
    rows = table[table["seed"].notna() & table["verdict"].isna()]
    means = means_of(table)
    cohorts = [c for c in COLOURS if c in set(rows["cohort"].dropna())]
    power = select(means, {"metric": "rejection_rate"})
    figure, axes = f.panels(
        1 + len(cohorts) + bool(len(power)), width=4.4, height=3.8, columns=5, sharey=False
    )
    _histogram(axes[0], _distinct(rows), cohorts)
    for axis, cohort in zip(axes[1:], cohorts, strict=False):
        _by_site(axis, select(means, {"cohort": cohort}), cohort)
    axes[1].set_ylabel("‖R − I‖ / √(2d)")
    axes[1].legend(fontsize=6, loc=(0.2, 0.1))
    if len(power):
        _power(axes[-1], power)
    return figure


def _distinct(rows):
    """Drop pairs whose rotation is another pair's: cohort A's input streams are all the same."""
    at = ["model", "setting", "cohort", "site"]
    fitted = rows[(rows["metric"] == "distance_from_identity") & (rows["group"] == "orthogonal")]
    again = fitted[fitted.assign(value=fitted["value"].round(9)).duplicated([*at, "value"])]
    pair = [*at, "anchor", "seed"]
    repeated = set(again[pair].itertuples(index=False, name=None))
    return rows[[key not in repeated for key in rows[pair].itertuples(index=False, name=None)]]


def _calibrated(rows):
    """Yield a p-value per cohort, site and statistic: the mean over pairs against means of Haar matrices."""
    draws = select(rows, {"metric": "null_draw"})
    mine = rows[rows["metric"].isin(TAILS) & (rows["group"] == "orthogonal")]
    for keys, part in mine.groupby(
        ["model", "setting", "cohort", "site", "width", "haar", "metric"], sort=False
    ):
        where = dict(
            zip(("model", "setting", "cohort", "site", "width", "haar", "statistic"), keys, strict=True)
        )
        null = select(draws, {k: where[k] for k in ("haar", "width", "statistic")})["value"]
        if len(null):
            values = (torch.tensor(v.tolist(), dtype=torch.float64) for v in (part["value"], null))
            p = pooled_p_value(*values, TAILS[where["statistic"]])
            yield {**where, "metric": "pooled_p_value", "test": "calibrated", "value": p, "n": len(part)}


def _naive(rows):
    """Yield the paper's test: eigen-angles of all pairs and sites of a cohort against those of Haar
    matrices."""
    reference = select(rows, {"metric": "null_angle"})
    for keys, part in select(rows, {"metric": "eigen_angle"}).groupby(
        ["model", "setting", "cohort", "width", "haar"], sort=False
    ):
        where = dict(zip(("model", "setting", "cohort", "width", "haar"), keys, strict=True))
        null = select(reference, {k: where[k] for k in ("haar", "width")})["value"]
        if len(null):
            p = naive_p_value(*(torch.tensor(x.tolist(), dtype=torch.float64) for x in (part["value"], null)))
            matrices = len(part.groupby(["anchor", "seed", "site"]))
            of = {"metric": "pooled_p_value", "statistic": "ks_distance", "test": "naive"}
            yield {**where, **of, "value": p, "n": matrices}


def _line(part):
    """Return the cells of one cohort and site; ``part`` are its means."""
    fitted = select(part, {"group": "orthogonal"})
    width, haar = part["width"].iloc[0], part["haar"].iloc[0]
    ranks = " / ".join(cell(select(fitted, {"metric": m}), 0) for m in ("rank_anchor", "rank_other"))
    line = {"d": f"{_free(width, haar):.0f}", "rank, anchor / other": ranks}
    line["participation"] = cell(select(fitted, {"metric": "effective_rank_anchor"}), 1)
    for statistic, column in COLUMNS.items():
        p = select(part, {"metric": "pooled_p_value", "statistic": statistic, "test": "calibrated"})["value"]
        tested = f"; p {p.iloc[0]:.2g}" if len(p) else ""
        line[column] = (
            f"{cell(select(fitted, {'metric': statistic}))} (Haar {_range(fitted, statistic)}){tested}"
        )
        if statistic == "distance_from_identity":
            supported = cell(select(fitted, {"metric": "supported_distance"}))
            line["on the support"] = (
                f"{supported} (Haar {_range(fitted, 'supported_distance')}){_flag(fitted, '')}"
            )
    line["naive p"] = cell(select(fitted, {"metric": "p_value", "test": "naive"}))
    for control, name in {"low_rank_identity": "R = I, that rank", "independent_noise": "noise"}.items():
        selected = select(part, {"control": control})
        both = (f"control_{m}" for m in ("distance_from_identity", "supported_distance"))
        line[f"{name}: whole / support"] = (
            f"{' / '.join(_mean(selected, m) for m in both)}{_flag(selected, 'control_')}"
        )
    line["correlation (noise)"] = (
        f"{cell(select(fitted, {'metric': 'correlation'}))} "
        f"({_mean(select(part, {'control': 'independent_noise'}), 'control_correlation')})"
    )
    for group, name in {"permutation": "S_d", "signed_permutation": "B_d"}.items():
        selected = select(part, {"group": group})
        shares = _mean(selected, "objective_share"), _mean(selected, "control_objective_share")
        line[f"{name}: share (rotated), ‖g−I‖"] = (
            f"{shares[0]} ({shares[1]}), {_mean(selected, 'distance_from_identity')}"
        )
    return {**line, "n": _whole(select(fitted, {"metric": "distance_from_identity"})["n"])}


def _range(part, statistic):
    ends = (_mean(select(part, {"statistic": statistic}), f"null_{end}") for end in ("low", "high"))
    return "–".join(ends)


def _flag(part, prefix):
    """Say in how many pairs the distance on the support is far below Haar's."""
    share = select(part, {"metric": f"{prefix}far_below_haar_on_support"})["value"].mean()
    return "" if not share > 0 else ", far below" if share == 1 else f", far below in {share:.0%}"


def _mean(part, metric):
    selected = select(part, {"metric": metric})["value"]
    return interval(selected.mean(), float("nan"), float("nan"))


def _whole(n):
    return str(int(n.iloc[0])) if len(n) else "–"


def _free(width, haar):
    return width - (haar == "mean_preserving_orthogonal")


def _sites(part):
    """Return the sites of some rows, in order of depth."""
    return list(part["site"].dropna().drop_duplicates().sort_values(key=by_depth))


def _histogram(axis, rows, cohorts):
    angles = select(rows, {"metric": "eigen_angle"})
    for cohort in cohorts:
        values = select(angles, {"cohort": cohort})["value"].abs()
        axis.hist(
            values,
            24,
            (0, math.pi),
            density=True,
            histtype="step",
            color=COLOURS[cohort],
            label=COHORTS[cohort],
        )
    axis.axhline(1 / math.pi, color="black", linestyle=":", linewidth=1, label="Haar")
    axis.set_xticks([0, math.pi / 2, math.pi], ["0", "π/2", "π"])
    axis.set(xlabel="eigen-angle |θ|", ylabel="density", title="eigen-angles, all pairs and sites")
    axis.legend(fontsize=6)


def _by_site(axis, part, cohort):
    colour, sites = COLOURS[cohort], _sites(part)
    fitted = select(part, {"group": "orthogonal"})
    drawn = {
        "whole": ("distance_from_identity", "o", colour, colour),
        "on the support": ("supported_distance", "o", "white", colour),
        "R = I of that rank, whole": ("control_distance_from_identity", "_", f.GREY, f.GREY),
        "R = I of that rank, on the support": ("control_supported_distance", "x", f.GREY, f.GREY),
    }
    for label, (metric, marker, fill, edge) in drawn.items():
        selected = select(fitted, {"metric": metric})
        selected = (
            select(selected, {"control": "low_rank_identity"}) if metric.startswith("control") else selected
        )
        selected = selected.set_index("site").reindex(sites)
        at = range(len(sites))
        axis.plot(at, selected["value"], marker, color=edge, markerfacecolor=fill, markersize=5, label=label)
        if not metric.startswith("control"):
            axis.vlines(at, selected["ci_low"], selected["ci_high"], colors=edge, linewidth=1, alpha=0.5)
    axis.set_xticks(range(len(sites)), sites, rotation=30, ha="right", fontsize=7)
    f.paper_line(axis, 1, f.PURPLE, "Haar" if cohort in ("A", "runs") else "Haar, and paper")
    axis.set(title=COHORTS[cohort], ylim=(-0.05, 1.2))


def _power(axis, power):
    shown = {**COLUMNS, "naive_ks": "naive KS", "naive_ks_pooled": "naive KS, pooled"}
    marks = zip(ALTERNATIVES.items(), "osD^v", (f.GREY, f.BLUE, f.SKY, f.ORANGE, f.RED), strict=True)
    for shift, ((alternative, name), marker, colour) in enumerate(marks):
        rate = select(power, {"alternative": alternative}).groupby("statistic")["value"].mean()
        places = [k + (2 - shift) * 0.13 for k in range(len(shown))]
        axis.plot([rate[s] for s in shown], places, marker, color=colour, markersize=4, label=name)
    axis.set_yticks(range(len(shown)), shown.values(), fontsize=7)
    axis.axvline(0.05, color=f.GREY, linestyle="--", linewidth=1)
    axis.set(xlabel="share rejected at 5 %", title="power (mean over widths)", xlim=(-0.03, 1.03))
    axis.legend(fontsize=6)
