"""Make table b12: are the seeds that other tables compare independent models?"""

import pandas as pd

from gaugeport.pipeline.report import figures as f
from gaugeport.pipeline.report.judged import judged
from gaugeport.pipeline.report.model_pairs import COHORTS
from gaugeport.pipeline.report.narrow import Narrow
from gaugeport.pipeline.report.render import interval
from gaugeport.pipeline.report.tidy import aggregate, means_of, select, tidy
from gaugeport.pipeline.rotation.models.independence import LARGEST_COSINE

TITLE = "b12 Independence of the checkpoints: each seed against seed 0 of its cohort"
CAPTION = (
    "Identical: share of tensors that are bit for bit the same, those equal by construction left out. "
    "Distance: ‖θ − θ'‖/√(‖θ‖‖θ'‖) over weight matrices; √2 = 1.414 between independent models. Caught "
    "from: share of its own run from which on a checkpoint is told to be of that run."
)
DETAILS = (
    "Equal by construction: frozen and shared, constant, buffers. Singular values: of the matrix in which "
    "they differ most, 0 for a copy in other coordinates. Step 0: distance in units of its norm, and what "
    "the two initialisations are."
)
EXTRA = ["cohort", "compared", "tensor", "end", "status", "digest"]
BY = ["cohort", "compared", "end"]
NUMBERS = {
    "distance": {"metric": "relative_distance", "compared": "models"},
    "cosine": {"metric": "weight_cosine", "compared": "models"},
    "cosine of updates": {"metric": "update_cosine"},
    "singular values": {"metric": "spectrum_distance", "compared": "models"},
    "from step 0": {"metric": "distance_to_start", "end": "other"},
    "cosine to step 0": {"metric": "cosine_to_start", "end": "other"},
}
ROOT_TWO = 2**0.5

SUMMARY = Narrow(
    columns={
        "model": "model",
        "cohort": "cohort",
        "seed": "seed",
        "identical": "identical",
        "distance": "distance",
        "cosine": "cosine",
        "caught from": "caught from",
        "verdict": "verdict",
    },
    means=True,
)


def tabulate(records):
    """Return every measurement and its mean over pairs."""
    rows = tidy("b12", records, extra=EXTRA).assign(group=None, matcher=None, route=None)
    tensors = rows["tensor"].notna() & (rows["metric"] != "spectrum_distance")
    means = pd.concat(
        [aggregate(rows[~tensors], BY), aggregate(rows[tensors], [*BY, "tensor"])], ignore_index=True
    )
    return judged("b12", rows, means)


def pivot(table):
    """Return a row per pair with its verdict, then the means of each cohort."""
    seeds, lines = table[table["seed"].notna()], []
    for (model, cohort), whole in seeds.groupby(["model", "cohort"], sort=False):
        for seed, part in whole.groupby("seed"):
            pair_label = {
                "model": model,
                "cohort": cohort,
                "seed": f"{seed:.0f}",
                "file": part["digest"].iloc[0],
            }
            lines.append({**pair_label, **_texts(part), **_numbers(part), "verdict": verdict(whole, seed)})
    for (model, cohort), part in means_of(table).groupby(["model", "cohort"], sort=False):
        if (n := int(part["n"].max())) > 1:
            lines.append({"model": model, "cohort": cohort, "seed": f"mean of {n}", **_numbers(part)})
    return pd.DataFrame(lines).fillna("–")


def verdict(cohort, seed):
    """Say what a seed is to seed 0, and which other seeds have the same file."""
    digests = cohort.dropna(subset=["digest"]).drop_duplicates("seed").set_index("seed")["digest"]
    twins = [f"{s:.0f}" for s in digests.index[digests == digests[seed]] if s != seed]
    if twins:
        return f"duplicate of seed {', '.join(twins)}"
    return _status(select(cohort, {"seed": seed, "compared": "models"}))


