"""Test which dtypes are called slow on which CPU, and that loading a model in one of them warns."""

import warnings
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from gaugeport.models.loading import load_model
from gaugeport.utils import devices

OLD, NEW = {"avx2", "avx512_f"}, {"avx2", "avx512_f", "avx512_bf16"}


@pytest.mark.parametrize(
    ("features", "dtype", "slow"),
    [
        (OLD, torch.bfloat16, True),
        (OLD, torch.float16, True),
        (OLD, torch.float32, False),
        (NEW, torch.bfloat16, False),
        (NEW, torch.float16, True),
        ({"amx_bf16"}, torch.bfloat16, False),
        (None, torch.bfloat16, False),
    ],
)
def test_16_bit_dtypes_are_slow_without_their_instructions(monkeypatch, features, dtype, slow):
    monkeypatch.setattr(devices, "cpu_features", lambda: features)
    assert bool(devices.missing_features(dtype)) == slow


def test_features_come_from_torch_or_else_from_the_kernel(monkeypatch, tmp_path):
    x86 = {"architecture": "x86_64", "amx_bf16": True, "avx512_bf16": False, "num_sockets": 1}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: x86, raising=False)
    assert devices.cpu_features() == {"amx_bf16"}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"architecture": "aarch64"})
    assert devices.cpu_features() is None
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    (tmp_path / "cpuinfo").write_text("processor : 0\nflags : fpu avx2 avx512_bf16\n\nprocessor : 1\n")
    monkeypatch.setattr(devices, "Path", lambda path: tmp_path / Path(path).name)
    assert devices.cpu_features() == {":", "flags", "fpu", "avx2", "avx512_bf16"}
    (tmp_path / "cpuinfo").unlink()
    assert devices.cpu_features() is None


def test_loading_in_a_slow_dtype_warns(monkeypatch, tmp_path):
    small = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    LlamaForCausalLM(LlamaConfig(vocab_size=8, num_key_value_heads=1, **small)).save_pretrained(tmp_path)
    monkeypatch.setattr(devices, "cpu_features", lambda: OLD)
    with pytest.warns(UserWarning, match=r"torch.bfloat16 on this CPU.*avx512_bf16.*dtype='float32'"):
        load_model(tmp_path, dtype="bfloat16")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_model(tmp_path, dtype="float32")
