"""Make table b2: the four bars between Dyck-3 models and seed 0 of their cohort, by what is aligned."""

import pandas as pd

from gaugeport.pipeline.report import figures as f
from gaugeport.pipeline.report.judged import judged
from gaugeport.pipeline.report.narrow import Narrow
from gaugeport.pipeline.report.render import scientific
from gaugeport.pipeline.report.tidy import aggregate, means_of, select, tidy

TITLE = "b2 Bars across seeds: pairs of Dyck-3 models of one cohort"
CAPTION = (
    "B: KL(first ‖ second) in nats. P: the largest mean squared difference of a tensor after aligning "
    "heads, neurons and the stream; it passes below 1e-4. Floor: what no element of the paper's group "
    "gets below. C: Pearson of component effects."
)
DETAILS = (
    "Starts without a rotation all end at one point. The paper's group permutes, rotates and scales heads "
    "and neurons and rotates the stream. Quotient: of products that no rotation changes. Explained: share "
    "of the sum over tensors that heads and neurons leave (raw, O(d) is no symmetry). Any order: mean of "
    "C over all orders of the heads within their layers. Relative: the largest share of a tensor's mean "
    "square. Pr, cumulative: of ablating the k most important "
    "components together; the paper's Pr is its C."
)
EXTRA = ["cohort", "alignment", "component", "head", "split", "samples", "tensor", "status"]
BY = ["cohort", "alignment", "component", "head", "split", "samples"]
ALIGNMENTS = {
    "identity": "heads and neurons",
    "permutation": "S_d",
    "signed_permutation": "B_d",
    "orthogonal": "O(d)",
    "cayley": "O(d), Cayley",
}
PAPER = {"orthogonal": 0.547, "cayley": 0.280}
"""The paper's largest mean squared difference of cohort A, mean of four pairs (appendix C)."""
PAPER_CORRELATION = 0.598
"""The paper's Bar C of cohort A, mean of four pairs (section 7)."""
PAPERS = {
    "A": {"B": "3 of 4 pass", "P, O(d)": "0.49–0.58", "P, O(d), Cayley": "0.264–0.298", "C": "0.52–0.69"},
    "B": {"B": "3 of 4 pass", "P, O(d)": "6.8–8.6", "worst tensor": "embedding, unembeddings"},
}
"""What the paper says of each cohort (sections 7, 8.4, appendix B); 32 configurations, uniqueness lost."""
LAST_MLP = "model.layers.1.mlp."
"""Where the paper's worst tensors are (section 7, ``blocks.1.mlp``)."""
UNUSED = 0.01
"""A head of seed 0 whose ablation costs less than this is unused (nats of the mean loss)."""

SUMMARY = Narrow(
    columns={
        "cohort": "cohort",
        "pair": "pair",
        "B": "B",
        "P, O(d)": "P, O(d)",
        "P, O(d), Cayley": "P, Cayley",
        "P, floor": "P, floor",
        "C": "C",
    },
    words={"NEAR-MISS": "NEAR"},
    means=True,
)


def tabulate(records):
    """Return every measurement, the means over pairs with the paper's figures, and the judged claims."""
    rows = tidy("b2", records, extra=EXTRA).assign(group=None, matcher=None, route=None)
    rows = pd.concat([rows, _last_mlp_over_rest(rows)], ignore_index=True)
    tensors = rows["metric"] == "bar_p_tensor"
    means = pd.concat(
        [aggregate(rows[~tensors], BY), aggregate(rows[tensors], [*BY, "tensor"])], ignore_index=True
    )
    main = (means["metric"] == "bar_p_max_mse") & (means["cohort"] == "A")
    means.loc[main, "paper"] = means.loc[main, "alignment"].map(PAPER)
    effects = (means["metric"] == "bar_c_pearson") & (means["cohort"] == "A")
    means.loc[effects & (means["alignment"] == "cayley"), "paper"] = PAPER_CORRELATION
    return judged("b2", rows, means)


