"""What leads tables b1, b9 and b10: the depth that a decoy leaves alone, whose SAE a line is of, and what
lies between two optima."""

import pandas as pd
import pytest

from gaugeport.pipeline.paths import experiment_module
from gaugeport.pipeline.store.records import Record


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


@pytest.mark.parametrize("best", ["weights", "identity"])
def test_b10_leads_with_what_lies_between_the_optima_and_counts_in_thresholds(best):
    path = {"barrier": "0.0e+00", "same determinant": "0.60", "cost of the other": "1.0e-03", "n": 5}
    exact = {
        "P": "4.86e-03 [3.70e-03, 6.02e-03]",
        "activations": "5.50e-01 [5e-01, 6e-01]",
        "objective": "0.1",
    }
    lines = [{"method": "exact", "start": "global", "paper's P": "–", **exact}]
    for start in ("weights", "identity"):
        P, loss = ("5.00e-03 [4e-03, 6e-03]", "1.0e-01 [0.1, 0.2]") if start == best else ("9.00e-03", "0.3")
        paper = "0.280" if start == "weights" else "–"
        lines.append(
            {**exact, "method": "cayley", "start": start, "paper's P": paper, "P": P, "objective": loss}
        )
    wide = pd.DataFrame([{"cohort": "A", "λ": "0", **path, **line} for line in lines])
    (row,) = experiment_module("joint_alignment").summary(wide).to_dict("records")
    assert list(row)[:5] == ["cohort", "λ", "barrier", "same", "other"]
    assert row["P"] == "49 [37, 60]" and row["Adam"] == "50" and row["activations"] == "0.550"
    assert row["paper"] == "2800"
    near = wide.assign(P="1.4e-04 [6e-05, 2.2e-04]")
    (row,) = experiment_module("joint_alignment").summary(near).to_dict("records")
    assert row["P"] == "1.4 [0.6, 2.2]", "whether it passes is visible"


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
