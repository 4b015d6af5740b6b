"""Make table b9: an SAE of an early checkpoint on the later ones of its run, by map."""

import pandas as pd

from gaugeport.pipeline.report import figures as f
from gaugeport.pipeline.report.judged import judged
from gaugeport.pipeline.report.model_pairs import GROUPS, by_site, line_style, pair_label
from gaugeport.pipeline.report.narrow import Narrow
from gaugeport.pipeline.report.render import cell
from gaugeport.pipeline.report.tidy import aggregate, by_depth, means_of, middle_site, select, tidy

TITLE = "b9 An early checkpoint's SAE on the last checkpoint of its run"
CAPTION = (
    "From: the step of the checkpoint whose SAE it is, and its held-out loss in nats. ‖R−I‖ in units of "
    "√(2d), of the whole rotation to the last checkpoint and of what it does on the directions with 99 % of "
    "the variance (support). Explained variance at home (self) and on the last checkpoint: as it is (raw), "
    "and through the rotation (scaled: with the ratio of the streams' lengths)."
)
DETAILS = (
    "Composed: through the local maps of the "
    "checkpoints in between. The paper's runs are Pythia's and its toy's."
)
EXTRA = ["cohort", "source", "sae"]
SAES = {"topk": "TopK", "standard": "ReLU"}
COMPOSED = ("permutation", "signed_permutation", "orthogonal")
DISTANCES = {"distance_from_identity": "‖R−I‖/√(2d)", "supported_distance": "supported"}
PAPER = {
    ("pythia", "seeds"): {
        "raw": "catastrophic",
        "O(d)": "restores",
        "‖R−I‖/√(2d)": "about 0.5",
        "self": "0.907",
    },
    ("dyck3", "B"): {"‖R−I‖/√(2d)": "0.92 at the input, 0.26 late"},
}
"""The paper's figures (section 8.7): one run each, layer 3 of pythia-70m; the toy's 10.4 and 2.9–3.0 over
√128.

We take the toy's to be of a run whose boundary trains, as all of cohort B's do. Of cohort A only seed 0's
does: the input streams of the others never change."""

SUMMARY = Narrow(
    columns={
        "model": "model",
        "SAE": "SAE",
        "source": "from",
        "loss": "loss",
        "site": "site",
        "‖R−I‖/√(2d)": "‖R−I‖",
        "supported": "support",
        "self": "self",
        "raw": "raw",
        "O(d)": "O(d)",
        "O(d), scaled": "scaled",
    },
    rows={},
    words={
        ", independent seeds": "",
        "cohort ": "",
        "0.92 at the input, 0.26 late": "0.92-0.26",
        "catastrophic": "fails",
        "restores": "works",
        "resid_": "",
    },
    means=True,
)


def tabulate(records):
    """Return every measurement, its mean over training seeds, and the judged contrasts."""
    saes = {r.id: SAES[r.config["task"]["sae"]["architecture"]] for r in records}
    rows = tidy("b9", records, extra=EXTRA).assign(matcher=None)
    rows["sae"] = rows["record"].map(saes)
    return judged("b9", rows, aggregate(rows, EXTRA))


def pivot(table):
    """Return a row per model, cohort and site at the last checkpoint; then what the paper says."""
    lines, parts = [], list(by_site(means_of(table), []))
    last_of = {(model, cohort): setting for (model, setting, cohort), _ in parts}
    for (model, setting, cohort), whole in parts:
        losses, last = select(whole, {"metric": "loss"}), _at_sites(whole)
        last = last[last["step"] == last["step"].max()]
        for site, part in last.sort_values("site", key=by_depth, kind="stable").groupby("site", sort=False):
            source, end = part["source"].max(), part["step"].max()
            at = {"source": f"{source:.0f}", "loss": cell(select(losses, {"step": source}))}
            at |= {"last": f"{end:.0f}", "last loss": cell(select(losses, {"step": end}))}
            line = {"model": pair_label(model, cohort), "setting": setting, "SAE": whole["sae"].iloc[0]}
            line |= {"site": site, **at}
            ends = select(part, {"metric": "explained_variance_by_step"})
            for group, name in (("self", "self"), *((g, n) for g, (n, _) in GROUPS.items())):
                line[name] = cell(select(ends, {"group": group, "route": "endpoint"}))
            for group in COMPOSED:
                line[f"{GROUPS[group][0]}, composed"] = cell(
                    select(ends, {"group": group, "route": "trajectory"})
                )
            line |= {title: cell(select(part, {"metric": metric})) for metric, title in DISTANCES.items()}
            lines.append({**line, "n": int(part["n"].max())})
        if (model, cohort) in PAPER and setting == last_of[model, cohort]:
            lines.append(
                {
                    "model": pair_label(model, cohort),
                    "setting": "paper",
                    "SAE": "paper",
                    "site": "paper",
                    **PAPER[model, cohort],
                }
            )
    return pd.DataFrame(lines).fillna("–")


def _at_sites(rows):
    """Return the rows that are of a site; losses are of a whole model."""
    return rows[rows["site"].notna()]


def plot(table):
    """Draw, over the steps of the run, explained variance by group and the rotation's distance by site."""
    parts = list(by_site(_at_sites(means_of(table)), []))
    figure, axes = f.panels(2 * len(parts), width=4.4, columns=2, sharey=False)
    for (here, there), ((model, _, cohort), part) in zip(
        zip(axes[::2], axes[1::2], strict=True), parts, strict=True
    ):
        sites = list(part.sort_values("site", key=by_depth)["site"].unique())
        at = middle_site(sites) if any(site.startswith("block") for site in sites) else "resid_mid_1"
        middle = select(part, {"site": at, "metric": "explained_variance_by_step"})
        for group, (name, colour) in GROUPS.items():
            for route, style in (("endpoint", line_style(group)), ("trajectory", ":")):
                rows = select(middle, {"group": group, "route": route}).sort_values("step")
                if len(rows):
                    shown = name if route == "endpoint" else f"{name}, composed"
                    here.plot(
                        rows["step"],
                        rows["value"],
                        style,
                        color=colour,
                        marker="o",
                        markersize=3,
                        label=shown,
                    )
        here.set_title(
            f"{pair_label(model, cohort)}, {at}, SAE of step {middle['source'].max():.0f}", fontsize=10
        )
        here.set(xlabel="step", ylabel="explained variance")
        distances = select(part, {"metric": "distance_from_identity"})
        for site, colour in zip(
            sites, (f.GREY, f.SKY, f.BLUE, f.GREEN, f.ORANGE, f.RED, f.PURPLE), strict=False
        ):
            rows = select(distances, {"site": site}).sort_values("step")
            there.plot(rows["step"], rows["value"], "o-", color=colour, markersize=3, label=site)
        there.axhline(1, color=f.GREY, linestyle=":", linewidth=1)
        there.set_title("end-to-end rotation from there", fontsize=10)
        there.set(xlabel="step", ylabel="‖R−I‖/√(2d)")
        there.legend(fontsize=6)
    f.legend_below(figure, axes[0])
    return figure
