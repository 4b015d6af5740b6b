"""Resumed AdamW runs: a state moved with its signs stays on the run, up to the noise floor; others leave."""

import copy
import json
import shutil

import pytest
import torch
from transformers import AutoModelForCausalLM

from gaugeport.pipeline.job import Schedule
from gaugeport.pipeline.measures.adamw_resume import StepWatch, adamw_resume_rows, compare_with_floor
from gaugeport.pipeline.measures.gauge_groups import tiny_model
from gaugeport.pipeline.measures.moved_checkpoints import (
    FLOOR,
    FLOOR_DRAWS,
    THEORY,
    moved_checkpoints,
    with_moved_neurons,
)
from gaugeport.pipeline.training.trainer import checkpoints, resume, train
from gaugeport.texts import row_batches
from gaugeport.transport.neurons import NeuronGauge
from gaugeport.transport.optimizer_checkpoint import read_checkpoint, trainer_names

SCHEDULE = Schedule(
    steps=20, batch_size=4, lr=1e-3, scheduler="cosine", warmup_steps=2, weight_decay=0.1, save_every=5
)  # fmt: skip
RESUME, STEPS = 10, 8
FAMILIES = ("llama", "qwen2", "gpt_neox")


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


def rows():
    return torch.randint(0, 64, (SCHEDULE.steps * SCHEDULE.batch_size, 12), generator=gen(1))


def batches(seed):
    return list(row_batches(torch.randint(0, 64, (64, 12), generator=gen(seed)), 32))


