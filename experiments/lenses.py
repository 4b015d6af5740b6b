"""Make table b4: five lenses on every component of a Dyck-3 model, and where they disagree."""

import pandas as pd

from gaugeport.pipeline.report import figures as f
from gaugeport.pipeline.report.judged import judged
from gaugeport.pipeline.report.render import cell
from gaugeport.pipeline.report.tidy import aggregate, means_of, select, tidy

TITLE = "b4 Five lenses on every component of a Dyck-3 model, and where they disagree"
CAPTION = (
    "Lens 1: role by weights. Lens 3: rise of the loss under mean ablation (nats), and whether path "
    "patching and ACDC keep the component. Lens 5: the task feature raised most. Vestigial: unused, and "
    "as loud as its layer's median head. Components of seed 0; then counts over seeds."
)
DETAILS = (
    "Gains are folded. Lens 1: norms of QK and OV, attention entropy (1: uniform). Lens 2: explained "
    "variance of dictionaries (of a head: those of its layer's attention). Lens 4: activation patterns of "
    "an MLP."
)
EXTRA = [
    "cohort",
    "lens",
    "component",
    "expansion",
    "role",
    "feature",
    "destination",
    "note",
    "tokens",
    "cell",
]
BY = ["cohort", "lens", "component", "expansion"]
PAPER_HEADS = 6.0
"""How many heads the paper's ACDC keeps."""
LEAST = 1e-6
"""The figure's axis is logarithmic: smaller and negative effects (nats) are drawn here."""
PAPER_PATTERNS = {"L0M": 67_313, "L1M": 145_834}
"""The paper's activation patterns on 220,738 samples (section 3.4)."""
COUNTED = {
    ("path_patching", "heads_kept"): "path patching",
    ("acdc", "heads_kept"): "ACDC",
    ("crosslens", "disagreements"): "disagreements",
}


def tabulate(records):
    """Return every measurement, the means over seeds of those without text, and the judged claim."""
    rows = tidy("b4", records, extra=EXTRA).assign(group=None, matcher=None, route=None)
    plain = rows[["feature", "destination", "tokens", "cell"]].isna().all(axis=1) & (rows["metric"] != "role")
    means = aggregate(rows[plain], BY)
    kept = (means["metric"] == "heads_kept") & (means["cohort"] == "A") & (means["lens"] == "acdc")
    means.loc[kept, "paper"] = PAPER_HEADS
    return judged("b4", rows, means)


def pivot(table):
    """Return the components of the primary seed, its dictionaries, then the counts of each cohort."""
    seeds = table[table["seed"].notna()]
    primary = select(seeds, {"cohort": "A", "seed": seeds["seed"].min()})
    components = list(dict.fromkeys(select(primary, {"metric": "ablation_effect"})["component"]))
    seen = {
        r["component"]: r["value"] for _, r in select(primary, {"metric": "explained_variance"}).iterrows()
    }
    lines = []
    for c in components:
        line = _component(select(primary, {"component": c}))
        site = c if c.endswith("M") else f"attn_out_{c[1]}"
        name = "transcoder" if c.endswith("M") else site
        line["lens 2"] = f"{seen[site]:.3f} ({name})" if site in seen else "–"
        lines.append({"seed": "A 0", "component": c, **line})
    for (component, expansion), part in select(primary, {"lens": "dictionaries"}).groupby(
        ["component", "expansion"], sort=False
    ):
        value = part.set_index("metric")["value"]
        name = f"{component}, {'transcoder' if component.endswith('M') else 'SAE'} {expansion:.0f} ×"
        measured = {
            "EV": f"{value['explained_variance']:.3f}",
            "L0": f"{value['l0']:.1f}",
            "dead": f"{value['dead_share']:.2f}",
        }
        lines.append({"seed": "A 0", "component": name, **measured})
    means = means_of(table)
    for cohort, part in select(means, {"component": "model"}).groupby("cohort", sort=False):
        line = {"seed": f"{cohort}, mean of {int(part['n'].max())}", "component": "heads kept; disagreements"}
        for (lens, metric), column in COUNTED.items():
            line[column] = cell(select(part, {"lens": lens, "metric": metric}), digits=2)
        flags = select(means, {"cohort": cohort, "lens": "crosslens"})
        for flag in ("unused", "vestigial"):
            selected = select(flags, {"metric": f"flag_{flag}"})
            line[flag] = f"{selected['value'].sum():.2f}"
        for circuit in ("QK", "OV"):
            ratio = select(flags, {"metric": f"unused_{circuit.lower()}_over_used"})
            if len(ratio):
                line[circuit] = f"unused over used of a layer: {cell(ratio, digits=2, n=part['n'].max())}"
        lines.append(line)
    lines.append(
        {"seed": "A, paper", "component": "heads kept", "ACDC": "6 of 8", "vestigial": "2 (L1H0, L1H3)"}
    )
    lines += [{"seed": "A, paper", "component": c, "patterns": f"{n}"} for c, n in PAPER_PATTERNS.items()]
    lines.append({"seed": "A, paper", "component": "depth counter (L0H2)", "ablation": "23.00"})
    return pd.DataFrame(lines).fillna("–")


