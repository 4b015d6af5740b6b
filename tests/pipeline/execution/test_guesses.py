"""What was never timed on a user's model is guessed from its size, and said before anything starts."""

import pytest

from gaugeport.pipeline.config.sweeps import sweep_jobs
from gaugeport.pipeline.execution import guesses
from gaugeport.pipeline.execution.plan import plan
from gaugeport.pipeline.execution.progress import Progress
from gaugeport.pipeline.execution.timings import Timings
from tiny_folders import model, write_model

KEPT = {
    "mini": {"stage run": [90.0], "stage sae": [20.0], "mini sae": [2.0], "mini sae qwen": [4.0]},
    "real": {"stage run": [5400.0], "stage sae": [20.0], "real sae smollm2": [300.0]},
}


@pytest.fixture
def kept(monkeypatch):
    monkeypatch.setattr(guesses, "_kept", KEPT.__getitem__)


@pytest.fixture
def job(tmp_path):
    folder = write_model(model(), tmp_path / "own")
    overrides = [f"model.path={folder}", "task=sae", "profile=smoke", f"paths.outputs={tmp_path / 'out'}"]
    return sweep_jobs([*overrides, "tracker=none"])


def test_parameters_are_counted_in_headers(job):
    (spec,) = job
    assert guesses.parameters_of(spec.job) == sum(p.numel() for p in model().parameters())
    smollm2, here = (sweep_jobs([f"model={m}", "profile=smoke"])[0].job for m in ("smollm2", "qwen"))
    assert guesses.parameters_of(smollm2) == guesses.SMOLLM2 and guesses.parameters_of(here) is None


def test_larger_models_take_longer_and_the_nearest_size_counts(kept):
    run, sae, task = {"kind": "run"}, {"kind": "sae"}, {"task": {"name": "sae"}}
    assert guesses.guess(run, guesses.SMOLLM2) == 5400.0
    assert guesses.guess(run, 16 * guesses.SMOLLM2) == pytest.approx(8 * 5400.0)
    assert guesses.guess(sae, guesses.MEASURED_ON["mini"]) == 20.0, "real has the seconds of mini there"
    assert guesses.guess(task, guesses.SMOLLM2) == 300.0
    assert guesses.guess({"kind": "dyck"}, 10) is None


def test_guess_is_said_before_anything_starts_and_gives_way_to_timings(job, kept, monkeypatch, capsys):
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setattr(guesses, "parameters_of", lambda job: 8 * guesses.SMOLLM2)
    monkeypatch.setattr("gaugeport.pipeline.execution.plan.parameters_of", guesses.parameters_of)
    todo = plan(job)
    Progress(todo, 1)
    said = capsys.readouterr().err
    assert "to do: 1 job and 3 stages; about " in said and "left, guessed from the size of the model" in said
    timings = Timings({})
    step = todo.steps[next(iter(todo.needs))]
    assert timings.are_guesses([step]) and timings.text(step) == "24 min"  # 300 s times 8 to the power 0.75
    timings.add(step.shape, 7.0)
    assert not timings.are_guesses([step]) and timings.text(step) == "7 s"


def test_stage_of_another_size_is_no_timing(job, kept):
    timings = Timings({"stage sae": [9.0], "stage data": [1.0]})
    steps = {s.stage: s for s in plan(job).steps.values()}
    assert timings.of(steps["data"].shape, steps["data"].parameters) == 1.0
    own = guesses.parameters_of(job[0].job)
    assert timings.of(steps["sae"].shape, own) == guesses.guess({"kind": "sae"}, own) < 9.0
