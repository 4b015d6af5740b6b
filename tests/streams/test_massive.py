"""Massive activations: found by their norm wherever they are, and left out of evidence."""

import pytest
import torch

from gaugeport.alignment.align import align
from gaugeport.alignment.evidence import pair_moments
from gaugeport.alignment.moments import Moments, MomentStream
from gaugeport.charts import chart_of
from gaugeport.groups import SignedPermutation
from gaugeport.pipeline.measures.gauge_groups import tiny_model
from gaugeport.streams.activations import all_sites, streams_at
from gaugeport.streams.massive import MASSIVE_NORM, leave_out_massive, massive_tokens
from gaugeport.transport import transport_model

D, LOUD = 32, 63
PLACES = ((1, 5), (2, 0), (2, 1), (3, 0))
"""Row and position of the massive tokens: one in mid-row, the first two of a row, the first of another."""


def gen(seed):
    return torch.Generator().manual_seed(seed)


def stream(n=100):
    return torch.nn.functional.normalize(torch.randn(n, D, generator=gen(0)), dim=1)


def loud_model(seed=0, token=LOUD):
    """A model in which one token has activations a thousand times as long as those of the others."""
    model = tiny_model("llama", gen(seed))
    with torch.no_grad():
        model.model.embed_tokens.weight[token] *= 1000
    return model


def batch(seed=0):
    ids = torch.randint(0, 60, (6, 10), generator=gen(seed))
    for place in PLACES:
        ids[place] = LOUD
    return {"input_ids": ids}


def moments_without(models, one_batch, site, *tokens):
    """Return the moments over the tokens of a batch that are not among ``tokens``, by their ids."""
    ordinary = ~torch.isin(one_batch["input_ids"].flatten(), torch.tensor(tokens))
    rows = (streams_at(m, chart_of(m), one_batch, [site], skip_first=0)[site][ordinary] for m in models)
    moments = MomentStream()
    moments.update(*rows)
    return moments.result()


def test_tokens_beyond_ten_medians_are_massive():
    x = stream()
    x[3] *= 1.01 * MASSIVE_NORM
    x[70] *= 0.99 * MASSIVE_NORM
    assert massive_tokens(x).nonzero().flatten().tolist() == [3]
    assert massive_tokens(x.view(10, 10, D)).nonzero().tolist() == [[0, 3]]
    counted = torch.ones(100, dtype=torch.bool)
    counted[3] = False
    assert not massive_tokens(x, counted).any(), "a token that is not counted is not massive"
    assert not massive_tokens(x[:0]).any()


def test_padding_does_not_move_the_median():
    x = torch.cat([stream(20), torch.zeros(80, D)])
    x[4] *= 20
    assert massive_tokens(x, torch.arange(100) < 20).nonzero().flatten().tolist() == [4]
    assert not massive_tokens(x).any(), "without a typical length nothing is massive"


def test_tokens_that_are_not_finite_are_kept_to_be_refused():
    x = stream()
    x[5] = float("inf")
    assert not massive_tokens(x).any()
    assert len(leave_out_massive(x)[0]) == 100


def test_a_token_massive_in_one_model_is_left_out_of_all():
    a, b = stream(), stream().flip(1)
    a[1] *= 20
    b[2] *= 20
    kept = [0, *range(3, 100)]
    for given, found in zip((a, b), leave_out_massive(a, b), strict=True):
        assert torch.equal(found, given[kept])
    assert all(x is y for x, y in zip(leave_out_massive(a, b, massive="keep"), (a, b), strict=True))
    with pytest.raises(ValueError, match="massive='drop'; allowed: leave_out, keep"):
        leave_out_massive(a, massive="drop")


def test_without_massive_tokens_the_tensors_themselves_are_returned():
    x = stream()
    assert leave_out_massive(x)[0] is x


def test_evidence_is_that_of_the_ordinary_tokens():
    models = {"a": loud_model(0), "b": loud_model(1, token=LOUD)}
    batches, pair = [batch(0), batch(1)], ("a", "b")
    found = pair_moments(models, [pair], batches, skip_first=0)[pair]
    kept = pair_moments(models, [pair], batches, skip_first=0, massive="keep")[pair]
    for site in all_sites(2):
        first, second = (moments_without(models.values(), one, site, LOUD) for one in batches)
        clean = first.merge(second).correlation()
        assert torch.allclose(found[site].correlation(), clean, atol=1e-6)
        assert (kept[site].correlation() - clean).abs().max() > 0.1
        assert (found[site].left_out, kept[site].left_out) == (8, 0)
        assert found[site].n + 8 == kept[site].n == 120
    stored = Moments.from_tensors(found["block0"].tensors())
    assert stored.left_out == 8 and stored.n == 112


def test_evidence_leaves_out_what_is_massive_in_either_model():
    models, one = {"a": loud_model(0), "b": loud_model(1, token=59)}, batch()
    found = pair_moments(models, [("a", "b")], [one], ["block0"], skip_first=0)["a", "b"]["block0"]
    clean = moments_without(models.values(), one, "block0", LOUD, 59)
    assert torch.equal(found.cross, clean.cross)
    assert found.left_out == int(torch.isin(one["input_ids"], torch.tensor([LOUD, 59])).sum()) > len(PLACES)


def test_alignment_counts_what_it_leaves_out():
    a, drifted, g = loud_model(), loud_model(), SignedPermutation.random(D, gen(2))
    with torch.no_grad():
        for p in drifted.parameters():
            p += 0.3 * p.abs().median() * torch.randn(p.shape, generator=gen(1))
    b, batches = transport_model(drifted, g), [batch(s) for s in range(8)]
    found = align(a, b, batches, skip_first=0)
    kept = align(a, b, batches, skip_first=0, massive="keep")
    assert found.massive_tokens == dict.fromkeys(all_sites(2), 8 * len(PLACES))
    assert found.provenance()["massive_tokens"] == found.massive_tokens
    assert kept.massive_tokens == dict.fromkeys(all_sites(2), 0)
    assert found.gauge == g
    assert kept.margin.median() < 1e-3 < found.margin.median(), "a few tokens make C nearly constant"
    with pytest.raises(ValueError, match="massive='no'; allowed: leave_out, keep"):
        align(a, b, evidence="weights", massive="no")
