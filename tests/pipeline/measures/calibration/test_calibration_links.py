"""A link's residual is the identity where its gauge is right; residuals compose; signs set what S_d gets."""

from dataclasses import replace

import pytest
import torch

from gaugeport.alignment.matchers import match
from gaugeport.alignment.moments import MomentStream
from gaugeport.alignment.routes import BASE
from gaugeport.charts import chart_of
from gaugeport.groups import SignedPermutation
from gaugeport.pipeline.measures.calibration.evidence import Setting
from gaugeport.pipeline.measures.calibration.links import (
    Detail,
    Link,
    Side,
    lossless_nmse,
    measure_link,
    residual,
)
from gaugeport.pipeline.measures.calibration.rows import fact_rows, route_rows
from gaugeport.pipeline.measures.calibration.text import Streams, cut_text, record
from gaugeport.pipeline.measures.gauge_groups import tiny_model

SITES = ["embed", "block0", "block1"]
THERE = ("B", 5)
DETAIL = Detail(32, (0.5, 0.75), 2)


def gauges(d, seed):
    g = torch.Generator().manual_seed(seed)
    return SignedPermutation.random(d, g), SignedPermutation.random(d, g)


@pytest.mark.parametrize("noise", [0.0, 0.4, 3.0])
def test_a_residual_is_that_of_the_solver_where_nothing_is_solved_too(noise):
    c = torch.eye(24, dtype=torch.float64)
    c += noise * torch.randn(24, 24, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    found, solved = residual(c, *gauges(24, 4)), match(c, "signed_permutation", "hungarian_abs").gauge
    assert torch.equal(found.perm, solved.perm) and torch.equal(found.sign, solved.sign)


def test_ties_do_not_resolve_to_the_truth():
    found = residual(torch.ones(64, 64, dtype=torch.float64), *gauges(64, 5))
    assert float((found.perm == torch.arange(64)).float().mean()) < 0.2


@pytest.fixture(scope="module")
def sides():
    """A model, and a copy of it whose matrices are slightly off: one pair that every setting can place."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randint(0, 60, (12, 33), generator=generator)
    rows[:, 0] = 1
    text, found = cut_text(rows, [16, 32], [64, 256]), []
    for i, noise in enumerate((0.0, 0.01)):
        model = tiny_model("llama", torch.Generator().manual_seed(0)).float()
        with torch.no_grad():
            for p in model.parameters():
                p += noise * torch.randn(p.shape, generator=generator)
        node = THERE if i else BASE
        found.append(Side(node, model, record(model, chart_of(model), text, SITES, 128)))
    return text, found


@pytest.fixture(scope="module")
def link(sides):
    text, (a, b) = sides
    return measure_link(a, b, text, SITES, DETAIL, None, seed=0)


def endpoint_rows(link):
    return list(route_rows({(BASE, THERE): link}, "endpoint", [BASE, THERE], DETAIL, 0))


def of(rows, **where):
    return [r["value"] for r in rows if all(r.get(k) == v for k, v in where.items())]


def test_every_setting_and_place_is_scored_once(link):
    rows = list(
        route_rows({(BASE, ("B", 5)): link}, "endpoint", [BASE, ("B", 5)], Detail(32, (0.5, 0.75), 2), 0)
    )
    keys = [tuple(sorted((k, str(v)) for k, v in r.items() if k != "value")) for r in rows]
    assert len(keys) == len(set(keys))
    b_d = [r for r in rows if r["group"] == "signed_permutation"]
    assert {r["site"] for r in b_d} == {"", *SITES} and {r["evidence"] for r in b_d} == {
        "site",
        "pooled",
        "weights",
    }
    assert of(b_d, evidence="weights", metric="signed_accuracy") == [1.0]
    assert min(of(b_d, site="block1", samples="tokens", tokens=256, metric="signed_accuracy")) > 0.9


def test_dropping_the_signs_keeps_2p_minus_1_of_a_direction_and_raw_matching_is_capped_by_p(link):
    detail = Detail(32, (0.5, 0.75), 2)
    rows = list(route_rows({(BASE, ("B", 5)): link}, "endpoint", [BASE, ("B", 5)], detail, 0))
    where = {"site": "block1", "tokens": 256, "left_out": "none"}
    signed = of(
        rows, group="signed_permutation", samples="tokens", length=32, metric="index_accuracy", **where
    )
    for p in (0.5, 0.75):
        kept = of(rows, group="permutation", matcher="hungarian_abs", p=p, metric="retention", **where)
        assert kept == pytest.approx([2 * p - 1], abs=1 - signed[0] + 1e-9)
        placed = of(rows, matcher="hungarian_raw", p=p, metric="signed_accuracy", **where)
        assert placed[0] <= p + 1e-9


@pytest.mark.parametrize("p", [0.25, 0.75])
def test_the_nmse_of_dropped_signs_is_that_of_the_stream_itself(p):
    x = torch.randn(200, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(6)) + 0.5
    stream, sign = MomentStream(), torch.where(torch.arange(16) < 16 * p, 1, -1)
    stream.update(x.float(), x.float())
    expected = (x * sign - x).square().sum() / (x - x.mean(0)).square().sum()
    assert lossless_nmse(stream.result(), sign) == pytest.approx(float(expected), rel=1e-5)


def test_a_walk_that_goes_back_over_its_links_is_the_identity(link):
    rows = list(route_rows({(BASE, THERE): link}, "loop", [BASE, THERE, BASE], Detail(32, (), 1), 0))
    assert set(of(rows, metric="signed_accuracy")) == {1.0}


def test_the_plants_do_not_show_in_the_residuals(sides, link):
    text, (a, b) = sides
    other = measure_link(a, b, text, SITES, Detail(32, (), 1), None, seed=1)
    for key, place in link.residuals.items():
        ours, theirs = link.residual(place), other.residual(other.residuals[key])
        assert torch.equal(ours.perm, theirs.perm) and torch.equal(ours.sign, theirs.sign), key


def test_a_link_is_read_as_it_was_saved(link, tmp_path):
    link.save(tmp_path)
    read = Link.load(tmp_path)
    assert read.residuals == link.residuals and read.raw == link.raw and read.facts == link.facts
    assert torch.equal(read.found, link.found)


def test_facts_of_several_links_are_averaged(link):
    rows = list(fact_rows({"A to B": [link], "all": [link, link]}))
    assert of(rows, link="A to B") == of(rows, link="all")
    assert of(rows, link="all", metric="weight_distance", evidence="weights")[0] > 0
    ranks = of(rows, link="all", metric="effective_rank", site="block1")
    assert len(ranks) == 2 and all(1 <= rank <= 32 for rank in ranks)  # first tokens in and out


@pytest.mark.parametrize("also_in_mid_row", [False, True])
def test_pooled_settings_are_one_where_they_leave_out_the_same_tokens_at_every_site(sides, also_in_mid_row):
    text, (a, b) = sides
    d, generator = chart_of(a.model).width, torch.Generator().manual_seed(1)
    groups = [{s: torch.randn(*rows.shape, d, generator=generator) for s in SITES} for rows in text.groups]
    for group in groups:
        for site in SITES:
            group[site][:, 0] += 1000.0
        if also_in_mid_row:  # at one site of three
            group["block1"][:, 7] += 1000.0
    streams = Streams(groups)
    found = measure_link(
        replace(a, streams=streams),
        replace(b, streams=streams),
        text,
        SITES,
        replace(DETAIL, shares=()),
        None,
        0,
    ).residuals
    first, out = (found[Setting(16, which, 256, "tokens"), "pooled"] for which in ("first", "massive"))
    assert (first == out) is not also_in_mid_row
