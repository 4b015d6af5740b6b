"""Groups of jobs run side by side, their parts in order, and a group ends where its model cannot be had."""

import os
from types import SimpleNamespace

import pytest

from gaugeport.pipeline.config.compose import compose_config, from_config
from gaugeport.pipeline.execution import side_by_side
from gaugeport.pipeline.execution.side_by_side import run_side_by_side
from gaugeport.pipeline.job import job_id
from gaugeport.pipeline.store.records import has_record
from tiny_gguf import offline_pip


@pytest.mark.parametrize("processes", [1, 2])
def test_groups_run_and_one_ends_with_its_model(processes, tmp_path, monkeypatch):
    for name, value in offline_pip(tmp_path / "empty").items():
        monkeypatch.setenv(name, value)

    fine = [[spec(tmp_path, "task.families=[llama]", f"seed={seed}")] for seed in (0, 1)]
    own = ["model=smollm2", "task.families=[model]"]
    out_of_reach = [[spec(tmp_path, *own, f"seed={seed}")] for seed in (0, 1)]
    calls, failures = [], []
    run_side_by_side([out_of_reach, fine], processes, lambda: calls.append(1), failures.append)
    assert calls and sorted(map(len, failures)) == [0, 1], "the second part of the first group is not tried"
    done = [has_record(tmp_path / "records", job_id(c.job)) for (c,) in (*out_of_reach, *fine)]
    assert done == [False, False, True, True]


class Killer:
    """Ends the process that it is unpickled in, as the system does to one that takes too much memory."""

    def __reduce__(self):
        return os._exit, (9,)


def test_killed_process_is_a_failure_and_the_other_groups_run(tmp_path, monkeypatch):
    fine = [[spec(tmp_path, "task.families=[llama]", "seed=0")]]
    step = SimpleNamespace(done=False)
    monkeypatch.setattr(side_by_side, "plan", lambda jobs: SimpleNamespace(steps={"killed": step}))
    failures = []
    run_side_by_side([[[Killer()]], fine], 2, lambda: None, failures.extend)
    (failure,) = failures
    assert failure.step is step and "out of memory" in failure.error.message
    assert has_record(tmp_path / "records", job_id(fine[0][0].job))


def spec(outputs, *overrides):
    """Compose a job of table a1 at smoke size."""
    chosen = ["task=gauge_groups", "profile=smoke", "tracker=none", f"paths.outputs={outputs}", *overrides]
    return from_config(compose_config(chosen), chosen)