@pytest.fixture(scope="module", params=FAMILIES)
def run(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    tied = {"tie_word_embeddings": True} if request.param == "qwen2" else {}
    train(tiny_model(request.param, gen(), **tied).train(), rows(), folder, SCHEDULE, seed=3, keep=None)
    return folder


@pytest.fixture(scope="module")
def measured(run, tmp_path_factory):
    scratch = tmp_path_factory.mktemp("scratch")
    found = adamw_resume_rows(
        checkpoints(run)[RESUME], rows(), SCHEDULE, seed=3, steps=STEPS, at=[3, 6, 9],
        calibration=batches(4), evaluation=batches(5), scratch=scratch,
    )  # fmt: skip
    left = [p.name for p in scratch.rglob("*") if p.suffix in (".safetensors", ".pt")]
    assert not left, "moved checkpoints are cleaned up"
    return found


def values(measured, condition, metric):
    return {r["step"]: r["value"] for r in measured if r["arm"] == condition and r["metric"] == metric}


def test_rows_have_every_condition_and_step(measured):
    assert {r["arm"] for r in measured} == {"reference", *THEORY}
    for condition in THEORY:
        assert (
            list(values(measured, condition, "divergence"))
            == [3, 6, 8]
            == list(values(measured, condition, "loss_gap"))
        )
    json.dumps(measured, allow_nan=False)


def test_sign_changes_repeat_the_reference_run_exactly(measured):
    for metric in ("divergence", "loss_gap", "heldout_gap"):
        assert set(values(measured, "sign_only", metric).values()) == {0.0}
    assert all(v != 0 for v in values(measured, FLOOR, "divergence").values()), (
        "reordering neurons changes the order of sums"
    )


def test_moved_state_stays_at_the_noise_floor_and_others_leave(measured):
    """A state moved with its signs gives the same run but for the order of sums (at most 10 floors)."""
    for condition in ("signed", "recovered"):
        assert all(v < 10 for v in values(measured, condition, "divergence_over_floor").values())
    for condition in ("permutation_only", "zeroed", "no_state"):
        assert all(v > 0.1 for v in values(measured, condition, "divergence").values())
        assert all(v > 10 for v in values(measured, condition, "divergence_over_floor").values())


def test_matching_recovers_the_planted_gauge(measured):
    assert values(measured, "recovered", "signed_accuracy") == {STEPS: 1.0}
    for metric in ("divergence", "loss_gap", "heldout_gap"):
        assert values(measured, "recovered", metric) == values(measured, "signed", metric)


def test_reference_repeats_the_original_run(run, tmp_path):
    """Resumed from a checkpoint, it passes through the later ones bit by bit; with other rows it does not."""

    def at(these):
        seen = {}
        model, _ = read_checkpoint(checkpoints(run)[RESUME])
        watch = StepWatch(10, [5, 10], lambda t, m: seen.update({t: copy.deepcopy(m.state_dict())}))
        resume(model, these, checkpoints(run)[RESUME], SCHEDULE, 3, [watch], tmp_path)
        assert list(watch.losses) == list(range(1, 11))
        return seen

    def saved(step):
        return AutoModelForCausalLM.from_pretrained(checkpoints(run)[step]).state_dict()

    def equal(a, b):
        return all(torch.equal(a[k], b[k]) for k in b)

    seen = at(rows())
    assert equal(seen[5], saved(15)) and equal(seen[10], saved(20))
    assert not equal(at(rows().flip(0))[5], saved(15))
    assert not list(tmp_path.rglob("*.safetensors")), "nothing is saved"


def test_conditions_differ_only_in_their_state(run):
    model, state = read_checkpoint(checkpoints(run)[RESUME])
    conditions = list(moved_checkpoints(model, state, 3, batches(4)))
    alone = ["sign_only", "signed", "permutation_only", "zeroed", "no_state", "recovered"]
    assert [name for name, _ in conditions] == alone + [FLOOR] * FLOOR_DRAWS
    by = dict(conditions)
    start = dict(model.named_parameters())
    for name, moved in conditions:
        back = dict(moved.back(moved.model).named_parameters())
        assert all(torch.equal(back[n], p) for n, p in start.items()), f"{name} comes back bit by bit"
        assert any(not torch.equal(q, start[n]) for n, q in moved.model.named_parameters())
    for name in ("permutation_only", "zeroed", "no_state", "recovered"):
        pairs = zip(by[name].model.parameters(), by["signed"].model.parameters(), strict=True)
        assert all(torch.equal(p, q) for p, q in pairs)
    signed, dropped = by["signed"].state["state"], by["permutation_only"].state["state"]
    assert any(not torch.equal(signed[i]["exp_avg"], dropped[i]["exp_avg"]) for i in signed)
    for i, held in by["zeroed"].state["state"].items():
        assert held["step"] == state["state"][i]["step"] > 0 and not held["exp_avg"].any()
        assert torch.equal(signed[i]["exp_avg_sq"], dropped[i]["exp_avg_sq"])
        assert torch.equal(signed[i]["exp_avg"].abs(), dropped[i]["exp_avg"].abs())
    assert (
        by["no_state"].state["state"] == {} and by["no_state"].state["param_groups"] == state["param_groups"]
    )


def test_moments_are_reordered_like_their_neurons(run):
    model, state = read_checkpoint(checkpoints(run)[RESUME])
    names, neurons = trainer_names(model), NeuronGauge.random(model, gen(2), signs=False)
    moved = with_moved_neurons(state, neurons, model, names)
    # put the first moment in the place of the weights, and reorder these
    holder = copy.deepcopy(model)
    with torch.no_grad():
        for i, held in state["state"].items():
            holder.get_parameter(names[i]).copy_(held["exp_avg"])
    expected = dict(neurons.apply(holder).named_parameters())
    assert all(torch.equal(moved["state"][i]["exp_avg"], expected[names[i]]) for i in moved["state"])
    back = with_moved_neurons(moved, neurons.inverse(), model, names)
    for i, held in state["state"].items():
        assert all(torch.equal(back["state"][i][k], held[k]) for k in ("exp_avg", "exp_avg_sq", "step"))
    assert any(
        not torch.equal(moved["state"][i]["exp_avg_sq"], h["exp_avg_sq"]) for i, h in state["state"].items()
    )


def test_ratios_and_horizon_by_hand():
    def divergences(*divergence):
        return {("divergence", t): v for t, v in zip((1, 2, 4), divergence, strict=True)}

    found = compare_with_floor(
        {FLOOR: divergences(0.0, 0.004, 0.5), "signed": divergences(0.0, 0.02, 0.4)}, [1, 2, 4]
    )
    signed = found["signed"]
    assert ("divergence_over_floor", 1) not in signed, "no ratio to a floor of 0"
    assert signed["divergence_over_floor", 2] == 5.0 and signed["divergence_over_floor", 4] == 0.8
    assert signed["horizon", 4] == 2 and signed["divergence_at_horizon", 4] == 0.02
    assert signed["over_floor_at_horizon", 4] == 5.0
    # the horizon is before the first step above the limit, even if the floor falls again
    late = compare_with_floor({FLOOR: divergences(0.004, 0.5, 0.001)}, [1, 2, 4])[FLOOR]
    assert late["horizon", 4] == 1
    chaos = compare_with_floor({FLOOR: divergences(0.5, 0.6, 0.7)}, [1, 2, 4])[FLOOR]
    assert not any(metric.endswith("horizon") for metric, _ in chaos)


# bad input: an error, and nothing is written


def refused(run, tmp_path, error, words, change):
    checkpoint = tmp_path / "checkpoint-10"
    shutil.copytree(checkpoints(run)[RESUME], checkpoint)
    change(checkpoint)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    with pytest.raises(error, match=words):
        adamw_resume_rows(
            checkpoint, rows(), SCHEDULE, seed=3, steps=1, at=[1],
            calibration=batches(4), evaluation=batches(5), scratch=scratch,
        )  # fmt: skip
    assert not list(scratch.iterdir())


def test_a_checkpoint_without_optimizer_is_refused(run, tmp_path):
    refused(run, tmp_path, FileNotFoundError, "no optimizer.pt in", lambda c: (c / "optimizer.pt").unlink())


def test_dropout_is_refused(run, tmp_path):
    def switch_on(checkpoint):
        config = json.loads((checkpoint / "config.json").read_text())
        config["attention_dropout"] = 0.1
        (checkpoint / "config.json").write_text(json.dumps(config))

    refused(run, tmp_path, ValueError, "dropout is on.*=0.1", switch_on)
