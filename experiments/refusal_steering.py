"""Make table a6: does a refusal direction of A bring refusals about in B, or undo them?"""

from gaugeport.pipeline.report import steering_tables
from gaugeport.pipeline.report.conditions import SHORT_CAPTION, SHORT_NAMES
from gaugeport.pipeline.report.narrow import Narrow
from gaugeport.pipeline.report.tidy import MAIN_MODELS

TITLE = "a6 Refusal steering: how often a moved direction acts the other way"
CAPTION = (
    "Reversed: share of planted gauges in which the direction, added to harmless prompts, lowers the log- "
    "odds of a refusal. Odd part: half the difference between adding v and −v, which theory speaks of. "
    "Kept: share of the truly moved direction's effect. The paper says that the effect reverses under "
    "S_d, without a figure. "
    f"{SHORT_CAPTION}"
)
DETAILS = (
    "Random: how often a random direction lowers them. Ablated: what is kept of ablating the direction on "
    "harmful prompts, which no sign can reverse. Fieller: the interval of the ratio within a seed. sd: "
    "over planted gauges. B's own effect in standard errors and in root mean squares of random "
    "directions' effects; both have to reach 5. The second odd part and theory are of the share kept."
)
PAPER: dict[tuple[str, str], dict[str, float]] = {}
"""The paper says that the effect reverses sign under S_d, without a figure."""
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
        "P(reversed)": "reversed",
        "odd part": "odd part",
        "theory": "theory",
        "retention": "kept",
        "n": "n",
    },
    rows={"model": MAIN_MODELS, "setting": "default"},
    words={"finetuned_back": "finetuned back", **SHORT_NAMES},
    means=("odd part", "retention"),
)


def tabulate(records):
    """Return every measurement, its mean over seeds with theory, and the judged contrasts."""
    return steering_tables.tabulate("a6", records, PAPER, "odd_")


def pivot(table):
    """Return a row per model, target and condition."""
    return steering_tables.pivot(table, COLUMNS)


def plot(table):
    """Draw reversal probability by condition and target, and the log-odds over the strength."""
    return steering_tables.plot(
        table, "reversal_probability", "P(effect reversed) over planted gauges", PAPER
    )
