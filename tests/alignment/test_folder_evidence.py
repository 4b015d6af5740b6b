"""Check that weight evidence read from files equals that of loaded models, and what it refuses."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from gaugeport.alignment import folder_evidence
from gaugeport.alignment.evidence import weight_evidence
from gaugeport.alignment.folder_evidence import weight_evidence_of_folders
from gaugeport.alignment.matchers import match
from gaugeport.groups import SignedPermutation
from gaugeport.pipeline.measures.gauge_groups import MODEL_TYPES, tiny_model
from gaugeport.transport import transport_model
from tiny_models import gen

D = 32
ROUNDING = 1e-6
"""Cosines of columns of 64 entries or less, in float32."""


def pair(tmp_path, family="llama", **config):
    """Two models and their folders, A in one file and B in shards."""
    models = [tiny_model(family, gen(k), **config) for k in (0, 1)]
    folders = [tmp_path / name for name in "ab"]
    for model, folder, size in zip(models, folders, ("1GB", "10KB"), strict=True):
        model.save_pretrained(folder, max_shard_size=size)
    return models, folders


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("family", MODEL_TYPES)
def test_files_and_loaded_models_give_the_same(family, tied, tmp_path, monkeypatch):
    monkeypatch.setattr(folder_evidence, "BLOCK_ELEMENTS", 9 * D)
    models, folders = pair(tmp_path, family, tie_word_embeddings=tied)
    for options in ({}, {"cross": True}, {"token_ids": torch.tensor([3, 3, 40, 9])}):
        c = weight_evidence_of_folders(*folders, **options)
        assert c.dtype == torch.float64
        assert torch.allclose(c, weight_evidence(*models, **options), rtol=0, atol=ROUNDING)
    swapped = weight_evidence_of_folders(*reversed(folders))
    assert torch.allclose(swapped, weight_evidence_of_folders(*folders).T, rtol=0, atol=ROUNDING)
    assert not torch.allclose(swapped, weight_evidence_of_folders(*folders), atol=1e-2)  # control


def test_a_planted_gauge_is_found_in_other_dtypes_and_shards(tmp_path):
    model, g = tiny_model("llama", gen(0)), SignedPermutation.random(D, gen(1))
    moved = transport_model(model, g)
    with torch.no_grad():
        for p in moved.parameters():
            p += 0.1 * p.std() * torch.randn(p.shape, generator=gen(2))
    model.save_pretrained(tmp_path / "a")
    moved.half().save_pretrained(tmp_path / "b", max_shard_size="10KB")
    c = weight_evidence_of_folders(tmp_path / "a", tmp_path / "b")
    assert match(c, "signed_permutation", "hungarian_abs").gauge == g


def test_progress_counts_the_matrices(tmp_path):
    _, folders = pair(tmp_path)
    seen = []
    weight_evidence_of_folders(*folders, progress=lambda *now: seen.append(now))
    assert seen == [(k, 16, "weights") for k in range(1, 17)]


def test_other_vocabularies_are_compared_on_tokens_of_both(tmp_path):
    models, folders = pair(tmp_path)
    larger = tiny_model("llama", gen(1), vocab_size=80)
    larger.save_pretrained(tmp_path / "larger")
    folders[1] = tmp_path / "larger"
    with pytest.raises(ValueError, match="same vocabulary size: A has 64, B has 80"):
        weight_evidence_of_folders(*folders)
    ids = torch.tensor([0, 63])
    expected = weight_evidence(models[0], larger, ids)
    assert torch.allclose(weight_evidence_of_folders(*folders, ids), expected, rtol=0, atol=ROUNDING)
    for outside in (-1, 64):
        with pytest.raises(ValueError, match=rf"token ids must lie in 0\.\.63, got \[{outside}\]"):
            weight_evidence_of_folders(*folders, torch.tensor([3, outside]))


@pytest.mark.parametrize(
    ("family", "config", "message"),
    [
        ("qwen2", {}, "same architecture: A has llama, B has qwen2"),
        ("llama", {"width": 16}, "same residual width: A has 32, B has 16"),
        ("llama", {"num_hidden_layers": 3}, "same number of blocks: A has 2, B has 3"),
        ("llama", {"tie_word_embeddings": True}, "tie their embeddings or neither: A False, B True"),
        ("llama", {"intermediate_size": 40}, r"has shape \(48, 32\) in A and \(40, 32\) in B"),
    ],
)
def test_models_that_cannot_be_compared_are_refused(family, config, message, tmp_path):
    _, folders = pair(tmp_path)
    tiny_model(family, gen(1), **config).save_pretrained(tmp_path / "c")
    with pytest.raises(ValueError, match=message):
        weight_evidence_of_folders(folders[0], tmp_path / "c")


def test_weights_that_are_not_finite_or_zero_are_named(tmp_path):
    _, folders = pair(tmp_path)
    path = folders[0] / "model.safetensors"
    tensors, name = load_file(path), "model.layers.1.mlp.up_proj.weight"
    tensors[name][2, 5] = float("nan")
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=rf"{name} of A is not finite"):
        weight_evidence_of_folders(*folders)
    for tensor in tensors.values():
        if tensor.dim() == 2:
            (tensor if tensor.shape[1] == D else tensor.T)[:, 5] = 0
            tensor.nan_to_num_()
    tensors["model.layers.0.self_attn.o_proj.weight"][5] = 0
    tensors["model.layers.1.self_attn.o_proj.weight"][5] = 0
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.warns(UserWarning, match=r"1 coordinate\(s\) of A, the first \[5\], are 0 in every matrix"):
        weight_evidence_of_folders(*folders)
