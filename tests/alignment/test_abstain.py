"""``align(..., abstain=x)`` leaves out the doubtful coordinates; what that costs in transport."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from gaugeport.alignment.align import align
from gaugeport.alignment.along import align_along
from gaugeport.groups import SignedPermutation, provenance
from gaugeport.pipeline.measures.gauge_groups import tiny_model
from gaugeport.transport import lost_share, transport_direction, transport_indices, transport_model
from tiny_models import batches_of, gen, noisy

D = 32


@pytest.fixture(scope="module")
def drifted():
    """Return A, a noisy and planted copy B, and the plant: a pair on which matching makes mistakes."""
    model, g = tiny_model("llama", gen(0)), SignedPermutation.random(D, gen(1))
    return model, transport_model(noisy(model, 0.5, 2), g), g


@pytest.fixture(scope="module")
def alignment(drifted):
    return align(*drifted[:2], batches_of(), sites="block1")


def right(alignment, g):
    return (alignment.gauge.perm == g.perm) & (alignment.gauge.sign == g.sign)


def test_all_coordinates_are_kept_without_a_threshold(alignment):
    assert alignment.abstain is None and alignment.kept.dtype == torch.bool
    assert torch.equal(alignment.kept, torch.ones(D, dtype=torch.bool))


def test_threshold_keeps_margins_at_or_above_it(drifted, alignment):
    threshold = float(alignment.margin.median())
    partial = align(*drifted[:2], batches_of(), sites="block1", abstain=threshold)
    assert partial.gauge == alignment.gauge and torch.equal(partial.margin, alignment.margin), (
        "the gauge stays complete"
    )
    assert torch.equal(partial.kept, alignment.margin >= threshold)
    at_threshold = alignment.margin.argsort()[(D - 1) // 2]
    assert 0 < int(partial.kept.sum()) < D and bool(partial.kept[at_threshold])
    assert torch.equal(replace(alignment, abstain=threshold).kept, partial.kept)


def test_kept_coordinates_are_more_often_right(drifted, alignment):
    """Negative control: coordinates left out are less often right than all of them."""
    good = right(alignment, drifted[2])
    partial = replace(alignment, abstain=float(alignment.margin.median())).kept
    assert 0.1 < float(good.float().mean()) < 0.9, "the drift must be large enough for mistakes"
    assert (
        float(good[partial].float().mean())
        > float(good.float().mean())
        > float(good[~partial].float().mean())
    )


def test_transports_accept_kept_and_report_the_loss(alignment):
    partial = replace(alignment, abstain=float(alignment.margin.median()))
    v = torch.randn(D, generator=gen(3))
    moved = transport_direction(v, partial.gauge, kept=partial.kept)
    assert torch.equal(moved != 0, partial.kept) and torch.equal(moved, partial.gauge.act(v) * partial.kept)
    lost = lost_share(v, partial.gauge, partial.kept)
    assert float(lost) == pytest.approx(1 - float(moved.square().sum() / v.square().sum()))
    every_index = list(range(D))
    listed = transport_indices(every_index, partial.gauge, kept=partial.kept)
    assert set(listed.index.tolist()) == set(partial.kept.nonzero().flatten().tolist())
    assert len(listed.dropped) == int((~partial.kept).sum())
    assert set(listed.dropped.tolist()) == set(partial.gauge.perm[~partial.kept].tolist()) <= set(every_index)
    everything = transport_indices(every_index, alignment.gauge, kept=alignment.kept)
    assert len(everything.dropped) == 0 == float(lost_share(v, alignment.gauge, alignment.kept))


def test_walk_keeps_a_coordinate_only_if_every_link_does():
    base = tiny_model("llama", gen(0))
    models = [
        transport_model(noisy(base, s, 10 + i), SignedPermutation.random(D, gen(20 + i)))
        for i, s in enumerate((0.3, 0.1, 0.3))
    ]
    links = [align(a, b, batches_of(), sites="block1") for a, b in pairwise(models)]
    threshold = float(torch.cat([link.margin for link in links]).median())
    whole = align_along(models, batches_of(), sites="block1", abstain=threshold)
    first, second = (replace(link, abstain=threshold).kept for link in links)
    assert torch.equal(whole.kept, second & first[links[1].gauge.perm])
    assert not torch.equal(whole.kept, second & first), "kept refers to coordinates of the last model"
    assert not torch.equal(whole.kept, second)


def test_rotations_keep_coordinates_that_they_mix_little(drifted):
    alignment = align(
        *drifted[:2], batches_of(), "orthogonal", sites="block1", allow_larger=True, abstain=0.2
    )
    top = alignment.gauge.dense().abs().topk(2, 1).values
    assert torch.equal(alignment.kept, top[:, 0] - top[:, 1] >= 0.2) and not bool(alignment.kept.all())


def test_provenance_records_threshold_and_number_kept(alignment, tmp_path):
    partial = replace(alignment, abstain=0.1)
    path = partial.gauge.save(tmp_path / "g.safetensors", partial.provenance())
    assert provenance(path)["abstain"] == 0.1 and provenance(path)["kept"] == int(partial.kept.sum()) < D
    assert alignment.provenance()["abstain"] is None and alignment.provenance()["kept"] == D


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), True, "0.1"])
def test_threshold_must_be_a_finite_number(drifted, bad):
    with pytest.raises(ValueError, match=r"abstain=.*allowed: None, or a finite margin"):
        align(*drifted[:2], batches_of(), abstain=bad)


def test_threshold_must_leave_a_coordinate(drifted, alignment):
    largest = float(alignment.margin.max())
    assert int(align(*drifted[:2], batches_of(), sites="block1", abstain=largest).kept.sum()) == 1
    with pytest.raises(ValueError, match=r"abstain=3.0 leaves no coordinate: the largest margin is 0\.\d+"):
        align(*drifted[:2], batches_of(), sites="block1", abstain=3.0)
