"""The audit of checkpoints: copies and relatives are found by whatever name, and independent models pass."""

import copy
import math

import pytest
import torch
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

from dyck_models import generic
from gaugeport.groups import Orthogonal, Permutation, SignedPermutation
from gaugeport.pipeline.rotation.models.independence import (
    DUPLICATE_SHARE,
    SAME_SPECTRUM_DISTANCE,
    check_independent,
    compare,
    cosine_and_distance,
    model_digest,
    tensors,
    weight_changes,
)
from gaugeport.pipeline.stages.cohorts import SHARED
from gaugeport.transport import HeadGauge, transport_model


def neox(seed):
    """Return a small GPT-NeoX as it is initialised: biases 0, norms 1."""
    config = GPTNeoXConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48, vocab_size=60
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return GPTNeoXForCausalLM(config).eval()


def moved_by(model, share, seed=9):
    """Return ``model`` plus noise of ``share`` of every matrix's norm, as training from it would leave it."""
    other, noise = copy.deepcopy(model), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in other.parameters():
            step = torch.randn(p.shape, generator=noise)
            p.add_(step * share * p.norm() / step.norm())
    return other


def with_tensors_of(model, other, n):
    """Return ``other`` with its first ``n`` tensors that are not constant taken from ``model``."""
    ours = {name: p for name, p in model.named_parameters() if p.std() > 0}
    with torch.no_grad():
        for name in list(ours)[:n]:
            other.get_parameter(name).copy_(ours[name])
    return other


@pytest.fixture(scope="module")
def model():
    return neox(0)


def test_independent_models_pass_before_and_after_training(model):
    other = neox(1)
    check_independent({"seed 0": model, "seed 1": other, "seed 2": neox(2)})
    check_independent({"seed 0": moved_by(model, 2.0, 1), "seed 1": moved_by(other, 2.0, 2)})
    pair = compare(model, other)
    assert abs(pair.cosine) < 0.05 and pair.distance == pytest.approx(math.sqrt(2), abs=0.05)
    assert pair.identical == () and "constant" in pair.constructed.values(), "unit norms are not duplicates"
    assert model_digest(model) == model_digest(copy.deepcopy(model)) != model_digest(other)


@pytest.mark.parametrize(
    ("copied", "verdict"),
    [
        (copy.deepcopy, "duplicates"),
        (lambda m: m.state_dict(), "duplicates"),
        (lambda m: {f"module.{n}": p for n, p in m.state_dict().items()}, "duplicates"),
        (lambda m: copy.deepcopy(m).to(torch.bfloat16), "of one run or initialisation"),
        (lambda m: moved_by(m, 0.05), "of one run or initialisation"),  # fine-tuned
        (lambda m: moved_by(m, 1.2), "of one run or initialisation"),  # a checkpoint much later: cosine 0.64
        (
            lambda m: moved_by(m, 3.0),
            "of one run or initialisation",
        ),  # trained far from a step 0: cosine 0.32
        (lambda m: with_tensors_of(m, neox(4), 3), "partly copied"),
    ],
)
def test_copies_and_relatives_are_refused_with_their_verdict(model, copied, verdict):
    models = {"pythia-70m-seed1": neox(3), "pythia-70m-seed2": model, "pythia-70m-seed3": copied(model)}
    if isinstance(models["pythia-70m-seed3"], dict) and any(
        n.startswith("module.") for n in models["pythia-70m-seed3"]
    ):
        models.pop("pythia-70m-seed1")  # it has no names in common with the others
    with pytest.raises(
        ValueError, match=f"pythia-70m-seed2 and pythia-70m-seed3 are not independent but {verdict}"
    ):
        check_independent(models)


def test_two_runs_from_one_initialisation_are_refused(model):
    """Updates of 2.67 times the initialisation, as table b12 measures at mini, leave a cosine of 0.12."""
    one, two = moved_by(model, 2.67, 1), moved_by(model, 2.67, 2)
    with pytest.raises(ValueError, match="a and b are not independent but of one run or initialisation"):
        check_independent({"a": one, "b": two})


