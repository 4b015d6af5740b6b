"""Jobs that resume AdamW: the step they resume from, the rows they see, and settings that are refused."""

import pytest
import torch

from gaugeport.models.loading import load_model
from gaugeport.pipeline.config.compose import compose_config, from_config
from gaugeport.pipeline.stages import runs
from gaugeport.pipeline.stages.catalogue import build_stage
from gaugeport.pipeline.stages.stage import Built
from gaugeport.pipeline.store.store import Store
from gaugeport.pipeline.tasks import adamw_resume
from gaugeport.pipeline.training.trainer import checkpoints


def job(*overrides):
    return from_config(compose_config(["profile=smoke", "experiment=adamw_resume", *overrides]), ()).job


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("task.resume_step=7", "resume_step=7.*allowed: 5, 10, 15"),
        ("task.resume_step=20", "no step left; allowed: 5, 10, 15"),
        ("training.run.save_every=50", "allowed: none"),
        ("task.steps=0", "task.steps=0; allowed: a positive number"),
        ("task.target=finetuned", "task.target='finetuned'; allowed: self, identical"),
        ("task.at=[1,0]", "task.at=.*allowed: positive numbers of steps"),
        (
            "training.run.moments=[5]",
            "moments=.5.: run A is resumed from step 10.*allowed: null, or a list with",
        ),
        ("+model.architecture.attention_dropout=0.1", "attention_dropout=0.1.*allowed: 0"),
    ],
)
def test_bad_settings_are_refused_before_anything_is_built(override, message):
    with pytest.raises(ValueError, match=message):
        job(override)


def test_default_step_to_resume_from():
    assert adamw_resume.resume_step(job()) == 10, "the last checkpoint in the first two thirds of 20 steps"
    assert adamw_resume.resume_step(job("task.resume_step=15")) == 15
    assert adamw_resume.TASK.stages(job()) == ("data", "base", "A")
    on_its_own = job("task.target=self")
    assert adamw_resume.resume_step(on_its_own) == 19, "the default of 20, in a run of 20 steps"
    assert adamw_resume.TASK.stages(on_its_own) == ("data", "base"), "no run is trained"


def test_job_continues_with_the_rows_of_its_run(tmp_path, monkeypatch):
    """It does not use run B's rows, and it deletes its scratch folder, also one that a killed job left."""
    store, rows_given, resumed = Store(tmp_path), {}, {}
    data = build_stage(job(), store, "data")

    def record_rows(model, rows, *args, **options):
        rows_given[len(rows_given)] = rows

    # 1) record the rows that runs A and B are trained on
    monkeypatch.setattr(runs, "load_model", lambda *a, **k: None)
    monkeypatch.setattr(runs, "train", record_rows)
    for run in ("A", "B"):
        runs.build_run(job(), {"data": data, "base": None}, tmp_path, run)
    built = Built({"data": data, "A": None}, store)

    def record_job(checkpoint, rows, *_, scratch, **options):
        resumed.update(options, rows=rows, scratch=scratch, leftovers=list(scratch.iterdir()))
        return []

    # 2) resume run A, then once more after a job was killed
    monkeypatch.setattr(adamw_resume, "checkpoints", lambda folder: {10: tmp_path})
    monkeypatch.setattr(adamw_resume, "adamw_resume_rows", record_job)
    with pytest.raises(ValueError, match=r"has no AdamW moments.*another training.run.moments; delete"):
        adamw_resume.measure(job(), built)
    (tmp_path / "optimizer.pt").touch()
    assert adamw_resume.measure(job(), built) == []
    (resumed["scratch"] / "half written").mkdir(parents=True)
    assert adamw_resume.measure(job(), built) == [] and resumed["leftovers"] == []
    assert torch.equal(resumed["rows"], rows_given[0]) and not torch.equal(resumed["rows"], rows_given[1])
    assert adamw_resume.measure(job("task.steps=99"), built) == []
    assert resumed["steps"] == 10, "the steps that the run has left"
    assert not resumed["scratch"].exists(), "the scratch folder is deleted"


def test_self_resumes_where_run_a_would_be_after_its_first_steps(store, tmp_path):
    one = job("task.target=self", "task.resume_step=5", "task.steps=2", "task.at=[1]")
    folders = {name: build_stage(one, store, name) for name in ("data", "base", "A")}
    rows = runs.run_rows(one, folders["data"], "A")
    first = load_model(adamw_resume._first_steps(one, folders["base"], rows, tmp_path))
    of_run = load_model(checkpoints(folders["A"])[5])
    for p, q in zip(first.parameters(), of_run.parameters(), strict=True):
        assert torch.equal(p, q)

    measured = adamw_resume.measure(one, Built(folders, store))
    divergence = {r["arm"]: r["value"] for r in measured if r["metric"] == "divergence" and r["step"] == 2}
    assert divergence["sign_only"] == 0 and divergence["permutation_only"] > 0.1 > divergence["signed"]
    assert {(r["target"], r["resume_step"]) for r in measured} == {("self", 5)}