def summary(wide):
    """Return the components of the primary seed, then the counts of each cohort and the paper's."""
    components = wide[wide["ablation"] != "–"]
    counts = wide[wide["component"].str.startswith("heads kept")]
    columns = {
        "seed": "seed",
        "component": "part",
        "lens 1": "lens 1",
        "ablation": "lens 3",
        "path patching": "patching",
        "ACDC": "ACDC",
        "lens 5": "lens 5",
        "unused": "unused",
        "vestigial": "vestigial",
    }
    rows = pd.concat([components[components["seed"].str.endswith(" 0")], counts])
    shown = rows[list(columns)].rename(columns=columns)
    shown["lens 5"] = shown["lens 5"].str.replace(r" \(.*", "", regex=True).str.replace("_", " ")
    shown["part"] = (
        shown["part"].str.replace("heads kept; disagreements", "heads").str.replace("heads kept", "heads")
    )
    shown["seed"] = shown["seed"].str.replace("mean of ", "n = ")
    for column in ("patching", "ACDC"):
        shown[column] = shown[column].str.replace(r" \[.*", "", regex=True)
    shown["vestigial"] = shown["vestigial"].str.replace(r" \(.*", "", regex=True)
    return shown


def plot(table):
    """Draw OV norm against the cost of ablation of every head, and the features that components raise."""
    seeds = table[table["seed"].notna()]
    figure, axes = f.panels(2, width=5.6, height=4.4, sharey=False)
    for cohort, marker in (("A", "o"), ("B", "^")):
        mine = select(seeds, {"cohort": cohort, "lens": "crosslens"})
        keys = ["seed", "component"]
        cost = select(mine, {"metric": "ablation_effect"}).set_index(keys)["value"]
        norm = select(mine, {"metric": "weights_ov_frobenius"}).set_index(keys)["value"]
        kept = select(mine, {"metric": "acdc_kept"}).set_index(keys)["value"].reindex(norm.index)
        for on, colour in ((1.0, f.BLUE), (0.0, f.RED)):
            here = norm[kept == on]
            label = f"{'kept' if on else 'dropped'} by ACDC" if cohort == "A" else None
            axes[0].plot(
                here,
                cost.reindex(here.index).clip(lower=LEAST),
                marker,
                color=colour,
                markersize=5,
                alpha=0.8,
                label=label,
            )
    axes[0].set(
        yscale="log",
        xlabel="OV norm (Frobenius)",
        ylabel="mean ablation: rise of the loss, nats (at least 1e-6)",
        title="heads of all seeds",
    )
    axes[0].legend(fontsize=7)
    primary = select(seeds, {"cohort": "A", "lens": "roles", "metric": "raised", "seed": seeds["seed"].min()})
    grid = primary.pivot_table(index="component", columns="feature", values="value", sort=False)
    image = axes[1].imshow(grid.to_numpy(), cmap="cividis", aspect="auto", vmin=0, vmax=1)
    axes[1].set_xticks(range(grid.shape[1]), grid.columns, rotation=90, fontsize=6)
    axes[1].set_yticks(range(grid.shape[0]), grid.index, fontsize=7)
    axes[1].set_title("rise of a feature's held-out R², primary seed")
    figure.colorbar(image, ax=axes[1])
    return figure


def _component(rows):
    """Return one component's line: numbers and words of every lens."""
    cross = select(rows, {"lens": "crosslens"}).drop_duplicates("metric").set_index("metric")

    def number(metric, form):
        return format(cross.at[metric, "value"], form) if metric in cross.index else "–"

    def flag(metric):
        return ("yes" if cross.at[metric, "value"] else "no") if metric in cross.index else "–"

    role = cross.loc["roles_role"]
    return {
        "lens 1": cross.at["weights_role", "role"] if "weights_role" in cross.index else "–",
        "QK": number("weights_qk_frobenius", ".2f"),
        "OV": number("weights_ov_frobenius", ".2f"),
        "entropy": number("weights_attention_entropy", ".2f"),
        "ablation": number("ablation_effect", ".2g"),
        "path patching": flag("path_patching_kept"),
        "ACDC": flag("acdc_kept"),
        "patterns": number("regions_cells", ".0f"),
        "lens 5": f"{role['feature']} (+{role['value']:.2f})" if isinstance(role["feature"], str) else "–",
        "unused": flag("flag_unused"),
        "vestigial": flag("flag_vestigial"),
        "disagreements": cross.at["disagreements", "note"] if cross.at["disagreements", "value"] else "–",
    }
