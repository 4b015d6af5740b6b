"""Make table b1: the four bars of every Dyck-3 model against its own specification, and its decoy's."""

import pandas as pd

from gaugeport.pipeline.job import UNCOUNTED_DEFAULTS
from gaugeport.pipeline.report import figures as f
from gaugeport.pipeline.report.judged import judged
from gaugeport.pipeline.report.narrow import Narrow
from gaugeport.pipeline.report.render import scientific
from gaugeport.pipeline.report.tidy import aggregate, means_of, select, tidy

TITLE = "b1 Bars within a seed: each Dyck-3 model against its own specification, and a decoy"
CAPTION = (
    "Bar B: nats per prediction, −log p of the true label. The decoy is the same model with its depth "
    "unembedding averaged in pairs, which costs at least (1 − P(8)) ln 2 / 3, where P(8) is the share of "
    "positions at depth 8. P, C and Pr pass by construction: the specification is the folded model "
    "itself. Million: scored on a million strings. L1: trained with an L1 penalty on its weights. Unmatched: "
    "depths count unmatched openers; running: openers minus closers."
)
DETAILS = (
    "P: largest mean squared difference of a tensor. C and Pr: Pearson of predicted with measured "
    "effects. Last doubling: change of B when the number of strings last doubled. Error of drawn: root mean "
    "square error of C over samples of so many edges, all alike or by the size of the prediction. L1 "
    "penalty: what it comes to at the end of training, in nats."
)
BY = ["cohort", "variant", "head", "split", "samples", "bar", "design", "sample"]
EXTRA = [*BY, "tensor", "status"]
PAPER = {0: 1.74e-4, 1: 3.20e-4, 2: 4.40e-4, 3: 1.81e-4, 4: 2.23e-4}
"""Bar B of the paper's cohort A, by seed (appendix C)."""
PAPER_LINE = {
    "cohort": "A",
    "seed": "paper, mean of 5",
    "setting": "default",
    "B": "2.68e-04",
    "B, token": "3.38e-05",
    "B, depth": "5.80e-04",
    "B, valid": "1.90e-04",
    "B, train": "3.74e-04",
    "B, compositional": "2.54e-05",
    "B, long": "3.79e-04",
    "decoy/real": "977 (seed 0)",
    "P": "0",
    "C": "0.9997",
    "Pr": "0.9997",
}
"""Means of appendix C's columns; the decoy's ratio is section 6's, of seed 0."""
TRIVIAL = " (trivial)"
SAMPLE = 16
"""Edges in a sample of the column that says what a sample is worth."""

SUMMARY = Narrow(
    columns={
        "cohort": "cohort",
        "seed": "seed",
        "setting": "setting",
        "B": "B",
        "paper's B": "paper's B",
        "B, decoy": "decoy's B",
        "decoy/real": "ratio",
        "P(8)": "P(8)",
    },
    rows={"setting": ("default", "million", "l1", "unmatched", "running")},
    words={"977 (seed 0)": "977", "paper, mean of 5": "paper (5)"},
    means=True,
)


def tabulate(records):
    """Return every measurement, its mean over seeds with the paper's, and the judged contrast with the
    decoy."""
    rows = tidy("b1", records, extra=EXTRA).assign(group=None, matcher=None, route=None)
    labels = {r.id: r.config["data"].get("depth_label", UNCOUNTED_DEFAULTS["depth_label"]) for r in records}
    other = rows["setting"] == "other_label"
    rows.loc[other, "setting"] = rows.loc[other, "record"].map(labels)
    means = aggregate(rows, BY)
    main = (means["metric"] == "bar_b") & (means["cohort"] == "A") & (means["variant"] == "real")
    means.loc[main & (means["setting"] == "default"), "paper"] = sum(PAPER.values()) / len(PAPER)
    return judged("b1", rows, means)


def pivot(table):
    """Return a row per model: bars with status, Bar B by head and split, the decoy's; then the means."""
    lines = []
    seeds = table[table["seed"].notna()]
    for (setting, cohort, seed), part in seeds.groupby(["setting", "cohort", "seed"], sort=False):
        one = {"cohort": cohort, "seed": f"{seed:.0f}", "setting": setting}
        lines.append({**one, **_line(part, lambda r: f"{r['value']:.3g}{_status(r)}")})
    means = means_of(table)
    for (setting, cohort), part in means[means["setting"] == "default"].groupby(
        ["setting", "cohort"], sort=False
    ):
        n = int(part["n"].max())
        one = {"cohort": cohort, "seed": f"mean of {n}", "setting": setting}
        if n > 1:
            lines.append({**one, **_line(part, lambda r: scientific(r["value"], r["ci_low"], r["ci_high"]))})
    return pd.DataFrame([*lines, PAPER_LINE]).fillna("–")


