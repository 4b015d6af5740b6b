"""The Dyck-3 model: its loss, its symmetry with gains in place and folded, and the rows that it refuses."""

import copy
import math

import pytest
import torch

from dyck_models import generic
from gaugeport.charts import certify, fold_gains
from gaugeport.charts.logit_change import norms_in_float64
from gaugeport.models.dyck import DyckConfig, DyckModel, losses
from gaugeport.pipeline.rotation.toy.strings import draw_strings, heldout

ROUNDING = 1e-12
"""Largest rounding error of float64, norms included, for quantities of order 1."""


@pytest.fixture(scope="module")
def model():
    return generic()


def test_a_model_that_knows_nothing_loses_the_logarithm_of_the_number_of_classes(model):
    blank, rows = copy.deepcopy(model), heldout("train", 4, 18, 20, 0)
    with torch.no_grad():
        for head in (blank.lm_head, blank.depth_head, blank.valid_head):
            head.weight.zero_()
    nats = losses(blank(rows["input_ids"]).logits, rows["labels"])
    assert nats[0, 0].tolist() == pytest.approx([math.log(40), math.log(9), math.log(2)])


@pytest.mark.parametrize("by_hand", [True, False])
def test_loss_of_training_and_its_gradient_are_those_of_the_whole_batch(by_hand):
    """Autocast leaves float64 as it is, and takes the gradient by autograd, as on a GPU."""
    rows = draw_strings(100, (2, 18), 20, torch.Generator().manual_seed(1))  # groups of 38 or more strings
    model = generic(scale=0.4).double()
    model.lm_head.weight.requires_grad_(False)
    by_mode = []
    with norms_in_float64(model), torch.autocast("cpu", torch.bfloat16, enabled=not by_hand):
        for training in (False, True):
            model.train(training).zero_grad()
            loss = model(rows["input_ids"], rows["attention_mask"], rows["labels"]).loss
            (3 * loss).backward()
            by_mode.append((loss.detach(), {name: p.grad for name, p in model.named_parameters()}))
        model.eval()
        (whole, gradient), (trained, trained_gradient) = by_mode
        assert abs(whole - trained) < ROUNDING
        for name, expected in gradient.items():
            if name == "lm_head.weight":
                assert expected is None and trained_gradient[name] is None
            else:
                assert (expected - trained_gradient[name]).abs().max() < ROUNDING < expected.abs().max(), name
        shifted = rows["labels"].roll(1, 0)
        assert abs(model(rows["input_ids"], None, shifted).loss - whole) > 1e-2


def test_the_chart_certifies_signed_permutations_in_place_and_rotations_folded(model):
    in_place, folded = certify(model), certify(fold_gains(model))
    assert (in_place.group, in_place.exact, in_place.outside_breaks) == ("signed_permutation", True, True)
    assert (folded.group, folded.exact) == ("orthogonal", True)


@pytest.mark.parametrize(
    ("std", "of_up", "of_embedding"),
    [(0.02, 0.02, 0.02), (0.5, 0.5, 0.5), (None, 1 / math.sqrt(3 * 64), 1.0)],
)
def test_weights_begin_with_the_spread_that_was_asked_for(std, of_up, of_embedding):
    """None is PyTorch's: uniform in ±1/√64 has the standard deviation 1/√(3·64) = 1/√192."""
    torch.manual_seed(0)
    model = DyckModel(DyckConfig(initializer_range=std))
    up, embedding = model.model.layers[0].mlp.up_proj.weight, model.model.embed_tokens.weight
    for weight, expected in ((up, of_up), (embedding, of_embedding)):
        four_errors = 4 * expected / math.sqrt(2 * weight.numel())
        assert float(weight.std()) == pytest.approx(expected, abs=four_errors)
    assert bool((model.model.norm.weight == 1).all())


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(
    ("length", "mask", "message"),
    [(21, None, r"20 positions.*21"), (4, [[0, 1, 1, 1]], "padded on the right")],
)
def test_rows_that_are_too_long_or_padded_on_the_left_are_refused(training, length, mask, message):
    ids, mask = torch.ones(1, length, dtype=torch.long), None if mask is None else torch.tensor(mask)
    with pytest.raises(ValueError, match=message):
        generic().train(training)(ids, mask, torch.ones(1, length, 3, dtype=torch.long))
