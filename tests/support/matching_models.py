"""Small Dyck-3 models for tests of the symmetry group, and the bar between two of them."""

import pytest
import torch

import dyck_models
from gaugeport.pipeline.rotation.matching.search import fit_symmetry, tensor_mse
from gaugeport.pipeline.rotation.matching.symmetry import stream_rows

SIZES = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 24, "max_position_embeddings": 16}
WIDTH = SIZES["hidden_size"]

FOLDED_GROUPS = ("orthogonal", "signed_permutation", "permutation", "identity")
RAW_GROUPS = ("signed_permutation", "permutation", "identity")

every_group = pytest.mark.parametrize(
    ("chart", "residual"), [("folded", group) for group in FOLDED_GROUPS] + [("raw", g) for g in RAW_GROUPS]
)
"""Run a test for every group of residual elements that is a symmetry of folded and of raw models."""


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def small_model(seed=0, chart="folded", **sizes):
    """Return a small model with random weights and gains; the gains are ``folded`` or in place (``raw``)."""
    return dyck_models.generic(seed, chart == "folded", **SIZES | sizes)


def bar(model, reference):
    """Return Bar P of two models as they are: the largest mean squared difference of a tensor."""
    return max(tensor_mse(stream_rows(model), stream_rows(reference)).values())


def fit(model, reference, *args, **options):
    """Run the symmetry search with its generator at seed 0."""
    return fit_symmetry(model, reference, *args, generator=generator(), **options)
