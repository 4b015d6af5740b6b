"""Make table a5: the share of a sentiment direction's effect that is kept when A's direction steers B."""

from gaugeport.pipeline.report import steering_tables
from gaugeport.pipeline.report.conditions import SHORT_CAPTION, SHORT_NAMES
from gaugeport.pipeline.report.narrow import Narrow
from gaugeport.pipeline.report.tidy import MAIN_MODELS

TITLE = "a5 Sentiment steering: share of a direction's effect that is kept"
CAPTION = (
    "Kept: the moved direction's effect over that of the truly moved one; of B's own: over that of the "
    "target's own direction. Finetuned back is B's direction on A. Theory is for uniformly random signs "
    "and an identical target. Kept counts seeds where the truly moved direction has an effect, of B's own "
    "those where that has one. The paper says neither which "
    "setting nor which S_d. "
    f"{SHORT_CAPTION}"
)
DETAILS = (
    "Fieller: the interval of the ratio within a seed. sd: over planted gauges. B's own effect in "
    "standard errors and in root mean squares of random directions' effects; both have to reach 5."
)
PAPER = {
    ("retention", "identical"): {"S_d, signs dropped": 0.172, "B_d": 0.958},
    ("retention", "finetuned"): {"S_d, signs dropped, trajectory": 0.172, "B_d, trajectory": 0.958},
}
"""The paper says neither which setting nor which S_d."""
COLUMNS = {
    "retention": "retention",
    "theory:retention": "theory",
    "paper:retention": "paper",
    "retention_low": "Fieller low",
    "retention_high": "Fieller high",
    "retention_plants_sd": "sd",
    "retention_native": "to native",
    "reversal_probability": "P(reversed)",
    "theory:reversal_probability": "theory ",
    "effect_native": "B's own effect",
    "effect_se_ratio": "in SE",
    "effect_control_ratio": "over random",
    "class_gap": "class gap (nats)",
    "class_right": "classes right",
    "signed_accuracy": "gauge accuracy",
    "loss_A": "loss A",
    "loss_B": "loss B",
}

SUMMARY = Narrow(
    columns={
        "target": "target",
        "condition": "condition",
        "retention": "kept",
        "theory": "theory",
        "paper": "paper",
        "to native": "of B's own",
        "n": "n",
    },
    rows={"model": MAIN_MODELS, "setting": "default"},
    words={"finetuned_back": "finetuned back", **SHORT_NAMES},
    means=("to native",),
)


def tabulate(records):
    """Return every measurement, its mean over seeds with theory and the paper's figures, and the judged
    contrasts."""
    return steering_tables.tabulate("a5", records, PAPER)


def pivot(table):
    """Return a row per model, target and condition."""
    return steering_tables.pivot(table, COLUMNS)


def plot(table):
    """Draw retention by condition and target, and the log-odds over the strength."""
    return steering_tables.plot(table, "retention", "share of the effect kept (bars: sd over plants)", PAPER)
