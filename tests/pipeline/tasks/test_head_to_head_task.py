"""Jobs that compare groups: the rows they fit on and measure on."""

from types import SimpleNamespace

import pytest
import torch

from gaugeport.pipeline.config.compose import compose_config, from_config
from gaugeport.pipeline.tasks import head_to_head


def test_job_fits_on_the_first_rows_and_measures_on_the_last(monkeypatch):
    job = from_config(compose_config(["experiment=groups_head_to_head", "profile=smoke"]), ()).job
    n_fit = max(job.task["tokens"]) // (job.data.length - job.measurement.skip_first) + 1
    rows = torch.arange(n_fit + 20)[:, None].expand(-1, job.data.length)
    pair, passes = SimpleNamespace(a="A", b="B", rows_fit=rows, rows_test=rows), []

    def record_rows(job, pair, model, rows):
        passes.append((model, rows[:, 0].tolist()))
        return torch.ones(len(rows), 2)

    def stop_after_streams(job, pair):
        raise ZeroDivisionError

    monkeypatch.setattr(head_to_head, "load_models", lambda job, built: pair)
    monkeypatch.setattr(head_to_head, "_stream", record_rows)
    monkeypatch.setattr(head_to_head, "sentiment_directions", stop_after_streams)
    with pytest.raises(ZeroDivisionError):
        head_to_head.measure(job, None)
    fit, test = list(range(n_fit)), list(range(n_fit, n_fit + 20))
    assert passes == [("A", fit), ("B", fit), ("A", test), ("B", test)]
    # without any row to measure on
    pair.rows_test = rows[:n_fit]
    with pytest.raises(ValueError, match=rf"task\.tokens=.* none of {n_fit} .*allowed: fewer tokens"):
        head_to_head.measure(job, None)
