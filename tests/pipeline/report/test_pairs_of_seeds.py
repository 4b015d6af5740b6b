"""Pairs of seeds that share a seed stay apart in table b2, and one seed has no mean."""

import pytest

from gaugeport.pipeline.paths import experiment_module
from gaugeport.pipeline.store.records import Record

CONFIG = {
    "profile": "toy", "setting": "default", "model": {"name": "dyck3"}, "gauge": "orthogonal",
    "matcher": "procrustes", "route": "endpoint",
}  # fmt: skip


def pair(anchor, seed, mlp, rest):
    """Return the record of a pair: its largest mean squared difference, of the last MLP and of the rest."""
    here = {"cohort": "A", "alignment": "cayley"}
    rows = [
        {**here, "metric": "bar_p_tensor", "tensor": "model.layers.1.mlp.up_proj.weight", "value": mlp},
        {**here, "metric": "bar_p_tensor", "tensor": "lm_head.weight", "value": rest},
        {**here, "metric": "bar_p_max_mse", "value": max(mlp, rest), "status": "FAIL"},
    ]
    config = {**CONFIG, "seed": seed, "task": {"anchor": anchor}}
    return Record(f"{anchor}-{seed}", "cross_seed", config, rows, 1.0, {}, 1)


@pytest.fixture(scope="module")
def module():
    return experiment_module("bars_cross_seed")


def test_pairs_with_one_second_seed_have_a_line_each(module):
    table = module.tabulate([pair(0, 2, mlp=0.1, rest=0.2), pair(1, 2, mlp=0.4, rest=0.1)])
    wide = module.pivot(table)
    cells = dict(zip(wide["pair"], wide["P, O(d), Cayley"], strict=True))
    assert (cells["0, 2"], cells["1, 2"]) == ("0.2 FAIL", "0.4 FAIL")
    ratios = table[(table["metric"] == "bar_p_last_mlp_over_rest") & table["seed"].notna()]
    assert dict(zip(ratios["anchor"], ratios["value"], strict=True)) == pytest.approx({0: 0.5, 1: 4.0})


def test_one_pair_has_no_mean(module):
    wide = module.pivot(module.tabulate([pair(0, 1, mlp=0.1, rest=0.2)]))
    assert list(wide["pair"]) == ["0, 1", "paper"]
