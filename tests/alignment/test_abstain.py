"""``align(..., abstain=…)``: which coordinates are left out, that those are the doubtful ones, and what it costs."""

import copy
from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from gaugeport.alignment.align import align, align_along
from gaugeport.groups import SignedPermutation, provenance
from gaugeport.pipeline.measures.gauge_groups import tiny_model
from gaugeport.transport import lost_share, transport_direction, transport_indices, transport_model

D = 32


def gen(seed):
    return torch.Generator().manual_seed(seed)


def batches_of(n=6):
    return [{"input_ids": torch.randint(0, 64, (8, 16), generator=gen(s))} for s in range(n)]


def noisy(model, scale, seed):
    moved, generator = copy.deepcopy(model), gen(seed)
    with torch.no_grad():
        for p in moved.parameters():
            p.add_(torch.randn(p.shape, generator=generator) * scale * p.std())
    return moved


@pytest.fixture(scope="module")
def drifted():
    """A, its noisy and planted neighbour B, and the plant: a pair on which matching makes mistakes."""
    model, g = tiny_model("llama", gen(0)), SignedPermutation.random(D, gen(1))
    return model, transport_model(noisy(model, 0.5, 2), g), g


@pytest.fixture(scope="module")
def found(drifted):
    return align(*drifted[:2], batches_of(), sites="block1")


def right(found, g):
    return (found.gauge.perm == g.perm) & (found.gauge.sign == g.sign)


def test_without_a_threshold_all_are_kept(found):
    assert found.abstain is None and found.kept.dtype == torch.bool
    assert torch.equal(found.kept, torch.ones(D, dtype=torch.bool))


def test_a_threshold_keeps_margins_at_or_above_it(drifted, found):
    threshold = float(found.margin.median())
    some = align(*drifted[:2], batches_of(), sites="block1", abstain=threshold)
    assert some.gauge == found.gauge and torch.equal(some.margin, found.margin), "the gauge stays complete"
    assert torch.equal(some.kept, found.margin >= threshold)
    assert 0 < int(some.kept.sum()) < D and bool(some.kept[found.margin.argsort()[(D - 1) // 2]]), (
        "at it: kept"
    )
    assert torch.equal(replace(found, abstain=threshold).kept, some.kept)


def test_what_is_kept_is_more_often_right(drifted, found):
    """And leaving out the confident half instead is the negative control."""
    good = right(found, drifted[2])
    some = replace(found, abstain=float(found.margin.median())).kept
    assert 0.1 < float(good.float().mean()) < 0.9, "drift is large enough for mistakes"
    assert float(good[some].float().mean()) > float(good.float().mean()) > float(good[~some].float().mean())


def test_the_transports_take_it_and_say_what_it_costs(found):
    some = replace(found, abstain=float(found.margin.median()))
    v = torch.randn(D, generator=gen(3))
    moved = transport_direction(v, some.gauge, kept=some.kept)
    assert torch.equal(moved != 0, some.kept) and torch.equal(moved, some.gauge.act(v) * some.kept)
    lost = lost_share(v, some.gauge, some.kept)
    assert float(lost) == pytest.approx(1 - float(moved.square().sum() / v.square().sum()))
    listed = transport_indices(range_list := list(range(D)), some.gauge, kept=some.kept)
    assert set(listed.index.tolist()) == set(some.kept.nonzero().flatten().tolist())
    assert len(listed.dropped) == int((~some.kept).sum())
    assert set(listed.dropped.tolist()) == set(some.gauge.perm[~some.kept].tolist()) <= set(range_list)
    everything = transport_indices(range_list, found.gauge, kept=found.kept)
    assert len(everything.dropped) == 0 == float(lost_share(v, found.gauge, found.kept))


def test_along_a_walk_every_link_must_keep_a_coordinate():
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
    assert not torch.equal(whole.kept, second & first), "kept is about coordinates of the last model"
    assert not torch.equal(whole.kept, second)


def test_rotations_keep_rows_that_mix_little(drifted):
    found = align(*drifted[:2], batches_of(), "orthogonal", sites="block1", allow_larger=True, abstain=0.2)
    top = found.gauge.dense().abs().topk(2, 1).values
    assert torch.equal(found.kept, top[:, 0] - top[:, 1] >= 0.2) and not bool(found.kept.all())


def test_provenance_says_so(found, tmp_path):
    some = replace(found, abstain=0.1)
    path = some.gauge.save(tmp_path / "g.safetensors", some.provenance())
    assert provenance(path)["abstain"] == 0.1 and provenance(path)["kept"] == int(some.kept.sum()) < D
    assert found.provenance()["abstain"] is None and found.provenance()["kept"] == D


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), True, "0.1"])
def test_a_threshold_that_is_no_number(drifted, bad):
    with pytest.raises(ValueError, match=r"abstain=.*allowed: None, or a finite margin"):
        align(*drifted[:2], batches_of(), abstain=bad)


def test_a_threshold_that_leaves_nothing(drifted, found):
    largest = float(found.margin.max())
    assert int(align(*drifted[:2], batches_of(), sites="block1", abstain=largest).kept.sum()) == 1
    with pytest.raises(ValueError, match=r"abstain=3.0 leaves no coordinate: the largest margin is 0\.\d+"):
        align(*drifted[:2], batches_of(), sites="block1", abstain=3.0)
