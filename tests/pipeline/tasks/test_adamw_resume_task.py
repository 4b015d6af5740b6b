"""Jobs that resume AdamW: the step they resume from, the rows they see, and settings that are refused."""

import pytest
import torch

from gaugeport.pipeline.config.compose import compose_config, from_config
from gaugeport.pipeline.stages import runs
from gaugeport.pipeline.stages.catalogue import build_stage
from gaugeport.pipeline.stages.stage import Built
from gaugeport.pipeline.store.store import Store
from gaugeport.pipeline.tasks import adamw_resume


def job(*overrides):
    return from_config(compose_config(["profile=smoke", "experiment=adamw_resume", *overrides]), ()).job


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("task.resume_step=7", "resume_step=7.*allowed: 5, 10, 15"),
        ("task.resume_step=20", "no step left; allowed: 5, 10, 15"),
        ("training.run.save_every=50", "allowed: none"),
        ("task.steps=0", "task.steps=0; allowed: a positive number"),
        ("task.at=[1,0]", "task.at=.*allowed: positive numbers of steps"),
        ("+model.architecture.attention_dropout=0.1", "attention_dropout=0.1.*allowed: 0"),
    ],
)
def test_bad_settings_are_refused_before_anything_is_built(override, words):
    with pytest.raises(ValueError, match=words):
        job(override)


def test_default_step_to_resume_from():
    assert adamw_resume.resume_step(job()) == 10, "the last checkpoint in the first two thirds of 20 steps"
    assert adamw_resume.resume_step(job("task.resume_step=15")) == 15
    assert adamw_resume.TASK.stages(job()) == ("data", "base", "A")


def test_job_continues_with_the_rows_of_its_run(tmp_path, monkeypatch):
    """It does not use run B's rows, and it deletes its scratch folder, also one that a killed job left."""
    given, store, seen = {}, Store(tmp_path), {}
    data = build_stage(job(), store, "data")
    monkeypatch.setattr(runs, "load_model", lambda *a, **k: None)
    monkeypatch.setattr(runs, "train", lambda model, order, *a, **k: given.setdefault(len(given), order))
    for run in ("A", "B"):
        runs.build_run(job(), {"data": data, "base": None}, tmp_path, run)
    built = Built({"data": data, "A": None}, store)

    def measured(checkpoint, order, *_, scratch, **options):
        seen.update(options, rows=order, scratch=scratch, found=list(scratch.iterdir()))
        return []

    monkeypatch.setattr(adamw_resume, "checkpoints", lambda folder: {10: tmp_path})
    monkeypatch.setattr(adamw_resume, "adamw_resume_rows", measured)
    assert adamw_resume.measure(job(), built) == []
    (seen["scratch"] / "half written").mkdir(parents=True)
    assert adamw_resume.measure(job(), built) == [] and seen["found"] == []
    assert torch.equal(seen["rows"], given[0]) and not torch.equal(seen["rows"], given[1])
    assert adamw_resume.measure(job("task.steps=99"), built) == [] and seen["steps"] == 10, (
        "the steps that the run has left"
    )
    assert not seen["scratch"].exists(), "the scratch folder is deleted"
