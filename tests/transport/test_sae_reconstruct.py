"""Reconstructions of SAEs in folders are those of the libraries that wrote them."""

import pytest
import torch

from gaugeport.transport.sae_formats import dictionary_learning, sparsify
from stored_saes import CASES, D, K, N, forward, write

FORMATS = {"sparsify": sparsify, "dictionary_learning": dictionary_learning}


def read(library, kind, folder, **config):
    return FORMATS[library].read(write(library, kind, folder, **config), None, None)


def activations():
    return torch.randn(30, D, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


@pytest.mark.parametrize(("library", "kind"), CASES)
def test_reconstruction_is_the_library_s(tmp_path, library, kind):
    x = activations()
    stored = read(library, kind, tmp_path / "sae")
    found = FORMATS[library].reconstruct(stored.config, stored.tensors, x)
    assert torch.allclose(found, forward(tmp_path / "sae", x)[1], rtol=1e-12, atol=1e-12)


def test_groupmax_keeps_the_largest_of_each_group(tmp_path):
    x = activations()
    stored = read("sparsify", "sae", tmp_path / "sae", activation="groupmax")
    t = stored.tensors
    pre = ((x - t["b_dec"]) @ t["encoder.weight"].T + t["encoder.bias"]).relu()
    expected = t["b_dec"].expand(len(x), D).clone()
    for start in range(0, N, N // K):
        best, where = pre[:, start : start + N // K].max(1)
        expected += best[:, None] * t["W_dec"][start + where]
    found = sparsify.reconstruct(stored.config, t, x)
    assert torch.allclose(found, expected, rtol=1e-12, atol=1e-12)
    with pytest.raises(ValueError, match="activation: 'relu'; known: topk, groupmax"):
        sparsify.reconstruct({**stored.config, "activation": "relu"}, t, x)


@pytest.mark.parametrize(("kind", "buffer"), [("AutoEncoderTopK", "k"), ("BatchTopKSAE", "threshold")])
def test_missing_buffer_that_decides_what_is_active_is_refused(tmp_path, kind, buffer):
    stored = read("dictionary_learning", kind, tmp_path / "sae")
    less = {name: t for name, t in stored.tensors.items() if name != buffer}
    with pytest.raises(ValueError, match=f"this {kind} has no {buffer}, which decides"):
        dictionary_learning.reconstruct(stored.config, less, activations())
