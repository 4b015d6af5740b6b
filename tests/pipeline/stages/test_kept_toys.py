"""Keep trained and half-trained Dyck-3 models, and go on from them in another store."""

import json
import shutil

import pytest
import torch

from gaugeport.models.dyck import HEADS
from gaugeport.pipeline.stages import cohorts
from gaugeport.pipeline.stages.catalogue import build_stage
from gaugeport.pipeline.stages.kept_toys import keep_toys, restore_toys
from gaugeport.pipeline.store.store import Store, manifest, partial_of
from smoke_jobs import smoke_job


def toy(*overrides):
    return smoke_job("bars_within_seed", *overrides)


def stage_path(job, store):
    return store.path("dyck", cohorts.model_key(job, job.seed))


def weights(job, store):
    return cohorts.load_toy(build_stage(job, store, cohorts.stage_of(job.seed))).state_dict()


def assert_same_weights(job, first, second):
    a, b = weights(job, first), weights(job, second)
    assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def built_log(store):
    path = store.root / "built.log"
    return path.read_text() if path.exists() else ""


def test_trained_models_are_put_back_under_their_stage_keys(store, tmp_path):
    jobs, other = [toy("seed=1"), toy("data.length=50", "task.cohort=B")], Store(tmp_path / "other")
    for job in jobs:
        weights(job, store)
    kept = keep_toys(jobs, store, tmp_path)
    assert [line.partition(":")[0] for line in kept] == ["A0", "A1", "B0-48"]
    assert keep_toys(jobs, store, tmp_path) == [], "what is kept already stays"
    about = json.loads((tmp_path / "models" / "A1.json").read_text())
    assert (about["steps"], about["lr"]) == (30, jobs[0].training.base.lr)
    assert set(about["heldout_accuracy"]) == {"train", "compositional", "long"}
    assert all(set(by_head) == set(HEADS) for by_head in about["heldout_accuracy"].values())
    assert about["least"] == min(min(by_head.values()) for by_head in about["heldout_accuracy"].values())
    # put back: nothing is trained, and the manifest is about the training
    assert len(restore_toys(jobs, other, tmp_path)) == 3
    before = built_log(other)
    for job in jobs:
        assert_same_weights(job, store, other)
    assert built_log(other) == before and restore_toys(jobs, other, tmp_path) == []
    restored = manifest(stage_path(jobs[0], other))
    assert restored["versions"] == manifest(stage_path(jobs[0], store))["versions"]
    assert restored["seconds"] == about["seconds"] and about["seconds"] > 0.1
    assert cohorts.steps_trained(stage_path(jobs[0], other)) == 30


def test_training_goes_on_from_a_kept_checkpoint_bit_for_bit(store, tmp_path):
    job, cut, other = toy(), Store(tmp_path / "cut"), Store(tmp_path / "other")
    weights(job, store)
    half = partial_of(stage_path(job, cut)) / "training" / "checkpoint-10"
    shutil.copytree(stage_path(job, store) / "training" / "checkpoint-10", half)
    (half.parent / "checkpoint-20").mkdir()  # the process was killed as it wrote
    assert keep_toys([job], cut, tmp_path) == ["A0: unfinished, step 10 of 30"]
    assert keep_toys([job], cut, tmp_path) == []
    files = {path.name for path in (tmp_path / "unfinished" / "A0").iterdir()}
    assert {"model.safetensors", "optimizer.pt", "stage.json"} < files and "training_args.bin" not in files
    # in another store it goes on from there
    assert len(restore_toys([job], other, tmp_path)) == 1 and restore_toys([job], other, tmp_path) == []
    assert_same_weights(job, store, other)
    trained = cohorts.checkpoints(stage_path(job, other) / "training")
    written = [step for step, path in trained.items() if (path / "training_args.bin").exists()]
    assert list(trained) == [10, 20, 30] and written == [20, 30], "the first ten steps were not run again"
    log = json.loads((trained[30] / "trainer_state.json").read_text())["log_history"]
    seconds = [line["seconds"] for line in log if "loss" in line]
    assert seconds == sorted(seconds) and len(seconds) == 30
    looks = {line["step"]: line["heldout_accuracy"] for line in log if "heldout_accuracy" in line}
    whole = stage_path(job, store) / "training" / "checkpoint-30" / "trainer_state.json"
    assert list(looks) == [10, 20]
    assert [
        line for line in json.loads(whole.read_text())["log_history"] if line.get("heldout_accuracy")
    ] == [{"step": step, "heldout_accuracy": accuracy} for step, accuracy in looks.items()]
    # once it is done, only the model is kept
    assert keep_toys([job], other, tmp_path)[0].startswith("A0: 30 steps")
    assert not (tmp_path / "unfinished" / "A0").exists()


@pytest.mark.parametrize("kept", ["models/A0.json", "unfinished/A0/stage.json"])
def test_models_of_another_configuration_are_left_out(tmp_path, kept):
    (tmp_path / kept).parent.mkdir(parents=True)
    (tmp_path / kept).write_text('{"stage": "dyck-v2/0123", "step": 10}')
    (line,) = restore_toys([toy()], Store(tmp_path / "store"), tmp_path)
    assert line.startswith("A0: left out") and "of another configuration than dyck-v2/" in line
    assert not (tmp_path / "store").exists()
