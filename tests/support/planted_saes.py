"""An SAE of a small Dyck-3 model, and the streams of the same model in other coordinates."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from dyck_models import generic
from gaugeport.pipeline.rotation.lenses.dictionaries import train_dictionary
from gaugeport.pipeline.rotation.toy import strings
from gaugeport.pipeline.rotation.toy.sites import activations_at
from gaugeport.transport.model import transport_model

SETTINGS = {
    "architecture": "topk",
    "k": 4,
    "l1": 5.0,
    "lr": 2e-3,
    "batch_size": 256,
    "activations": 8192,
    "tokens": 16384,
}
SITE = "resid_mid_1"
WIDTH = 16


class Streams(NamedTuple):
    """A stream on tokens to fit on and on others, float32[tokens, d] each."""

    fit: Tensor
    test: Tensor


class Home(NamedTuple):
    """A folded model, its streams, and an SAE of them."""

    model: Any
    fit: Tensor
    test: Tensor
    sae: Any


def noise(seed=0):
    return torch.Generator().manual_seed(seed)


def streams_of(model):
    drawn = (strings.heldout("train", 300, 18, 20, seed) for seed in (0, 1))
    return Streams(*(activations_at(model, rows, SITE) for rows in drawn))


def train_home():
    model = generic(folded=True, scale=0.5)
    fit, test = streams_of(model)
    return Home(model, fit, test, train_dictionary(fit, SETTINGS, 4, 0, SITE))


def moved_streams(home, gauge):
    """Return the streams of ``home``'s model in other coordinates."""
    return streams_of(transport_model(home.model, gauge))