def plot(table):
    """Draw Bar B by output head and split, real and decoy, a dot per seed; thresholds and the paper's as
    lines."""
    seeds = table[table["seed"].notna() & (table["setting"] == "default")]
    figure, axes = f.panels(3, width=3.6, height=3.4)
    for axis, (metric, by) in zip(
        axes, (("bar_b", None), ("bar_b_head", "head"), ("bar_b_split", "split")), strict=True
    ):
        part = select(seeds, {"metric": metric})
        names = ["all"] if by is None else list(dict.fromkeys(part[by]))
        for x, name in enumerate(names):
            here = part if by is None else select(part, {by: name})
            for variant, colour in (("real", f.BLUE), ("decoy", f.RED)):
                for cohort, marker in (("A", "o"), ("B", "^")):
                    dots = select(here, {"variant": variant, "cohort": cohort})["value"]
                    axis.plot(
                        [x] * len(dots), dots, marker, color=colour, markersize=4, alpha=0.7, linestyle=""
                    )
        axis.set_xticks(range(len(names)), names)
        axis.set(
            yscale="log",
            xlim=(-0.5, len(names) - 0.5),
            title={None: "Bar B", "head": "by head", "split": "by split"}[by],
        )
        axis.axhline(1e-4, color=f.GREY, linestyle="--", linewidth=1)
    f.paper_line(axes[0], PAPER[0], f.PURPLE, "paper, seed 0")
    axes[0].set_ylabel("nats per prediction (blue real, red decoy; ● A, ▲ B)")
    return figure


def _line(part, shown):
    def value(metric, **where):
        selected = select(part, {"metric": metric, **where})
        return shown(selected.iloc[0]) if len(selected) else "–"

    line = {"B": value("bar_b", variant="real")}
    line |= {
        f"B, {head}": value("bar_b_head", variant="real", head=head) for head in ("token", "depth", "valid")
    }
    line |= {
        f"B, {split}": value("bar_b_split", variant="real", split=split)
        for split in ("train", "compositional", "long")
    }
    after = (
        select(part, {"metric": "bar_b_after", "variant": "real"}).sort_values("samples")["value"].tolist()
    )
    line["last doubling"] = f"{after[-1] / after[-2] - 1:+.1%}" if len(after) > 1 else "–"
    real, fake = (
        select(part, {"metric": "bar_b", "variant": "real"}),
        select(part, {"metric": "bar_b", "variant": "decoy"}),
    )
    line |= {"P(8)": _share_at_depth_8(part), "decoy at least": value("decoy_at_least")}
    line |= {"B, decoy": value("bar_b", variant="decoy"), "decoy/real": f"{_mean(fake) / _mean(real):.0f}"}
    line |= {"P": value("bar_p", variant="real"), "P, decoy": value("bar_p", variant="decoy")}
    line |= {
        "C": value("bar_c_pearson"),
        "C, edges": value("bar_c_edges_pearson"),
        "Pr": value("bar_pr_pearson"),
    }
    for design, name in (("uniform", "uniform"), ("by_size", "by size")):
        at = {"bar": "bar_c_edges", "design": design, "sample": SAMPLE}
        line[f"C, edges: error of {SAMPLE} drawn, {name}"] = value("sampling_error", **at)
    if (penalty := select(part, {"metric": "l1_penalty"})["value"].max()) > 0:
        line["L1 penalty"] = f"{penalty:.3g}"
    least = (
        select(part, {"metric": "accuracy_depth"})["value"].min(),
        select(part, {"metric": "accuracy_valid"})["value"].min(),
    )
    line |= {"least depth accuracy": f"{least[0]:.4f}", "least valid accuracy": f"{least[1]:.4f}"}
    line["steps"] = f"{select(part, {'metric': 'steps_trained'})['value'].mean():.0f}"
    first = part.iloc[0]
    same = first["cohort"] == "A" and first["setting"] in ("default", "million")
    paper = PAPER.get(first["seed"]) if same and part["seed"].notna().all() else None
    return {**line, "paper's B": f"{paper:.3g}" if paper else "–"}


def _share_at_depth_8(part):
    """Return the share over all splits, which count alike."""
    shares = select(part, {"metric": "deepest_share"})["value"]
    return f"{shares.mean():.3f}" if len(shares) else "–"


def _mean(rows):
    return rows["value"].mean()


def _status(row):
    if not isinstance(row.get("status"), str):
        return ""
    trivial = row["metric"] != "bar_b" and row["variant"] != "decoy"
    return f" {row['status']}{TRIVIAL if trivial else ''}"
