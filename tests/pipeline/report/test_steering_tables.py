"""Tables a5 and a6 from records: means, theory, the paper's figures, claims, and effects that are not
there."""

import pytest

from gaugeport.pipeline.paths import experiment_module
from gaugeport.pipeline.report import figures
from gaugeport.pipeline.report.steering_tables import NOTHING, VOID, theory
from gaugeport.pipeline.store.records import Record

CONDITIONS = {
    "B_d": ("signed_permutation", "hungarian_abs", "endpoint"),
    "S_d, signs dropped": ("permutation", "hungarian_abs", "endpoint"),
}


BY_CONSTRUCTION = "by construction"


def record(condition, seed, effect=True, setting="default", **metrics):
    """A record of one condition; without ``effect`` it holds what ``transport_rows`` writes where there is
    none."""
    group, matcher, route = CONDITIONS[condition]
    where = {"target": "identical", "evidence": "site", "site": "block2", "step": 1500}
    found = {"effect": 0.5, "effect_native": 2.0, "effect_control_ratio": 7.0, "no_effect_to_transport": 0.0}
    found = found | metrics if effect else {**found, "no_effect_to_transport": 1.0}
    rows = [{**where, "metric": m, "value": v} for m, v in found.items()]
    rows += [{**where, "metric": "shift", "strength": s, "value": s * found["effect"]} for s in (-1.0, 1.0)]
    config = {
        "profile": "mini", "setting": setting, "seed": seed, "model": {"name": "tinyllama"},
        "gauge": group, "matcher": matcher, "route": route, "training": {"run": {"lr": 0.015}},
    }  # fmt: skip
    return Record(f"{condition}{seed}{setting}", "steering_sentiment", config, rows, 1.0, {}, 3)


def five_seeds(effect=True, reverse=False):
    random = {"reversal_probability_random": 0.37}
    kept = {"retention": 0.99, "odd_retention": 0.99, "reversal_probability": 0.0, "retention_plants_sd": 0.0}
    lost = {
        "retention": 0.03,
        "odd_retention": -0.03,
        "reversal_probability": 0.46,
        "retention_plants_sd": 0.2,
    }
    both = (lost, kept) if reverse else (kept, lost)
    return [
        record(condition, seed, effect, **{m: v + 0.001 * seed for m, v in (metrics | random).items()})
        for seed in range(5)
        for condition, metrics in zip(CONDITIONS, both, strict=True)
    ]


def verdicts(table):
    return dict(zip(*table[table["verdict"].notna()][["metric", "verdict"]].to_numpy().T, strict=True))


def test_claims_of_a5_and_a6_fail_on_reversed_records():
    a5, a6 = experiment_module("sentiment_steering"), experiment_module("refusal_steering")
    found = verdicts(a5.tabulate(five_seeds()))
    assert found["a5.bd_over_sd"] == found["a5.bd_keeps"] == BY_CONSTRUCTION
    assert found["a5.bd_over_sd_finetuned"] == found["a5.bd_keeps_native"] == "not run"
    assert verdicts(a6.tabulate(five_seeds())) == {
        "a6.sd_reverses": BY_CONSTRUCTION,
        "a6.sd_flips": "reproduced",
        "a6.bd_does_not": BY_CONSTRUCTION,
    }
    found = verdicts(a5.tabulate(five_seeds(reverse=True)))
    assert found["a5.bd_over_sd"] == found["a5.bd_keeps"] == "contradicted"
    assert set(verdicts(a6.tabulate(five_seeds(reverse=True))).values()) == {"contradicted"}


def test_without_an_effect_no_claim_is_judged():
    for name in ("sentiment_steering", "refusal_steering"):
        module = experiment_module(name)
        table = module.tabulate(five_seeds(effect=False))
        found = verdicts(table)
        for claim in ("a5.bd_over_sd_finetuned", "a5.bd_keeps_native"):
            assert found.pop(claim, "not run") == "not run", "no job of it was run"
        assert set(found.values()) == {VOID}
        wide = module.pivot(table)
        assert (wide[next(iter(module.COLUMNS.values()))] == NOTHING).all() and (wide["n"] == 0).all()
        figures.plt.close(module.plot(table))


def test_seed_without_an_effect_counts_in_no_mean_and_no_claim():
    module = experiment_module("sentiment_steering")
    records = [
        *five_seeds()[:8],
        record("B_d", 4, effect=False),
        record("S_d, signs dropped", 4, effect=False),
    ]
    table = module.tabulate(records)
    (claim,) = table[table["metric"] == "a5.bd_over_sd"].to_dict("records")
    assert claim["verdict"] == BY_CONSTRUCTION and claim["n"] == 4
    wide = module.pivot(table).set_index("condition")
    assert wide.at["B_d", "n"] == 4 and wide.at["B_d", "retention"].startswith("0.99")


