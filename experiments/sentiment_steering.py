"""Table a5: the share of a sentiment direction's effect that is kept when A's direction steers B."""

from gaugeport.pipeline.report import steering_tables

TITLE = (
    "a5 sentiment steering: share of a direction's steering effect kept after transport (retention: over that of the "
    "truly moved direction; to native: over that of B's own; target finetuned_back: B's direction on A, the two "
    "changing places; theory: uniform signs, identical target; sd: over plants; over random: B's own effect in root mean "
    "squares of random directions', which has to be 5, as it has in standard errors; "
    "means over n training seeds that have an effect to transport, the native ones over all)"
)
PAPER = {
    ("retention", "identical"): {"S_d, signs dropped": 0.172, "B_d": 0.958},
    ("retention", "finetuned"): {"S_d, signs dropped, trajectory": 0.172, "B_d, trajectory": 0.958},
}
"""The text does not say which setting, nor which S_d."""
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
    "signed_accuracy": "gauge accuracy",
    "loss_A": "loss A",
    "loss_B": "loss B",
}


def tabulate(records):
    """Every measurement, its mean over seeds with theory and the paper's figures, and the judged contrasts."""
    return steering_tables.tabulate("a5", records, PAPER)


def pivot(table):
    """One row per model, target and condition."""
    return steering_tables.pivot(table, COLUMNS)


def plot(table):
    """Retention by condition and target, and the log-odds over the strength."""
    return steering_tables.plot(table, "retention", "share of the effect kept (bars: sd over plants)", PAPER)
