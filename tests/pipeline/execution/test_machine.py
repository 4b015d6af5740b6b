"""Test how many CPU threads a step gets, and which 16-bit dtypes are refused before it begins."""

import re
from types import SimpleNamespace

import pytest
import torch

from gaugeport.pipeline.config.compose import compose_config, from_config
from gaugeport.pipeline.execution import launchers, machine
from gaugeport.pipeline.execution.machine import machine_for
from gaugeport.utils.devices import cpu_threads, default_device

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


BFLOAT16 = "measurement.dtype=bfloat16"


@pytest.mark.skipif(default_device() != "cpu", reason="a GPU computes in every dtype")
@pytest.mark.parametrize(
    ("overrides", "refused"),
    [
        (
            [*PRETRAINED, BFLOAT16],
            "measurement.dtype: bfloat16.*none of amx.*measurement.dtype=float32, a GPU",
        ),
        ([*PRETRAINED, "training.run.bf16=true"], "training.run.bf16: bfloat16.*training.run.bf16=false"),
        ([*TRAINED_HERE, "training.base.bf16=true"], "training.base.bf16: bfloat16"),
        ([*TRAINED_HERE, BFLOAT16], None),
        ([*PRETRAINED, "training.base.bf16=true"], None),
        ([*TRAINED_HERE, "experiment=gauge_groups", "training.run.bf16=true"], None),
    ],
)
def test_slow_dtypes_are_refused_before_anything_is_built(monkeypatch, tmp_path, overrides, refused):
    """Not refused: small models measured in bfloat16, and schedules that the job does not train by."""
    monkeypatch.setattr(
        machine, "missing_features", lambda dtype: ("amx",) if dtype == torch.bfloat16 else ()
    )
    built = []
    monkeypatch.setattr(launchers, "build_stage", lambda *given: built.append(given))
    overrides = [*overrides, f"paths.outputs={tmp_path}"]
    error = launchers.attempt(from_config(compose_config(overrides), overrides), "base")
    assert (error is not None) == (not built) == (refused is not None)
    if refused is not None:
        assert re.search(refused, error.message)
