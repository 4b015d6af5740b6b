"""Jobs of tables are kept once composed, and composed again when anything that decides them changes."""

import pytest

from gaugeport.pipeline.config import stored_jobs, sweeps
from gaugeport.pipeline.config.experiments import experiment


@pytest.fixture
def outputs(tmp_path):
    return tmp_path / "outputs"


def jobs(outputs, *extra, name="trajectory", headline=False):
    overrides = ["tracker=none", f"paths.outputs={outputs}", *extra]
    return stored_jobs.jobs_of(experiment(name), "smoke", headline, overrides)


@pytest.fixture
def no_composing(monkeypatch):
    def refuse(*arguments):
        raise AssertionError("composed again")

    return lambda: monkeypatch.setattr(sweeps, "jobs_of", refuse)


@pytest.mark.parametrize("name", ["trajectory", "joint_alignment", "steering_regimes", "haar"])
def test_kept_jobs_equal_composed_ones(outputs, no_composing, name):
    extra = ["tracker=none", f"paths.outputs={outputs}"]
    composed = sweeps.jobs_of(experiment(name), "smoke", False, extra)
    assert jobs(outputs, name=name) == composed
    no_composing()
    kept = jobs(outputs, name=name)
    assert kept == composed and [s.job.hash({}) for s in kept] == [s.job.hash({}) for s in composed]


def test_other_overrides_and_code_are_composed_anew(outputs, monkeypatch, no_composing):
    plain = jobs(outputs)
    assert jobs(outputs, "measurement.tokens=999") != plain
    assert len(jobs(outputs, headline=True)) < len(plain)
    no_composing()
    assert jobs(outputs) == plain
    monkeypatch.setattr(stored_jobs, "_code", lambda: "another version")
    with pytest.raises(AssertionError, match="composed again"):
        jobs(outputs)


@pytest.mark.parametrize("text", ["", "{", "{}", '{"key": 1, "jobs": []}'])
def test_damaged_file_is_replaced(outputs, text):
    plain = jobs(outputs)
    (path,) = (outputs / "jobs").glob("*.json")
    path.write_text(text)
    assert jobs(outputs) == plain
    assert path.read_text().startswith('{"key": "')


def test_jobs_on_local_files_are_not_kept(outputs, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("a line\n")
    assert jobs(outputs, "data=text", f"data.path={text}")
    assert not list((outputs / "jobs").glob("*.json"))


def test_nothing_is_kept_where_not_asked_for(outputs):
    extra = ["tracker=none", f"paths.outputs={outputs}"]
    assert stored_jobs.jobs_of(experiment("trajectory"), "smoke", False, extra, keep=False)
    assert not outputs.exists()


def test_errors_are_raised_each_time(outputs):
    for _ in range(2):
        with pytest.raises(ValueError, match="no_such_key"):
            jobs(outputs, "no_such_key=1")
