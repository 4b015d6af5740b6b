"""Jobs of tables b3 and b12 on language models at smoke size."""

import pytest

from gaugeport.pipeline.paths import experiment_module
from gaugeport.pipeline.report.claims import load_claims
from gaugeport.pipeline.rotation.models.block_effects import ABLATED
from gaugeport.pipeline.store.store import Store
from gaugeport.pipeline.tasks import blocks, independence
from smoke_jobs import measured, smoke_job


def test_job_of_table_b3_has_effects_predictions_and_completeness_errors(tmp_path):
    job = smoke_job("ig_vs_ap")
    assert blocks.TASK.stages(job) == ("data", "pretraining")
    rows = measured(job, Store(tmp_path))
    assert {r["cohort"] for r in rows} == {"seeds"}
    effects = {(r["ablated"], r["component"], r.get("predictor")) for r in rows if r["metric"] == "effect"}
    predictors = (None, "integrated_gradients", "attribution_patching")
    assert effects == {(a, f"block{n}", p) for a in ABLATED for n in (0, 1) for p in predictors}
    (loss,) = [r["value"] for r in rows if r["metric"] == "cross_entropy"]
    assert 1 < loss < 8
    for ablated in ABLATED:
        errors = [r["value"] for r in rows if r["metric"] == "completeness_error" and r["ablated"] == ablated]
        assert len(errors) == 2 and errors[1] < 1e-3


def test_table_b3_takes_language_models_only():
    toy = ("task.cohort=A", "model=dyck3", "data=dyck3", "training=dyck3", "data.length=64")
    with pytest.raises(ValueError, match=r"Dyck-3 models .*; allowed: seeds, runs, or task=patching"):
        blocks.TASK.check(smoke_job("ig_vs_ap", *toy))
    runs = smoke_job("ig_vs_ap", "task.cohort=runs")
    blocks.TASK.check(runs)
    assert blocks.TASK.stages(runs) == ("data", "base", "B")


def test_papers_correlations_follow_from_its_own_rows():
    """The text of appendix D lost them; section 3.3 calls attribution patching far too small."""
    module = experiment_module("ig_vs_ap")
    ig, ap = (module.paper_pearson(p) for p in ("integrated_gradients", "attribution_patching"))
    assert ig == pytest.approx(0.982, abs=5e-4) and ap == pytest.approx(0.052, abs=5e-4)
    (claim,) = [c for c in load_claims() if c.id == "b3.ig_over_ap_language"]
    assert claim.paper == pytest.approx(ig - ap, abs=5e-4) and claim.quote.startswith(f"{ig:.3f} vs {ap:.3f}")


def test_job_of_table_b12_calls_seeds_independent_and_own_checkpoints_not(tmp_path):
    rows = measured(smoke_job("checkpoint_independence", "seed=1"), Store(tmp_path))
    verdicts = {(r["compared"], r.get("step")): r["status"] for r in rows if r["metric"] == "independent"}
    assert verdicts["models", None] == verdicts["initialisations", None] == "independent"
    own = {step: verdict for (compared, step), verdict in verdicts.items() if compared == "own checkpoint"}
    assert set(own) == {10, 20, 30}
    assert own[20] == "of one run or initialisation" and own[30] == "duplicates"
    distances = {r["end"]: r["value"] for r in rows if r["metric"] == "distance_to_start"}
    assert set(distances) == {"anchor", "other"} and all(0 < v < 10 for v in distances.values())
    (update,) = [r["value"] for r in rows if r["metric"] == "update_cosine"]
    assert -0.5 < update < 0.5 and len({r["digest"] for r in rows}) == 1


def test_table_b12_refuses_the_anchor_itself_and_bad_cosines():
    with pytest.raises(
        ValueError, match=r"compares a seed with seed 0 of its cohort .*allowed: any other, seed=1"
    ):
        independence.TASK.stages(smoke_job("checkpoint_independence"))
    with pytest.raises(ValueError, match=r"largest_cosine=2\.0; allowed: a cosine between 0 and 1"):
        independence.TASK.check(smoke_job("checkpoint_independence", "seed=1", "task.largest_cosine=2"))
