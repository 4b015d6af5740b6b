"""SAE jobs: all conditions share one SAE, and there must be enough held-out tokens."""

import pytest

from gaugeport.pipeline.store.store import Store
from smoke_jobs import measured, smoke_job


def values(rows):
    return {r["metric"]: r["value"] for r in rows}


def job(*overrides):
    return smoke_job("sae_transfer", "route=endpoint", *overrides)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A store of its own, since a test counts what is built."""
    return Store(tmp_path_factory.mktemp("store"))


def test_all_conditions_share_one_sae(store):
    conditions = {
        "oracle": ["matcher=oracle"],
        "B_d": ["matcher=hungarian_abs"],
        "S_d": ["gauge=permutation", "matcher=hungarian_abs"],
        "O(d)": ["gauge=orthogonal", "matcher=procrustes"],
        "drifted": ["matcher=oracle", "task.target=finetuned"],
    }
    rows = {name: measured(job(*overrides), store) for name, overrides in conditions.items()}
    metrics = {name: values(r) for name, r in rows.items()}
    built = (store.root / "built.log").read_text().split()[::2]
    assert built.count("sae") == 1 and built.count("run") == 2
    assert all(r["architecture"] == "topk" and r["site"] == "block1" for name in rows for r in rows[name])
    assert metrics["B_d"]["signed_accuracy"] == 1 and metrics["B_d"]["nmse"] == metrics["oracle"]["nmse"]
    assert metrics["oracle"]["nmse_to_oracle"] == 0 == metrics["drifted"]["nmse_to_oracle"]
    assert metrics["O(d)"]["nmse_to_oracle"] < 1e-3, (
        "full-rank moments of a copy determine the rotation, to rounding"
    )
    assert metrics["S_d"]["nmse_to_oracle"] > 0.1 and "nmse_plants_sd" in metrics["S_d"]
    assert metrics["drifted"]["loss_A"] != metrics["drifted"]["loss_B"]
    assert metrics["oracle"]["nmse_native"] == metrics["drifted"]["nmse_native"] != metrics["drifted"]["nmse"]
    assert {"ce_recovered", "ce_clean", "l0", "dead_latents", "nmse_first_token", "loss_A"} <= set(
        metrics["S_d"]
    )


def test_too_many_tokens_are_refused(store):
    with pytest.raises(ValueError, match=r"task.tokens=10000000 .*allowed: 1 to \d+ rows"):
        measured(job("task.tokens=10000000"), store)
