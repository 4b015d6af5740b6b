"""Test which stages and jobs are planned, how their times are estimated, and what is said of long ones."""

import json
import os
import shutil
import time

import pytest

from gaugeport.pipeline.config.sweeps import sweep_jobs
from gaugeport.pipeline.execution import progress
from gaugeport.pipeline.execution.plan import JOBS, plan, plan_stage
from gaugeport.pipeline.execution.timings import Timings, shapes
from gaugeport.pipeline.store.store import Store
from gaugeport.utils.progress import clock

SWEEP = ["profile=smoke", "tracker=none", "route=endpoint,via_base", "seed=0,1"]


def jobs(tmp_path, *more):
    return sweep_jobs([*SWEEP, f"paths.outputs={tmp_path}", *more])


def build(step, seconds=2.0):
    """Write the stage or record of a step, and how long it took."""
    if step.stage is not None:
        config = {k: v for k, v in step.shape.items() if k != "kind"}
        Store(step.composed.outputs / "store").ensure(step.shape["kind"], config, lambda folder: None)
    content = json.loads(step.result.read_text()) if step.result.exists() else {"config": step.shape}
    step.result.parent.mkdir(parents=True, exist_ok=True)
    step.result.write_text(json.dumps({**content, "seconds": seconds}))


def test_shared_stages_are_planned_once_in_build_order(tmp_path):
    todo = plan(jobs(tmp_path))
    assert [s.stage for s in todo.steps.values()] == [
        "data",
        *["base"] * 2,
        *["A"] * 2,
        *["B"] * 2,
        *["evidence"] * 2,
        *[None] * 4,
    ]
    assert len(todo.needs) == len(todo.wave(JOBS)) == 4
    build(next(iter(todo.steps.values())))
    left = [s.stage for s in plan(jobs(tmp_path)).steps.values()]
    assert "data" not in left, "a stage that is built is not planned"


def test_steps_that_require_failed_stage_are_skipped(tmp_path):
    todo = plan(jobs(tmp_path))
    failed = next(key for key, s in todo.steps.items() if s.stage == "base" and s.composed.job.seed == 1)
    left = todo.without([failed])
    assert {s.composed.job.seed for s in left.steps.values()} == {0} and len(left.needs) == 2


def test_one_stage_needs_those_it_requires_and_no_job(tmp_path):
    spec, *_ = jobs(tmp_path)
    todo = plan_stage(spec, "A")
    assert [s.stage for s in todo.steps.values()] == ["data", "base", "A"] and not todo.wave(JOBS)
    data, base, run = todo.steps
    assert todo.without([data]).steps == {} and todo.without([]).steps.keys() == {data, base, run}
    for step in todo.steps.values():
        build(step)
    shutil.rmtree(todo.steps[base].result.parent)
    assert plan_stage(spec, "A").steps == {}, "what is built requires nothing"


def test_time_comes_from_same_shape_else_same_kind(tmp_path):
    todo = plan(jobs(tmp_path))
    timings = Timings.recorded(tmp_path)
    timings.reference = {}
    bases = [s for s in todo.steps.values() if s.stage == "base"]
    assert timings.of(bases[0].shape) is None and timings.total(bases) == "2 never timed"
    build(bases[0], seconds=90.0)
    timings = Timings.recorded(tmp_path)
    assert timings.of(bases[1].shape) == 90.0, "the time of another seed"
    assert timings.total(bases, processes=2) == "about 2 min"
    steps_of_wider = plan(jobs(tmp_path, "model.architecture.hidden_size=64", "seed=0")).steps.values()
    (wider,) = [s for s in steps_of_wider if s.stage == "base"]
    assert timings.of(wider.shape) == 90.0, "the time of another model, if there is none of its own"
    timings.add(wider.shape, 200.0)
    assert timings.of(wider.shape) == 200.0 and timings.of(bases[1].shape) == 90.0


def test_job_on_a_pretrained_model_gets_no_time_of_a_model_trained_here(tmp_path):
    timings = Timings({})
    here, pretrained = (
        sweep_jobs(["profile=smoke", "task=indices", f"model={m}"])[0].job.key() for m in ("qwen", "smollm2")
    )
    timings.add(here, 3.0)
    assert timings.of(sweep_jobs(["profile=smoke", "task=indices"])[0].job.key()) == 3.0
    assert timings.of(pretrained) is None
    timings.add(pretrained, 100.0)
    assert timings.of(pretrained) == 100.0


def test_clock_rounds_to_readable_units():
    assert [clock(s) for s in (0.4, 89, 91, 5340, 5460, 3 * 3600 + 300)] == [
        "0 s",
        "89 s",
        "2 min",
        "89 min",
        "1 h 31 min",
        "3 h 05 min",
    ]


def test_long_steps_get_lines_until_they_are_done(tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setattr(progress, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.05)
    todo = plan(jobs(tmp_path))
    runs = [s for s in todo.steps.values() if s.stage == "A"]
    for step in (5, 10):
        (runs[0].unfinished / f"checkpoint-{step}").mkdir(parents=True)
    lines = progress.Progress(todo, processes=2)
    with lines.watch("runs", runs):
        time.sleep(0.3)
    said = capsys.readouterr().err
    assert (
        "runs 0/2 · run A of tinyllama, seed 0, step 10 of 20; run A of tinyllama, seed 1 · 0 s so far"
        in said
    )
    lines.timings.reference, lines.timings.seconds = {}, {}
    for step in todo.steps.values():
        lines.timings.seconds |= {shape: [60.0] for shape in shapes(step.shape)}
    assert lines.left() == "about 6 min left" and lines.left(waited=90.0) == "about 5 min left"
    assert lines.left(waited=2000.0) == "longer than expected"
    # at 20 s a step the ten steps that are left take 200 s, 50 of which have passed
    log = [{"step": 5, "seconds": 30.0}, {"step": 5, "heldout_accuracy": {}}, {"step": 10, "seconds": 130.0}]
    state, now = runs[0].unfinished / "checkpoint-10" / "trainer_state.json", time.time()
    state.write_text(json.dumps({"log_history": log}))
    os.utime(state, (now - 50, now - 50))
    assert progress.training_left(runs[0], now - 500) == pytest.approx(150.0, abs=10.0)
    assert progress.training_left(runs[0], now - 20) == pytest.approx(180.0, abs=10.0), "gone on from then"
    assert progress.training_left(runs[1], now) == 0.0, "nothing is known of it"
    assert lines.left(waited=2000.0).startswith("about ")
    state.write_text(json.dumps({"log_history": log[:2]}))
    assert progress.training_left(runs[0], now) == 0.0, "one line says nothing of the pace"
