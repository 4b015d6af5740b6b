"""Table a6: does a refusal direction of A bring refusals about in B, or undo them? Ablation apart: it has no sign."""

from gaugeport.pipeline.report import steering_tables

TITLE = (
    "a6 refusal steering: how often a moved direction, added to harmless prompts, lowers the log-odds of a refusal "
    "(P(reversed), over plants; random: how often a direction that means nothing does); retention: share of the truly "
    "moved direction's effect; target finetuned_back: B's direction on A, the two changing places; odd part: of half "
    "the difference between adding v and adding −v, which theory speaks of "
    "(uniform signs, identical target); ablated: retention of its ablation on harmful prompts, which no sign can "
    "reverse; over random: B's own effect in root mean squares of random directions', which has to be 5, as it has in "
    "standard errors; means over n training seeds that have an effect to transport"
)
PAPER: dict[tuple[str, str], dict[str, float]] = {}
"""The text says that the effect reverses sign under S_d, without a figure."""
COLUMNS = {
    "reversal_probability": "P(reversed)",
    "odd_reversal_probability": "odd part",
    "theory:odd_reversal_probability": "theory",
    "reversal_probability_random": "random",
    "retention": "retention",
    "retention_low": "Fieller low",
    "retention_high": "Fieller high",
    "retention_plants_sd": "sd",
    "odd_retention": "odd part ",
    "theory:odd_retention": "theory ",
    "retention_native": "to native",
    "ablation_retention": "ablated",
    "effect_native": "B's own effect",
    "effect_se_ratio": "in SE",
    "effect_control_ratio": "over random",
    "signed_accuracy": "gauge accuracy",
    "loss_A": "loss A",
    "loss_B": "loss B",
}


def tabulate(records):
    """Every measurement, its mean over seeds with theory, and the judged contrasts."""
    return steering_tables.tabulate("a6", records, PAPER, "odd_")


def pivot(table):
    """One row per model, target and condition."""
    return steering_tables.pivot(table, COLUMNS)


def plot(table):
    """Reversal probability by condition and target, and the log-odds over the strength."""
    return steering_tables.plot(
        table, "reversal_probability", "P(effect reversed) over planted gauges", PAPER
    )
