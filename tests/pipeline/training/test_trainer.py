"""Test that a killed run continues from its last complete checkpoint and ends with the same weights."""

import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from gaugeport.pipeline.job import Schedule
from gaugeport.pipeline.training.trainer import (
    PenaliseWeights,
    checkpoints,
    drop_broken_checkpoints,
    train,
)

SCRIPT = """
import sys, torch
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_trainer import model, rows, schedule
from gaugeport.pipeline.training.trainer import train
train(model(), rows(), Path({folder!r}), schedule(moments=[20]), seed=3, keep=None)
"""


SMALL = {
    "vocab_size": 50,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
}


def model():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return LlamaForCausalLM(LlamaConfig(**SMALL, num_key_value_heads=1))


def rows():
    return torch.randint(0, 50, (400, 12), generator=torch.Generator().manual_seed(1))


def schedule(moments=None):
    return Schedule(
        steps=100,
        batch_size=4,
        lr=1e-2,
        scheduler="cosine",
        warmup_steps=5,
        weight_decay=0.01,
        save_every=10,
        moments=moments,
    )


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    train(model(), rows(), folder, schedule(), seed=3, keep=None)
    return folder


def final_weights(folder):
    last = checkpoints(folder)[100]
    assert (last / "optimizer.pt").exists() and (last / "trainer_state.json").exists()
    return AutoModelForCausalLM.from_pretrained(last).state_dict()


def assert_same(a, b):
    assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def with_moments(folder):
    return [step for step, path in checkpoints(folder).items() if (path / "optimizer.pt").exists()]


def test_checkpoints_are_complete(uninterrupted):
    assert list(checkpoints(uninterrupted)) == with_moments(uninterrupted) == list(range(10, 101, 10))
    initial, final = model().state_dict(), final_weights(uninterrupted)
    assert not torch.equal(final["lm_head.weight"], initial["lm_head.weight"])


def test_killed_run_resumes_to_same_weights(tmp_path, uninterrupted):
    """It drops the moments of most checkpoints as it goes, which the uninterrupted run keeps."""
    script = SCRIPT.format(tests=os.path.dirname(__file__), folder=str(tmp_path))
    process = subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not (tmp_path / "checkpoint-30").exists():
        assert process.poll() is None, "the run ended before it was killed"
        assert time.monotonic() < deadline, "the run did not reach step 30 in time"
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert 100 not in checkpoints(tmp_path)
    train(model(), rows(), tmp_path, schedule(moments=[20]), seed=3, keep=None)
    assert_same(final_weights(tmp_path), final_weights(uninterrupted))
    assert list(checkpoints(tmp_path)) == list(checkpoints(uninterrupted))
    assert with_moments(tmp_path) == [20, 100]


def test_run_continues_only_from_a_checkpoint_with_moments(tmp_path, uninterrupted):
    """The newest checkpoint is damaged, and the one before it has lost its moments already."""
    shutil.copytree(uninterrupted, tmp_path, dirs_exist_ok=True)
    (tmp_path / "checkpoint-100" / "trainer_state.json").unlink()
    (tmp_path / "checkpoint-90" / "optimizer.pt").unlink()
    train(model(), rows(), tmp_path, schedule(), seed=3, keep=None)
    assert_same(final_weights(tmp_path), final_weights(uninterrupted))
    assert with_moments(tmp_path) == list(range(10, 101, 10))


@pytest.mark.parametrize("family", ["gpt_neox", "qwen2", "gpt2"])
def test_resumed_run_of_every_family_loads_all_weights(tmp_path, family):
    def fresh():
        with torch.random.fork_rng():
            torch.manual_seed(0)
            tied = {"tie_word_embeddings": family != "gpt_neox", "num_key_value_heads": 1}
            return AutoModelForCausalLM.from_config(
                AutoConfig.for_model(family, **SMALL, **tied), dtype=torch.float32
            )

    short = replace(schedule(), steps=20)
    train(fresh(), rows(), tmp_path / "whole", short, seed=3, keep=None)
    shutil.copytree(checkpoints(tmp_path / "whole")[10], tmp_path / "cut" / "checkpoint-10")
    train(fresh(), rows(), tmp_path / "cut", short, seed=3, keep=None)
    whole, cut = (
        AutoModelForCausalLM.from_pretrained(checkpoints(tmp_path / f)[20]) for f in ("whole", "cut")
    )
    assert_same(cut.state_dict(), whole.state_dict())


@pytest.mark.parametrize("damage", ["no state", "half a state", "truncated weights"])
def test_incomplete_checkpoint_is_deleted(tmp_path, damage):
    train(model(), rows(), tmp_path, replace(schedule(), steps=20), seed=3, keep=None)
    last = tmp_path / "checkpoint-20"
    state, weights = last / "trainer_state.json", last / "model.safetensors"
    if damage == "no state":
        state.unlink()
    elif damage == "half a state":
        state.write_text(state.read_text()[:100])
    else:
        weights.write_bytes(weights.read_bytes()[:100])
    drop_broken_checkpoints(tmp_path)
    assert list(checkpoints(tmp_path)) == [10]


def test_global_random_state_is_unchanged(tmp_path):
    before = torch.get_rng_state()
    train(model(), rows(), tmp_path, replace(schedule(), steps=2), seed=3, keep=None)
    assert torch.equal(before, torch.get_rng_state())


def test_too_few_rows_are_refused(tmp_path):
    with pytest.raises(ValueError, match="got 10"):
        train(model(), rows()[:10], tmp_path, schedule(), seed=3, keep=None)


def test_penalty_on_weights_adds_its_gradient_and_pulls_them_in(tmp_path):
    chosen = model()
    chosen.lm_head.weight.grad = torch.ones_like(chosen.lm_head.weight)
    PenaliseWeights(0.5).on_pre_optimizer_step(None, None, None, model=chosen)
    assert torch.equal(chosen.lm_head.weight.grad, 1 + 0.5 * chosen.lm_head.weight.sign())
    assert chosen.model.norm.weight.grad is None, "frozen weights stay frozen"
    short = replace(schedule(), steps=20, save_every=20)
    sizes = []
    for l1 in (0.0, 0.1):
        trained = model()
        train(trained, rows(), tmp_path / str(l1), replace(short, l1=l1), seed=3, keep=None)
        sizes.append(sum(float(p.detach().abs().sum()) for p in trained.parameters()))
    assert sizes[1] < 0.9 * sizes[0]
    assert "l1" not in short.key() and replace(short, l1=0.1).key()["l1"] == 0.1