def caught_from(part):
    """Return the share of a run from which on its checkpoints are found not to be independent, or None."""
    own = select(part, {"compared": "own checkpoint", "metric": "independent"}).sort_values(
        "step", ascending=False
    )
    caught = own[(own["value"] == 0).astype(int).cummin() == 1]
    return None if caught.empty else caught["step"].min() / own["step"].max()


def plot(table):
    """Draw cosines with the own run's checkpoints and with seed 0, distances, and those of singular
    values."""
    seeds = table[table["seed"].notna()]
    figure, axes = f.panels(3, width=4.6, height=3.8, sharey=False)
    cohorts = list(dict.fromkeys(seeds["cohort"]))
    for x, (cohort, colour) in enumerate(zip(cohorts, (f.BLUE, f.ORANGE, "black", f.GREEN), strict=False)):
        mine = select(seeds, {"cohort": cohort})
        own = select(mine, {"compared": "own checkpoint", "metric": "weight_cosine"})
        for k, (_, run) in enumerate(own.groupby("seed")):
            run = run.sort_values("step")
            label = COHORTS[cohort] if k == 0 else None
            share = run["step"] / run["step"].max()
            axes[0].plot(
                share, run["value"], "o-", color=colour, markersize=3, linewidth=1, alpha=0.7, label=label
            )
        across = select(mine, {"compared": "models", "metric": "weight_cosine"})["value"]
        axes[0].plot([1.06 + 0.03 * x] * len(across), across, "_", color=colour, markersize=8)
        apart = select(mine, {"compared": "own checkpoint", "metric": "relative_distance"})["value"]
        axes[1].plot([x] * len(apart), apart, "x", color=colour, markersize=4)
        for axis, metric in ((axes[1], "relative_distance"), (axes[2], "spectrum_distance")):
            for compared, fill, shift in (("models", colour, -0.12), ("initialisations", "white", 0.12)):
                values = select(mine, {"compared": compared, "metric": metric})["value"]
                axis.plot(
                    [x + shift] * len(values), values, "o", color=colour, markerfacecolor=fill, markersize=5
                )
    axes[0].axhline(LARGEST_COSINE, color=f.GREY, linestyle="--", linewidth=1)
    axes[0].set(xlabel="share of the run (bars on the right: with seed 0)", ylabel="cosine of the weights")
    axes[0].legend(fontsize=7)
    axes[1].axhline(ROOT_TWO, color=f.GREY, linestyle="--", linewidth=1)
    axes[1].set(ylabel="‖θ − θ'‖ / √(‖θ‖‖θ'‖)", title="seed 0, own checkpoints (×)", ylim=(0, 1.6))
    axes[2].set(
        title="seed 0 (hollow: initialisations)", ylabel="relative distance of singular values", yscale="log"
    )
    for axis in axes[1:]:
        axis.set_xticks(range(len(cohorts)), [COHORTS[c] for c in cohorts], rotation=20, fontsize=7)
    return figure


def _texts(part):
    models = select(part, {"compared": "models"})
    built = select(models, {"metric": "equal_by_construction"})
    counts = built["status"].value_counts()
    share = caught_from(part)
    return {
        "identical": f"{select(models, {'metric': 'identical_share'})['value'].iloc[0]:.2f}",
        "equal by construction": ", ".join(f"{n} {why}" for why, n in counts.items()) or "none",
        "initialisations": _status(select(part, {"compared": "initialisations"})),
        "caught from": "–" if share is None else f"{share:.2f}",
    }


def _numbers(part):
    line = {}
    for name, where in NUMBERS.items():
        selected = select(part, where)
        digits = 4 if "cosine" in name or "singular" in name else 3
        line[name] = (
            interval(*selected[["value", "ci_low", "ci_high"]].iloc[0], digits) if len(selected) else "–"
        )
    return line


def _status(part):
    return select(part, {"metric": "independent"})["status"].iloc[0]