def _last_mlp_over_rest(rows):
    """Return, by pair and alignment, the worst tensor of the last MLP over the worst of all others."""
    tensors = rows[rows["metric"] == "bar_p_tensor"]
    found = []
    for _, part in tensors.groupby(["cohort", "seed", "record", "alignment"]):
        mlp = part["tensor"].str.startswith(LAST_MLP)
        ratio = part.loc[mlp, "value"].max() / part.loc[~mlp, "value"].max()
        found.append(
            part.iloc[:1].assign(metric="bar_p_last_mlp_over_rest", value=ratio, tensor=None, status=None)
        )
    return pd.concat(found, ignore_index=True)


def pivot(table):
    """Return a row per pair with each bar's status, then each cohort's means and the paper's figures."""
    lines, seeds = [], table[table["seed"].notna()]
    seeds = seeds.assign(anchor=seeds["anchor"] if "anchor" in seeds else 0)
    for (cohort, anchor, seed), part in seeds.groupby(["cohort", "anchor", "seed"]):
        shown = _line(part, lambda r: f"{r['value']:.3g}{_status(r)}")
        lines.append({"cohort": cohort, "pair": f"{anchor:.0f}, {seed:.0f}", **shown})
    for cohort, part in means_of(table).groupby("cohort", sort=False):
        shown = _line(part, lambda r: scientific(r["value"], r["ci_low"], r["ci_high"]))
        if (n := int(part["n"].max())) > 1:
            lines.append({"cohort": cohort, "pair": f"mean of {n}", **shown})
        lines.append({"cohort": cohort, "pair": "paper", **PAPERS[cohort]})
    return pd.DataFrame(lines).fillna("–")


def plot(table):
    """Draw Bar P by alignment, folded and raw; Bar P by tensor after the best alignment; predicted
    effects."""
    seeds = table[table["seed"].notna()]
    figure, axes = f.panels(3, width=4.6, height=3.8, sharey=False)
    marks = {"A": ("o", f.BLUE), "B": ("^", f.ORANGE)}
    for cohort, (marker, colour) in marks.items():
        mine = select(seeds, {"cohort": cohort})
        for metric, fill, shift in (("bar_p_max_mse", colour, -0.12), ("bar_p_raw_max_mse", "white", 0.12)):
            for x, alignment in enumerate(ALIGNMENTS):
                values = select(mine, {"metric": metric, "alignment": alignment})["value"]
                axes[0].plot(
                    [x + shift] * len(values),
                    values,
                    marker,
                    color=colour,
                    markerfacecolor=fill,
                    markersize=5,
                )
        worst = (
            select(mine, {"metric": "bar_p_tensor", "alignment": "cayley"})
            .groupby("tensor", sort=False)["value"]
            .mean()
        )
        names = [name.removeprefix("model.").removesuffix(".weight") for name in worst.index]
        axes[1].plot(worst, range(len(worst)), marker, color=colour, markersize=5, label=f"cohort {cohort}")
        axes[1].set_yticks(range(len(worst)), names, fontsize=6)
        for x, metric in enumerate(("bar_c_pearson", "bar_c_edges_pearson", "bar_pr_pearson")):
            values = select(mine, {"metric": metric, "alignment": "cayley"})["value"]
            axes[2].plot([x] * len(values), values, marker, color=colour, markersize=5)
    axes[0].set_xticks(range(len(ALIGNMENTS)), ALIGNMENTS.values(), rotation=25, ha="right", fontsize=7)
    axes[0].set(
        yscale="log", ylabel="largest mean squared difference", title="Bar P (hollow: gains in place)"
    )
    for alignment, text in (("orthogonal", "paper, baseline"), ("cayley", "paper, Cayley")):
        f.paper_line(axes[0], PAPER[alignment], f.PURPLE, text)
    axes[0].axhline(1e-4, color=f.GREY, linestyle="--", linewidth=1)
    axes[1].set(xscale="log", xlabel="mean squared difference", title="by tensor, after Cayley")
    axes[1].legend(fontsize=7)
    axes[2].set_xticks(range(3), ["C", "C, edges", "Pr, cumulative"], fontsize=7)
    axes[2].set(ylabel="Pearson of predicted and measured", title="Bars C and Pr")
    axes[2].axhline(0.99, color=f.GREY, linestyle="--", linewidth=1)
    f.paper_line(axes[2], PAPER_CORRELATION, f.PURPLE, "paper")
    return figure