def test_copy_with_a_changed_tensor_is_still_a_duplicate(model):
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.get_output_embeddings().weight.normal_(generator=torch.Generator().manual_seed(4))
    assert compare(model, other).verdict() == "duplicates"


def test_copy_in_other_coordinates_is_found_by_its_spectrum():
    noise = torch.Generator().manual_seed(5)
    plain, folded = generic(0), generic(0, folded=True)
    signed = transport_model(plain, SignedPermutation.random(16, noise))
    rotated = transport_model(folded, Orthogonal.random(16, noise))
    swapped = HeadGauge((Permutation(torch.tensor([1, 0])),) * 2).apply(rotated)
    for one, two in ((plain, signed), (folded, rotated), (folded, swapped)):
        pair = compare(one, two)
        assert pair.cosine < 0.5 and pair.identical_share < DUPLICATE_SHARE
        assert pair.verdict() == "one function in other coordinates"
    other = compare(plain, generic(1))
    assert other.verdict() == "independent" and other.spectrum[1] > 100 * SAME_SPECTRUM_DISTANCE


def test_shared_tensors_are_left_out_only_where_named():
    anchor, other = generic(0), generic(1)
    with torch.no_grad():
        for name in SHARED:
            other.get_parameter(name).copy_(anchor.get_parameter(name))
    pair = compare(anchor, other, SHARED)
    assert pair.verdict() == "independent" and not set(SHARED) & {*pair.identical, *pair.matrices}
    assert {n for n, why in pair.constructed.items() if why == "shared"} == set(SHARED)
    check_independent({"anchor": anchor, "other": other}, shared=SHARED)
    assert set(compare(anchor, other).identical) == set(SHARED), "they count where they are not named"
    blocks = tuple(n for n, _ in anchor.named_parameters() if n not in SHARED)
    with torch.no_grad():
        for name in blocks[:-1]:
            other.get_parameter(name).copy_(anchor.get_parameter(name))
    with pytest.raises(ValueError, match="anchor and other are not independent but duplicates"):
        check_independent({"anchor": anchor, "other": other}, shared=SHARED)


def test_buffers_in_a_state_dict_do_not_count():
    mask = {f"layers.{n}.attention.bias": torch.ones(4, 4, dtype=torch.bool).tril() for n in range(9)}
    mask |= {"layers.0.attention.rotary_emb.inv_freq": torch.tensor([1.0, 0.1])}
    one, two = ({"w": torch.randn(8, 8, generator=torch.Generator().manual_seed(s)), **mask} for s in (0, 1))
    pair = compare(one, two)
    assert (
        pair.verdict() == "independent" and set(pair.constructed.values()) == {"buffer"} and pair.counted == 1
    )
    assert compare(one, {"v": two["w"], **mask}).verdict() == "not comparable"


def test_bad_input_is_refused(model):
    with pytest.raises(ValueError, match="1 model to compare; allowed: two or more"):
        check_independent({"a": model})
    with pytest.raises(ValueError, match=r"largest_cosine=1\.0; allowed: a cosine between 0 and 1"):
        check_independent({"a": model, "b": neox(1)}, largest_cosine=1.0)
    with pytest.raises(ValueError, match="shared tensor nothing is not in both models"):
        compare(model, neox(1), ["nothing"])
    with pytest.raises(ValueError, match="every tensor is equal by construction"):
        compare({"w": torch.ones(3, 3)}, {"w": torch.ones(3, 3)})


def test_updates_are_uncorrelated_where_weights_are_not(model):
    one, two = moved_by(model, 0.3, 1), moved_by(model, 0.3, 2)
    a, b = weight_changes(one, model), weight_changes(two, model)
    names = list(a)
    assert abs(cosine_and_distance(a, b, names)[0]) < 0.1
    assert cosine_and_distance(tensors(one), tensors(two), names)[0] > 0.8
