"""Test cohorts of Dyck-3 models: frozen boundaries, resumed runs, the stop rule and bad settings."""

import dataclasses
import re
import shutil

import pytest
import torch

from dyck_models import SIZES, generic
from gaugeport.models.dyck import HEADS, IGNORED, DyckConfig, DyckModel
from gaugeport.pipeline.config.compose import compose_config, from_config
from gaugeport.pipeline.job import Schedule
from gaugeport.pipeline.rotation.toy import strings
from gaugeport.pipeline.rotation.toy.training_strings import TrainingStrings
from gaugeport.pipeline.stages import cohorts
from gaugeport.pipeline.stages.catalogue import build_stage
from gaugeport.pipeline.stages.pairs import pair_stages
from gaugeport.pipeline.training.trainer import checkpoints, train


def job(*overrides):
    chosen = ["experiment=bars_within_seed", "profile=smoke", *overrides]
    return from_config(compose_config(chosen), chosen).job


def load(store, *overrides):
    chosen = job(*overrides)
    return cohorts.load_toy(build_stage(chosen, store, cohorts.stage_of(chosen.seed)))


def test_cohort_a_shares_its_boundary_exactly_and_cohort_b_shares_nothing(store):
    anchor, other = (load(store, f"seed={seed}") for seed in (0, 1))
    apart = load(store, "task.cohort=B", "seed=0")
    for name, p in anchor.named_parameters():
        same = torch.equal(p, other.get_parameter(name))
        assert same == (name in cohorts.SHARED), name
        assert not torch.equal(p, apart.get_parameter(name)), name
    cohorts.check_frozen({"seed 0": anchor, "seed 1": other})
    assert all(not torch.equal(p, torch.ones_like(p)) for n, p in other.named_parameters() if "norm" in n)


def test_only_seeds_of_cohort_a_require_their_anchor():
    anchor, in_a, in_b = job(), job("seed=2"), job("task.cohort=B", "seed=2")
    assert cohorts.own_stages(anchor) == ("anchor",)
    assert cohorts.own_stages(in_a) == ("anchor", "replica")
    assert cohorts.own_stages(in_b) == ("replica",)
    assert "anchor" in cohorts.model_key(in_a, 2) and "anchor" not in cohorts.model_key(in_b, 2)
    assert cohorts.model_key(in_a, 0) != cohorts.model_key(in_b, 0)
    with pytest.raises(ValueError, match=r"with seed 0 .*allowed: any other, seed=1"):
        pair_stages(anchor)