def explained(part, form):
    """Return, by alignment, the share of what heads and neurons leave that a group takes away."""
    metric = {"folded": "bar_p_objective", "raw": "bar_p_raw_objective"}[form]
    left = select(part, {"metric": metric}).groupby("alignment")["value"].mean()
    return {a: 1 - left[a] / left["identity"] for a in ("signed_permutation", "orthogonal") if a in left}


def of_heads(part):
    """Return the mean squared difference of the heads that seed 0 uses, and of the others; None without
    any."""
    cost = select(part, {"metric": "effect_predicted"}).groupby("component")["value"].mean()
    squares = select(part, {"metric": "bar_p_head"}).groupby("component")["value"].mean()
    used = cost.reindex(squares.index) >= UNUSED
    return [squares[kept].mean() if kept.any() else None for kept in (used, ~used)]


def _line(part, shown):
    def value(metric, **where):
        selected = select(part, {"metric": metric, **where})
        return shown(selected.iloc[0]) if len(selected) else "–"

    line = {"B": value("bar_b")}
    line |= {f"P, {name}": value("bar_p_max_mse", alignment=a) for a, name in ALIGNMENTS.items()}
    line["P, relative"] = value("bar_p_max_relative", alignment="cayley")
    worst = select(part, {"metric": "bar_p_max_mse", "alignment": "cayley"})["tensor"].iloc[0]
    line["worst tensor"] = worst if isinstance(worst, str) else "–"
    tensors = (
        select(part, {"metric": "bar_p_tensor", "alignment": "cayley"}).groupby("tensor")["value"].mean()
    )
    boundary = tensors[[t for t in tensors.index if "embed" in t or "head" in t]].sum() / tensors.sum()
    line["share in (un)embeddings"] = f"{boundary:.2f}"
    line["heads used / unused"] = " / ".join("–" if v is None else f"{v:.3g}" for v in of_heads(part))
    line |= {"P, floor": value("bar_p_floor"), "P, quotient": value("bar_p_quotient")}
    line["P, quotient, relative"] = value("bar_p_quotient_relative")
    for form in ("folded", "raw"):
        share = explained(part, form)
        line[f"explained, {form}: B_d / O(d)"] = " / ".join(f"{share[a]:.2f}" for a in share)
    line["configurations"] = (
        f"{_mean(part, 'configurations_least'):.3g}–{_mean(part, 'configurations_largest'):.3g}"
    )
    line |= {"planted, recovered to": value("self_alignment_mse"), "uniqueness": value("uniqueness_factor")}
    line |= {
        "C": value("bar_c_pearson", alignment="cayley"),
        "C, any order": value("bar_c_any_order", alignment="cayley"),
    }
    line |= {
        "C, heads alone": value("bar_c_heads_pearson", alignment="cayley"),
        "C, heads alone, any order": value("bar_c_heads_any_order", alignment="cayley"),
    }
    line |= {"C, edges": value("bar_c_edges_pearson", alignment="cayley")}
    line |= {"C, heads as they are": value("bar_c_pearson", alignment="none")}
    return {**line, "Pr, cumulative": value("bar_pr_pearson", alignment="cayley")}


def _mean(part, metric):
    return select(part, {"metric": metric})["value"].mean()


def _status(row):
    return f" {row['status']}" if isinstance(row.get("status"), str) else ""
