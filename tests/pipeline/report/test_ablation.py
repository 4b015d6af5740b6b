"""Tables of ablations: what is read off the records, and how the gap is paired."""

import pytest

from gaugeport.pipeline.paths import experiment_module
from gaugeport.pipeline.report.ablation import Ablation
from gaugeport.pipeline.report.tidy import means_of, select
from gaugeport.pipeline.store.records import Record

ACCURACY = {"endpoint": 0.5, "via_base": 0.75, "trajectory": 1.0}


def record(seed, route, matcher="hungarian_abs", **measurement):
    config = {
        **{
            "profile": "mini",
            "setting": "x",
            "seed": seed,
            "gauge": "signed_permutation",
            "matcher": matcher,
            "route": route,
        },
        "model": {"name": "tinyllama", "architecture": {"hidden_size": 128}},
        "measurement": {"spacing": 100, "tokens": 16384, **measurement},
        "data": {},
        "training": {"run": {"lr": 0.015}},
    }
    found = ACCURACY[route] - 0.01 * seed * (route == "endpoint") - measurement.get("tokens", 0) / 1e5
    rows = [
        {
            "evidence": kind,
            "site": site,
            "step": step,
            "metric": "signed_accuracy",
            "value": found + far - late,
        }
        for kind, site, far in (
            ("site", "embed", 0.1),
            ("site", "block0", 0.2),
            ("site", "block1", 0.0),
            ("pooled", "", 0.3),
        )
        for step, late in ((100, 0.0), (200, 0.05))
    ]
    losses = [{"step": 200, "metric": "loss_A", "value": 2.0 + seed}]
    name = f"{seed}{route}{matcher}{measurement}"
    return Record(name, "recovery", config, [*rows, *losses], 1.0, {}, 2)


def records(**measurement):
    return [record(seed, route, **measurement) for seed in (0, 1) for route in ACCURACY]


def test_levels_are_read_at_middle_site_and_last_step_with_gap_paired_by_seed():
    table = Ablation("d2", "calibration tokens", "measurement.tokens").tabulate(
        [*records(), *records(tokens=1000)]
    )
    means = means_of(table)
    assert sorted(means["calibration tokens"].unique()) == [1000, 16384]
    at = select(means, {"calibration tokens": 1000, "metric": "signed_accuracy"}).set_index("route")["value"]
    assert at.to_dict() == pytest.approx({"endpoint": 0.435, "via_base": 0.69, "trajectory": 0.94})
    gaps = select(
        table[table["seed"].notna()], {"calibration tokens": 1000, "metric": "gap_to_endpoint"}
    ).set_index("seed")["value"]
    assert gaps.to_dict() == pytest.approx({0: 0.5, 1: 0.51})
    shown = Ablation("d2", "calibration tokens", "measurement.tokens").pivot(table)
    assert list(shown.columns) == [
        "calibration tokens",
        "endpoint",
        "via base",
        "trajectory",
        "gap",
        "loss A",
        "n",
    ]
    assert list(shown["n"]) == [2, 2] and list(shown["calibration tokens"]) == [1000, 16384]


def test_older_records_get_default_of_later_option():
    table = Ablation("d8", "precision", "measurement.dtype").tabulate(
        [*records(), *records(dtype="bfloat16")]
    )
    assert sorted(means_of(table)["precision"].unique()) == ["bfloat16", "float32"]


def test_sites_and_evidence_are_levels():
    sites = Ablation("d3", "site", everywhere=True)
    assert list(sites.pivot(sites.tabulate(records()))["site"]) == ["embed", "block0", "block1"]
    kinds = Ablation("d4", "evidence", kinds=("pooled", "site"))
    shown = kinds.pivot(kinds.tabulate(records()))
    assert list(shown["evidence"]) == ["pooled", "site"] and shown["endpoint"].str[:5].tolist() == [
        "0.745",
        "0.445",
    ]


def test_interval_over_first_n_seeds():
    module = experiment_module("ablation_seeds")
    shown = module.pivot(module.tabulate(records()))
    assert list(shown["training seeds"]) == [1, 2] == list(shown["n"])
    assert shown["gap"][0] == "0.500" and shown["gap"][1].startswith("0.505 [")