def tiny(seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return DyckModel(DyckConfig(**SIZES | {"max_position_embeddings": 64}))


def short_schedule(steps, weight_decay=0.0):
    return Schedule(
        steps=steps,
        batch_size=4,
        lr=1e-2,
        scheduler="cosine_with_min_lr",
        warmup_steps=2,
        weight_decay=weight_decay,
        save_every=3,
    )


@pytest.mark.parametrize("l1", [0.0, 0.1])
def test_resumed_run_ends_with_weights_of_uninterrupted_run(tmp_path, l1):
    schedule = dataclasses.replace(short_schedule(steps=9, weight_decay=0.01), l1=l1)
    data = TrainingStrings(9, 4, 18, 20, seed=1)
    whole, resumed, other, free = tiny(), tiny(), tiny(), tiny()
    train(whole, data, tmp_path / "whole", schedule, 0, keep=None)
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    shutil.rmtree(tmp_path / "cut" / "checkpoint-9")
    train(resumed, data, tmp_path / "cut", schedule, 0, keep=None)
    train(other, TrainingStrings(9, 4, 18, 20, seed=2), tmp_path / "other", schedule, 0, keep=None)
    train(free, data, tmp_path / "free", dataclasses.replace(schedule, l1=0.0), 0, keep=None)
    for name, p in whole.named_parameters():
        assert torch.equal(p, resumed.get_parameter(name)), name
    assert torch.equal(whole.lm_head.weight, free.lm_head.weight) == (not l1)
    assert not torch.equal(whole.lm_head.weight, other.lm_head.weight)


@pytest.mark.parametrize(("reached", "steps"), [(1.0, 3), (0.9998, 6)])
def test_training_stops_at_first_accurate_save(tmp_path, monkeypatch, reached, steps):
    by_head = {"token": 1.0, "depth": 1.0, "valid": reached}
    monkeypatch.setattr(cohorts, "accuracy", lambda model, rows: by_head)
    stop = cohorts.StopWhenAccurate(48, 64, 0, "unmatched")
    assert len(stop.heldout) == 2, "long strings are left out unless strings of their length are trained on"
    data, schedule = TrainingStrings(6, 4, 18, 20, 0), short_schedule(steps=6)
    train(tiny(), data, tmp_path, schedule, 0, keep=None, callbacks=[stop])
    assert max(checkpoints(tmp_path)) == steps


def test_accuracy_ignores_padding():
    rows = strings.draw_strings(40, (2, 18), 20, torch.Generator().manual_seed(0))
    model = tiny()
    with torch.no_grad():
        for head in (model.lm_head, model.depth_head, model.valid_head):
            head.weight.zero_()  # all classes tie, so the first one is predicted
    by_head = cohorts.accuracy(model, rows, batch_size=16)
    labels = rows["labels"][rows["labels"][..., 0] != IGNORED]
    first_class = {head: float((labels[:, k] == 0).float().mean()) for k, head in enumerate(HEADS)}
    assert by_head == pytest.approx(first_class)
    assert 0 < by_head["depth"] < 1


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["task.cohort=C"], "task.cohort='C'; allowed: A, B"),
        (
            ["data=mini"],
            "task=bars with model=dyck3 data=mini; allowed: model=dyck3 data=dyck3 training=dyck3",
        ),
        (["model=qwen"], "task=bars with model=qwen"),
        (["model.path=."], "task=bars trains its own models: model.path=. has no use"),
        (
            ["model.architecture.num_attention_heads=3"],
            "num_attention_heads=3 does not divide hidden_size=32",
        ),
        (
            ["model.architecture.max_position_embeddings=61"],
            "max_position_embeddings=61; allowed: 62 or more",
        ),
        (["task.points=0"], "task.points=0; allowed: whole numbers from 1"),
        (["task=lenses", "task.threshold=-1"], "task.threshold=-1; allowed: a positive number of nats"),
        (["task=lenses", "task.acdc_cost=foo"], "task.acdc_cost='foo'; allowed: kl, loss"),
        (
            ["task=joint_alignment", "task.lambdas=[-1]"],
            "task.lambdas=[-1]; allowed: numbers from 0, and inf",
        ),
        (
            ["task=joint_alignment", "task.sites=[resid_mid_7]"],
            "task.sites: unknown resid_mid_7; allowed: resid_pre_0",
        ),
        (["data.length=65"], "data.length=65; allowed: 18"),
        (["data.length=16"], "data.length=16; allowed: 18"),
        (["task.thresholds.b=-1e-4"], "threshold b=-0.0001; allowed: a positive number"),
        (["+task.thresholds.q=1"], "unknown key of task.thresholds: q; allowed: b, p, c, pr, near"),
        (["task=recovery"], "Dyck-3 models are not language models"),
    ],
)
def test_bad_setting_is_refused_with_allowed_values(overrides, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        job(*overrides)


def test_model_of_another_family_is_refused(store):
    with pytest.raises(ValueError, match=r"is a llama; allowed.*model=dyck3"):
        build_stage(job("model.architecture.model_type=llama", "seed=3"), store, "replica")


def test_cohort_with_differing_boundary_is_refused():
    anchor, other = generic(0), generic(1)
    cohorts.freeze(other, anchor)
    cohorts.check_frozen({"seed 0": anchor, "seed 1": other})
    assert not other.lm_head.weight.requires_grad and other.model.norm.weight.requires_grad
    with torch.no_grad():
        other.depth_head.weight[3, 2] += 1e-7
    with pytest.raises(ValueError, match=r"depth_head.weight of seed 1.*seed 0.*allowed: bit-identical"):
        cohorts.check_frozen({"seed 0": anchor, "seed 1": other})


def test_cohort_of_different_sizes_is_refused():
    with pytest.raises(ValueError, match=r"\(40, 32\) in seed 1.*\(40, 16\) in seed 0"):
        cohorts.check_frozen({"seed 0": generic(), "seed 1": generic(hidden_size=32)})
