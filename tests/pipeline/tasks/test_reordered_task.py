"""Weights place the coordinates, neurons and heads of two runs in any order."""

import pytest

from smoke_jobs import measured, smoke_job

LLAMA = ("task=reordered", "gauge=signed_permutation", "matcher=weights", "route=endpoint")
NEOX = (
    "task=reordered",
    "model=pythia",
    "gauge=global_sign_permutation",
    "matcher=weights",
    "route=endpoint",
)


@pytest.mark.parametrize("overrides", [LLAMA, NEOX], ids=["llama", "gpt_neox"])
def test_everything_is_placed_between_runs_that_stay_near_their_base(overrides, store):
    rows = measured(smoke_job("evidence", *overrides, "training.run.lr=1e-4"), store)
    value = {(r["evidence"], r["metric"]): r["value"] for r in rows}
    for metric in ("signed_accuracy", "neurons_right", "heads_right"):
        assert value["weights_any_order", metric] == 1, metric
    assert ("weights_row_by_row", "signed_accuracy") in value


@pytest.mark.parametrize("override", ["matcher=hungarian_abs", "route=trajectory", "task.orders=0"])
def test_other_settings_are_refused(override):
    with pytest.raises(
        ValueError, match=r"task=reordered with|task\.orders=0; allowed: whole numbers from 1"
    ):
        smoke_job("evidence", *LLAMA, override)
