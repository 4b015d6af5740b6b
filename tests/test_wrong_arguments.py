"""The likeliest slips with the library get an error that says what was wanted."""

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


def test_an_alignment_is_no_gauge_but_holds_one():
    a = tiny()
    found = gp.align(a, a, batches())
    for move in (
        lambda g: gp.transport_model(a, g),
        lambda g: gp.transport_direction(torch.ones(32), g),
        lambda g: gp.transport_indices([1], g),
        lambda g: gp.merge([a, a], [None, g]),
        lambda g: gp.transport_optimizer({"state": {}, "param_groups": []}, g, a),
        lambda g: gp.transport_sae(torch.nn.Linear(2, 2), g),
    ):
        with pytest.raises(TypeError, match=r"expected a gauge element, got Alignment \(pass its \.gauge\)"):
            move(found)
    assert gp.transport_model(a, found.gauge) is not a


def test_what_could_only_fail_after_the_batches_fails_before_them():
    a, read = tiny(), []
    watched = (read.append(b) or b for b in batches())
    with pytest.raises(ValueError, match="matcher 'hungarian' does not recover"):
        gp.align(a, a, watched, matcher="hungarian")
    with pytest.raises(ValueError, match=r"token_ids.*allowed: evidence='weights' or 'both'"):
        gp.align(a, a, watched, token_ids=torch.arange(3))
    assert read == []


@pytest.mark.parametrize(
    ("ids", "found"),
    [
        ([[1, 2]], "got a list"),
        (torch.arange(4), r"got a Tensor of shape \(4,\)"),
        (None, "got a NoneType"),
    ],
)
def test_ids_that_are_no_batch_are_named(ids, found):
    with pytest.raises(TypeError, match=rf"expected input_ids as a tensor \[b, t\], {found}"):
        gp.align(tiny(), tiny(), [{"input_ids": ids}])


def test_numpy_s_integers_are_integers_and_alignments_compare():
    g = gp.SignedPermutation.identity(32)
    assert gp.transport_indices(list(np.arange(32)[:3]), g).index.tolist() == [0, 1, 2]
    found = gp.align(tiny(), tiny(), batches())
    assert found == found and found != gp.align(tiny(), tiny(), batches())


def test_swapped_arguments_are_named():
    a, g = tiny(), gp.SignedPermutation.identity(32)
    with pytest.raises(TypeError, match="SAE object, got SignedPermutation"):
        gp.transport_sae(g, a)
    with pytest.raises(TypeError, match=r"got str; sae_lens\.SAE\.load_from_disk"):
        gp.transport_sae("folder", g)
    with pytest.raises(TypeError, match="models: expected torch modules, got NoneType"):
        gp.merge([None, g], [a, a])
    with pytest.raises(TypeError, match="expected a gauge element, got str"):
        gp.transport_optimizer(g, "folder")


@pytest.mark.parametrize(
    ("wrong", "found"),
    [
        (["a text"], "got a str"),
        (batches()[0], "got a str"),
        ([{"ids": 1}], r"got a dict with keys \['ids'\]"),
    ],
)
def test_what_is_no_list_of_batches_is_named(wrong, found):
    with pytest.raises(TypeError, match=f"expected batches.*'input_ids'.*{found}"):
        gp.align(tiny(), tiny(), wrong)


def test_a_gauge_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="got a folder"):
        gp.load_gauge(tmp_path)


def test_models_that_share_no_base_draw_a_warning(recwarn):
    gp.align(tiny(), tiny(), batches())
    assert not recwarn.list
    with pytest.warns(UserWarning, match="half of the coordinates have a margin below 0.001"):
        gp.align(tiny(), tiny(1), batches())