def test_column_names_its_seeds_where_they_differ_from_the_first():
    module = experiment_module("sentiment_steering")
    records = [
        *five_seeds()[:8],
        record("B_d", 4, effect=False),
        record("S_d, signs dropped", 4, effect=False),
    ]
    line = module.pivot(module.tabulate(records)).set_index("condition").loc["B_d"]
    assert line["n"] == 4 and "(n " not in line["retention"]
    assert line["B's own effect"].endswith(" (n 5)") and line["over random"].endswith(" (n 5)")


def test_share_of_bs_own_effect_counts_seeds_whose_moved_direction_has_lost_its_own():
    """They drifted most: without them what is kept of B's own effect would look larger."""
    module = experiment_module("sentiment_steering")
    lost = record("B_d", 4, retention_native=0.0)  # the oracle's effect is too small to compare with
    table = module.tabulate(
        [*(record("B_d", k, retention=1.0, retention_native=0.5) for k in range(4)), lost]
    )
    line = module.pivot(table).set_index("condition").loc["B_d"]
    assert line["n"] == 4 and line["to native"].startswith("0.400") and line["to native"].endswith("(n 5)")
    judged = verdicts(module.tabulate([lost]))
    assert judged["a5.bd_keeps"] == VOID, "it was measured, and there was nothing to keep"
    judged = verdicts(module.tabulate([record("B_d", 0, retention=1.0)]))
    assert judged["a5.bd_over_sd"] == "not run", "S_d was not measured"


def test_theory_and_paper_are_shown_beside_measurement():
    module = experiment_module("sentiment_steering")
    table = module.tabulate([*five_seeds(), record("B_d", 0, setting="lr", retention=0.5)])
    wide = module.pivot(table).set_index(["setting", "condition"])
    lost = wide.loc[("default", "S_d, signs dropped")]
    assert (lost["theory"], lost["theory "], lost["paper"]) == ("0.000", "0.500", "0.172")
    assert wide.at[("lr=0.015", "B_d"), "paper"] == "–" and wide.at[("lr=0.015", "B_d"), "theory"] == "1.000"
    figure = module.plot(table)
    titles = [axis.get_title() for axis in figure.axes]
    assert titles[:2] == ["tinyllama, target identical", "tinyllama, target identical, lr=0.015"]
    lines = {round(float(line.get_ydata()[0]), 3) for line in figure.axes[0].lines}
    assert {0.172, 0.958} <= lines, "the paper's figures are reference lines"
    figures.plt.close(figure)


@pytest.mark.parametrize("name", ["sentiment_steering", "refusal_steering"])
def test_one_condition_of_one_seed_makes_a_table(name):
    module = experiment_module(name)
    table = module.tabulate([record("B_d", 0, retention=1.0, reversal_probability=0.0)])
    assert len(module.pivot(table)) == 1
    figures.plt.close(module.plot(table))


def test_theory_is_that_of_the_records_share_of_positive_signs():
    module = experiment_module("sentiment_steering")
    records = five_seeds()
    assert "p" not in module.tabulate(records), "uniform gauges need no column"
    shared = record("S_d, signs dropped", 0, setting="p", retention=0.2)
    shared.config["measurement"] = {"positive_share": 0.6}
    table = module.tabulate([*records, shared])
    wide = module.pivot(table).set_index(["setting", "condition"])
    assert wide.at[("p=0.6", "S_d, signs dropped"), "theory"] == "0.200"
    assert wide.at[("p=0.6", "S_d, signs dropped"), "theory "] == "–"
    assert wide.at[("default", "S_d, signs dropped"), "theory"] == "0.000"


@pytest.mark.parametrize(
    ("condition", "p", "expected"),
    [
        ("S_d raw", 0.6, (0.6, 0.0)),
        ("S_d, signs dropped", 0.5, (0.0, 0.5)),
        ("S_d, signs dropped", 0.0, (-1.0, 1.0)),
        ("S_d, signs dropped", 1.0, (1.0, 0.0)),
        ("identity", 0.5, (0.0, 0.5)),
        ("identity", 0.6, (None, None)),
        ("B_d", 0.6, (1.0, 0.0)),
        ("another", 0.5, (None, None)),
    ],
)
def test_theory_by_share_of_positive_signs(condition, p, expected):
    assert theory(condition, p) == expected
