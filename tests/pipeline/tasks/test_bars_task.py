"""Table b1: what the decoy costs at least, from the labels alone."""

import math

import torch

from gaugeport.models.dyck import HEADS, IGNORED
from gaugeport.pipeline.rotation.toy import strings
from gaugeport.pipeline.tasks.bars import deepest_share


def test_deepest_share_counts_positions_without_padding():
    labels = torch.full((1, 5, len(HEADS)), IGNORED)
    labels[0, :4, HEADS.index("depth")] = torch.tensor([8, 7, 8, 0])
    assert deepest_share(labels) == 0.5


def test_labels_differ_in_how_often_strings_are_deepest():
    """A closer of another family pops the stack of one label and not of the other."""
    shares = {
        label: deepest_share(strings.heldout("train", 2000, 62, 64, 0, label)["labels"])
        for label in strings.DEPTH_LABELS
    }
    assert shares["unmatched"] > 4 * shares["running"]


def test_a_perfect_model_pays_at_least_that_under_the_decoy():
    """Two depths with one row have one logit, so the true one has at most half of the probability."""
    labels = strings.heldout("train", 200, 62, 64, 0)["labels"][..., HEADS.index("depth")]
    kept = labels[labels != IGNORED]
    logits = torch.full((len(kept), 9), -50.0)
    logits[torch.arange(len(kept)), kept] = 50.0
    pairs = logits[:, :8].unflatten(1, (4, 2)).mean(2, keepdim=True).expand(-1, 4, 2).flatten(1)
    cost = torch.nn.functional.cross_entropy(torch.cat([pairs, logits[:, 8:]], 1), kept)
    share = float((kept == 8).double().mean())
    assert float(cost) >= (1 - share) * math.log(2) * (1 - 1e-6)
