"""Groups of jobs run side by side, their parts in order, and a group ends where its model cannot be had."""

import pytest

from gaugeport.pipeline.config.compose import compose_config, from_config
from gaugeport.pipeline.execution.side_by_side import run_side_by_side
from gaugeport.pipeline.job import job_id
from gaugeport.pipeline.store.records import has_record
from tiny_gguf import offline_pip


@pytest.mark.parametrize("processes", [1, 2])
def test_groups_run_and_one_ends_with_its_model(processes, tmp_path, monkeypatch):
    for name, value in offline_pip(tmp_path / "empty").items():
        monkeypatch.setenv(name, value)

    def spec(*overrides):
        chosen = [
            "task=gauge_groups",
            "profile=smoke",
            "tracker=none",
            f"paths.outputs={tmp_path}",
            *overrides,
        ]
        return from_config(compose_config(chosen), chosen)

    fine = [[spec("task.families=[llama]", f"seed={seed}")] for seed in (0, 1)]
    out_of_reach = [[spec("model=smollm2", "task.families=[model]", f"seed={seed}")] for seed in (0, 1)]
    calls, failures = [], []
    run_side_by_side([out_of_reach, fine], processes, lambda: calls.append(1), failures.append)
    assert calls and sorted(map(len, failures)) == [0, 1], "the second part of the first group is not tried"
    done = [has_record(tmp_path / "records", job_id(c.job)) for (c,) in (*out_of_reach, *fine)]
    assert done == [False, False, True, True]
