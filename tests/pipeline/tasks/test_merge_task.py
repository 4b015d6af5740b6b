"""Merge jobs: the stages they require, and settings that are refused."""

import pytest

from gaugeport.pipeline.config.compose import compose_config, from_config
from gaugeport.pipeline.tasks.merge import TASK


def job(*overrides):
    return from_config(
        compose_config(["profile=smoke", "experiment=merging", "route=endpoint", *overrides]), ()
    ).job


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["gauge=orthogonal", "matcher=procrustes"], "gauge=orthogonal.*allowed: task.fold=true"),
        (["task.target=independent"], "task.target='independent'; allowed: self, identical, finetuned"),
        (["task.planted=heads"], "task.planted='heads'; allowed: none, neurons, both"),
        (["task.matched=all"], "task.matched='all'; allowed: none, neurons, heads, both"),
        (["task.planted=both", "task.evidence=weights"], "weight evidence.*allowed: task.evidence=site"),
        (["task.planted=both", "matcher=weights"], "weight evidence.*allowed: task.evidence=site"),
        (["task.points=10"], "points=10 .*odd whole number"),
        (["task.tokens=0"], "task.tokens=0; allowed: a positive"),
    ],
)
def test_bad_settings_are_refused_before_anything_is_built(overrides, words):
    with pytest.raises(ValueError, match=words):
        TASK.check(job(*overrides))
    TASK.check(job())
    assert TASK.stages(job()) == ("data", "base", "A")
