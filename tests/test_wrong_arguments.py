"""The likeliest mistakes with the library raise errors that say what was expected."""

import numpy as np
import pytest
import torch

import gaugeport as gp
from gaugeport.pipeline.measures.gauge_groups import tiny_model


def tiny(seed=0):
    return tiny_model("llama", torch.Generator().manual_seed(seed))


def batches(n=3):
    g = torch.Generator().manual_seed(9)
    return [{"input_ids": torch.randint(3, 64, (8, 16), generator=g)} for _ in range(n)]


def test_alignment_in_place_of_its_gauge_is_named():
    a = tiny()
    alignment = gp.align(a, a, batches())
    for move in (
        lambda g: gp.transport_model(a, g),
        lambda g: gp.transport_direction(torch.ones(32), g),
        lambda g: gp.transport_indices([1], g),
        lambda g: gp.merge([a, a], [None, g]),
        lambda g: gp.transport_optimizer({"state": {}, "param_groups": []}, g, a),
        lambda g: gp.transport_sae(torch.nn.Linear(2, 2), g),
    ):
        with pytest.raises(TypeError, match=r"expected a gauge element, got Alignment \(pass its \.gauge\)"):
            move(alignment)
    assert gp.transport_model(a, alignment.gauge) is not a


def test_bad_arguments_fail_before_a_batch_is_read():
    a, read = tiny(), []
    watched = (read.append(batch) or batch for batch in batches())
    with pytest.raises(ValueError, match="matcher 'hungarian' does not recover"):
        gp.align(a, a, watched, matcher="hungarian")
    with pytest.raises(ValueError, match=r"token_ids.*allowed: evidence='weights' or 'both'"):
        gp.align(a, a, watched, token_ids=torch.arange(3))
    assert read == []


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([[1, 2]], "got a list"),
        (torch.arange(4), r"got a Tensor of shape \(4,\)"),
        (None, "got a NoneType"),
    ],
)
def test_bad_input_ids_are_named(ids, message):
    with pytest.raises(TypeError, match=rf"expected input_ids as a tensor \[b, t\], {message}"):
        gp.align(tiny(), tiny(), [{"input_ids": ids}])


def test_numpy_integers_are_accepted_and_alignments_compare():
    g = gp.SignedPermutation.identity(32)
    assert gp.transport_indices(list(np.arange(32)[:3]), g).index.tolist() == [0, 1, 2]
    alignment = gp.align(tiny(), tiny(), batches())
    assert alignment == alignment and alignment != gp.align(tiny(), tiny(), batches())


def test_swapped_arguments_are_named():
    a, g = tiny(), gp.SignedPermutation.identity(32)
    with pytest.raises(TypeError, match="SAE object, got SignedPermutation"):
        gp.transport_sae(g, a)
    with pytest.raises(TypeError, match=r"got str; sae_lens\.SAE\.load_from_disk"):
        gp.transport_sae("folder", g)
    with pytest.raises(TypeError, match=r"models: expected torch modules, got NoneType.*gauges come second"):
        gp.merge([None, g], [a, a])
    with pytest.raises(TypeError, match="expected a gauge element, got str"):
        gp.transport_optimizer(g, "folder")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (["a text"], "got a str"),
        (batches()[0], "got a str"),
        ([{"ids": 1}], r"got a dict with keys \['ids'\]"),
    ],
)
def test_bad_batches_are_named(wrong, message):
    with pytest.raises(TypeError, match=f"expected batches.*'input_ids'.*{message}"):
        gp.align(tiny(), tiny(), wrong)


def test_folder_in_place_of_a_gauge_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="got a folder"):
        gp.load_gauge(tmp_path)


def test_models_without_a_common_base_cause_a_warning(recwarn):
    gp.align(tiny(), tiny(), batches())
    assert not recwarn.list
    with pytest.warns(UserWarning, match=r"\d\d% of the coordinates have a margin of 0 or less"):
        gp.align(tiny(), tiny(1), batches())
