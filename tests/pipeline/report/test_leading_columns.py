"""What leads tables b1, b3, b9 and b10: the depth that a decoy leaves alone, how many seeds have the wrong
sign, whose SAE a line is of, and what lies between two optima."""

import pytest

from gaugeport.pipeline.paths import experiment_module
from gaugeport.pipeline.store.records import Record

CONFIG = {
    "profile": "mini", "setting": "default", "model": {"name": "dyck3"}, "gauge": "orthogonal",
    "matcher": "procrustes", "route": "endpoint",
}  # fmt: skip


def test_b1_shows_the_share_of_the_deepest_positions_as_the_mean_over_splits():
    rows = [
        {"cohort": "A", "metric": "deepest_share", "split": s, "value": v}
        for s, v in (("train", 0.1), ("compositional", 0.0), ("long", 0.5))
    ]
    rows += [
        {"cohort": "A", "metric": "bar_b", "variant": variant, "value": v}
        for variant, v in (("real", 0.001), ("decoy", 0.2))
    ]
    rows += [{"cohort": "A", "metric": f"accuracy_{head}", "value": 1.0} for head in ("depth", "valid")]
    config = {
        "profile": "mini", "setting": "default", "seed": 0, "model": {"name": "dyck3"},
        "gauge": "orthogonal", "matcher": "procrustes", "route": "endpoint",
        "data": {},  # the running sum is left out
    }  # fmt: skip
    module = experiment_module("bars_within_seed")
    shown = module.SUMMARY(module.pivot(module.tabulate([Record("r", "bars", config, rows, 1.0, {}, 1)])))
    assert shown["P(8)"][0] == ".200" and shown["ratio"][0] == "200" and shown["paper's B"][0] == ".000174"
    other = Record("o", "bars", {**config, "setting": "other_label"}, rows, 1.0, {}, 1)
    shown = module.SUMMARY(module.pivot(module.tabulate([other])))
    assert shown["setting"][0] == "running" and shown["paper's B"][0] == "–", "the paper has no such row"


def b10(largest, best="weights", seeds=(0, 1)):
    """Return the wide table of pairs whose largest mean squared difference at the exact optimum is given."""
    records = []
    for seed in seeds:
        at = {"cohort": "A", "lam": "0"}
        rows = [
            {**at, "method": "geodesic", "start": "", "metric": metric, "value": value}
            for metric, value in (("barrier", 0.0), ("same_component", 1.0), ("determinant_cost", 1e-3))
        ]
        for method, start in (("exact", "global"), ("cayley", "weights"), ("cayley", "identity")):
            is_best = start in (best, "global")
            values = {
                "weight_max_mse": largest[seed] if method == "exact" else 0.005 if is_best else 0.009,
                "activation_nmse": 0.55,
                "objective": 0.1 if is_best else 0.3,
            }
            for metric in (
                *values,
                "weight_global_mse",
                "from_weights",
                "from_activations",
                "determinant",
                "excess",
            ):
                line = {"method": method, "start": start, "metric": metric, "value": values.get(metric, 1.0)}
                rows.append({**at, **line})
        records.append(Record(str(seed), "joint_alignment", {**CONFIG, "seed": seed}, rows, 1.0, {}, 1))
    module = experiment_module("joint_alignment")
    return module.pivot(module.tabulate(records))


@pytest.mark.parametrize("best", ["weights", "identity"])
def test_b10_leads_with_what_lies_between_the_optima_and_counts_in_thresholds(best):
    (row,) = experiment_module("joint_alignment").summary(b10([0.0049, 0.0049], best)).to_dict("records")
    assert list(row)[:5] == ["cohort", "λ", "barrier", "same", "other"]
    assert row["P"] == "49 [49, 49]" and row["Adam"] == "50" and row["activations"] == "0.550"
    assert row["paper"] == "2800" and row["n"] == 2


def test_b10_shows_whether_bar_p_passes():
    (row,) = experiment_module("joint_alignment").summary(b10([1.3e-4, 1.5e-4])).to_dict("records")
    assert row["P"] == "1.4 [0.13, 2.7]", "half a width: 12.7 (Student, one degree) × 0.1"


def test_b3_counts_the_seeds_on_which_patching_has_the_wrong_sign():
    records = []
    for seed, patching in enumerate((-0.5, 0.3, -0.2)):
        rows = [
            {"cohort": "A", "predictor": predictor, "metric": "predictor_pearson", "value": value}
            for predictor, value in (("integrated_gradients", 0.9), ("attribution_patching", patching))
        ]
        rows.append({"cohort": "A", "metric": "cross_entropy", "value": 1.0})
        records.append(Record(str(seed), "patching", {**CONFIG, "seed": seed}, rows, 1.0, {}, 1))
    module = experiment_module("ig_vs_ap")
    (row,) = module.summary(module.pivot(module.tabulate(records))).to_dict("records")
    assert row["< 0"] == "2 of 3" and row["paper"] == "0.9997 vs 3 of 5 < 0"


def test_b9_names_the_sae_of_every_line():
    at = {"cohort": "B", "source": 50.0, "site": "resid_mid_1", "step": 100.0}
    rows = [
        {**at, "group": group, "route": "endpoint", "metric": "explained_variance_by_step", "value": value}
        for group, value in (("self", 0.9), ("identity", -0.5), ("orthogonal", 0.8))
    ]
    rows += [{**at, "site": "", "step": step, "metric": "loss", "value": 1.0} for step in (50.0, 100.0)]
    config = {
        "profile": "mini", "seed": 0, "model": {"name": "dyck3"}, "gauge": "orthogonal",
        "matcher": "procrustes", "route": "endpoint",
    }  # fmt: skip
    saes = {"checkpoints": "topk", "relu_l1": "standard"}
    records = [
        Record(
            name,
            "checkpoints",
            {**config, "setting": name, "task": {"sae": {"architecture": sae}}},
            rows,
            1.0,
            {},
            1,
        )
        for name, sae in saes.items()
    ]
    module = experiment_module("checkpoints")
    wide = module.pivot(module.tabulate(records))
    lines = wide[wide["site"] == "resid_mid_1"]
    assert dict(zip(lines["setting"], lines["SAE"], strict=True)) == {
        "checkpoints": "TopK",
        "relu_l1": "ReLU",
    }
