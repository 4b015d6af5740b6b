"""Test how many CPU threads steps get: one for models trained here, shares of the machine for others."""

from types import SimpleNamespace

import pytest
import torch

from gaugeport.pipeline.config.compose import compose_config, from_config
from gaugeport.pipeline.execution import launchers
from gaugeport.pipeline.execution.machine import machine_for
from gaugeport.utils.devices import cpu_threads

TRAINED_HERE, PRETRAINED = ["profile=smoke", "model=tinyllama"], ["model=smollm2", "data=docs"]


def job(overrides):
    return from_config(compose_config(overrides), overrides).job


@pytest.mark.parametrize(
    "overrides, share, threads", [(TRAINED_HERE, 4, 1), (PRETRAINED, 4, 4), (PRETRAINED, None, 3)]
)
def test_only_pretrained_models_use_several_threads(overrides, share, threads):
    with cpu_threads(3):
        with machine_for(job(overrides), share):
            assert torch.get_num_threads() == threads
        assert torch.get_num_threads() == 3


@pytest.mark.parametrize(
    "steps, processes, share", [(1, None, 8), (2, None, 4), (9, None, 2), (9, 3, 2), (9, 9, 1)]
)
def test_steps_share_threads_with_those_that_run_beside_them(monkeypatch, steps, processes, share):
    monkeypatch.setattr(launchers, "cores", lambda: 4)
    monkeypatch.setattr(launchers, "attempt", lambda spec, stage, threads: threads)
    monkeypatch.setattr(
        launchers, "Parallel", lambda **options: lambda calls: [f(*given) for f, given, _ in calls]
    )
    with cpu_threads(8):
        given = list(launchers.local(processes)([SimpleNamespace(composed=None, stage=None)] * steps))
    assert given == [share] * steps
