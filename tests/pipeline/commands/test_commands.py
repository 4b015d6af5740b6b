"""Commands that other tests do not reach print what they should and write nothing else."""

from dataclasses import replace

import pytest
import torch

from gaugeport.pipeline.commands.tables import choose
from gaugeport.pipeline.config.experiments import variant_of
from gaugeport.pipeline.execution.failures import note_path
from gaugeport.pipeline.job import job_id
from gaugeport.pipeline.measures.gauge_groups import tiny_model
from gaugeport.pipeline.stages.catalogue import STAGES
from processes import built, files, printed


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    tiny_model("llama", torch.Generator().manual_seed(0)).save_pretrained(folder)
    return str(folder)


def test_certify_measures_the_group_and_folding_enlarges_it(tiny, tmp_path):
    plain, folded = printed(["certify", tiny], tmp_path), printed(["certify", tiny, "--fold"], tmp_path)
    assert "group    signed_permutation" in plain and "haar_rotation: not exact, as expected" in plain
    assert "group    orthogonal" in folded and "gains all 1" in folded
    assert "path does not exist: /nope/model" in printed(["certify", "/nope/model"], tmp_path, code=2)


def test_dry_run_lists_jobs_and_writes_nothing(tmp_path):
    for command in (
        ["tables", "a3", "--profile", "smoke", "--dry-run"],
        ["run", "experiment=trajectory", "profile=smoke", "route=endpoint", "--dry-run"],
    ):
        text = printed(command, tmp_path)
        assert "to run" in text and "gaugeport run experiment=trajectory" in text and "base models: " in text
    assert files(tmp_path, "**/*") == {}


def test_stage_option_builds_that_stage_only(tmp_path):
    text = printed(["run", "experiment=trajectory", "profile=smoke", "stage=data"], tmp_path, ci=False)
    (line,) = built(tmp_path)
    assert line.startswith("data ") and text.startswith("data: ") and line.split()[1] in text
    assert "to do: 1 stage; " in text and "data 1/1 · corpus of" in text
    assert not (tmp_path / "records").exists()


@pytest.mark.parametrize("more", [["stage=base"], []], ids=["stage", "job"])
def test_run_that_fails_after_it_began_exits_with_1(tmp_path, monkeypatch, more):
    def fail(job, required, folder):
        raise ValueError("not enough memory")

    monkeypatch.setitem(STAGES, "base", replace(STAGES["base"], build=fail))
    text = printed(["run", "profile=smoke", "task=recovery", *more], tmp_path, code=1)
    assert "FAILED base of" in text and "ValueError: not enough memory" in text and "Traceback" not in text
    assert "the same command runs again what is not done" in text
    assert [line.split()[0] for line in built(tmp_path)] == ["data"]


def test_run_help_lists_config_groups_and_hydra_prints_its_config(tmp_path):
    groups = printed(["run", "--help"], tmp_path)
    assert "model: " in groups and "tinyllama" in groups and "signed_permutation" in groups
    assert max(map(len, groups.splitlines())) <= 100
    assert "--hydra-help" in printed(["run", "--hydra-help"], tmp_path)
    assert "seed: 7" in printed(["run", "seed=7", "--cfg", "job"], tmp_path)


def test_overrides_that_change_results_get_their_own_folder():
    assert variant_of("mini", []) == variant_of("mini", ["tracker=none", "paths.outputs=/x"]) == ""
    assert variant_of("smoke", []) == variant_of("smoke", ["tracker=none"]) == "smoke"
    slow = variant_of("mini", ["training.run.lr=1e-3"])
    assert slow.startswith("mini-") and slow != variant_of("mini", ["training.run.lr=2e-3"])
    assert slow == variant_of("mini", ["tracker=none", "training.run.lr=1e-3"])
    assert variant_of("smoke", ["training.run.lr=1e-3"]) == slow.replace("mini", "smoke")


def test_status_survives_damaged_notes_and_sweeps(tmp_path):
    """They are written atomically; still, a crash of the machine may leave half of one."""
    job = choose(["a1"], "smoke", False, [f"paths.outputs={tmp_path}"]).jobs["a1"][0]
    for damaged in (tmp_path / "sweeps" / "sweep-half.json", note_path(tmp_path, job_id(job.job))):
        damaged.parent.mkdir()
        damaged.write_text('["seed=')
    text = printed(["status", "a1", "sweep-half", "--profile", "smoke"], tmp_path)
    assert "sweep-half cannot be read: " in text
    (line,) = [line for line in text.splitlines() if "a1 gauge_groups" in line]
    jobs, done, failed, missing = (int(cell) for cell in line.split("|")[2:6])
    assert (done, failed) == (0, 0) and missing == jobs > 0
