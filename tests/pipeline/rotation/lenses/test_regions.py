"""Activation patterns: counts against enumeration and against the arrangement's formula, and what a cell computes."""

import numpy as np
import pytest
import torch
from scipy.optimize import linprog

import dyck_models
from dyck_models import value
from gaugeport.pipeline.rotation.lenses import regions
from gaugeport.pipeline.rotation.toy import components as c
from gaugeport.pipeline.rotation.toy.strings import draw_strings
from gaugeport.utils.seeds import generator


def generic(seed=0):
    """Folded and in float64, as the lenses read it."""
    return dyck_models.generic(seed, folded=True, scale=0.4).double()


@pytest.fixture(scope="module")
def rows():
    return draw_strings(40, (2, 18), 20, torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("n", "d"), [(5, 2), (6, 3), (7, 3), (6, 4)])
def test_counted_cells_are_those_of_the_arrangement(n, d):
    """Every one of the 2^n sign patterns asked of a linear program; the points it finds counted by the lens."""
    normals = torch.randn(n, d, generator=torch.Generator().manual_seed(n + d), dtype=torch.float64)
    points = []
    for k in range(2**n):
        signs = 1.0 - 2 * np.array([k >> i & 1 for i in range(n)])
        solved = linprog(np.zeros(d), -signs[:, None] * normals.numpy(), -np.ones(n), bounds=(None, None))
        points += [solved.x] if solved.status == 0 else []
    assert len(points) == regions.cells_of_arrangement(n, d) < 2**n
    inside = torch.from_numpy(np.stack(points))
    repeats = torch.arange(len(points)) % 3 + 1
    found = regions.cells(regions.pack(inside.repeat_interleave(repeats, 0) @ normals.T))
    assert sorted(found.counts, reverse=True) == list(found.counts) and sorted(found.counts) == sorted(
        repeats.tolist()
    )
    cloud = torch.randn(100_000, d, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    seen = regions.cells(regions.pack(cloud @ normals.T))
    assert len(seen.counts) <= len(points) and seen.counts.sum() == 100_000
    assert d > 2 or len(seen.counts) == len(points)


def test_cells_of_an_arrangement_in_closed_form():
    assert [regions.cells_of_arrangement(n, 1) for n in (1, 5)] == [2, 2]
    assert [regions.cells_of_arrangement(n, 2) for n in (1, 2, 7)] == [2, 4, 14]
    assert regions.cells_of_arrangement(4, 9) == 2**4
    for n, d in ((0, 3), (3, 0)):
        with pytest.raises(ValueError, match="allowed: 1 or more"):
            regions.cells_of_arrangement(n, d)


def test_patterns_differing_in_the_last_of_many_neurons_are_different_cells():
    pre = -torch.ones(5, 11)
    pre[1:3, 10] = 1
    pre[4, 0] = 1
    found = regions.cells(regions.pack(pre))
    assert list(found.counts) == [2, 2, 1] and list(found.of_token[[0, 1, 4]]) == [0, 1, 2]
    assert (found.patterns[found.of_token] == regions.pack(pre)).all()
    with pytest.raises(ValueError, match=r"\(0, 2\).*expected packed bits"):
        regions.cells(np.zeros((0, 2), dtype=np.uint8))


def test_the_map_of_a_cell_is_the_mlp_there(rows):
    model, ids = generic(), rows["input_ids"]
    patterns = regions.activation_patterns(model, rows, 1)
    assert len(patterns) == int(rows["attention_mask"].sum())
    with torch.no_grad():
        written = c.run_graph(model, ids).written
        mid = sum(written[s] for s in (*c.INPUTS, "L0H0", "L0H1", "L0M", "L1H0", "L1H1"))
        x = model.model.layers[1].post_attention_layernorm(mid)[ids != 0]
        for k in range(0, len(x), 37):
            there = regions.cell_map(model, 1, patterns[k])
            assert (there @ x[k] - written["L1M"][ids != 0][k]).abs().max() < 1e-12
            other = int((patterns != patterns[k]).any(1).argmax())
            assert (there @ x[other] - written["L1M"][ids != 0][other]).abs().max() > 1e-6, (
                "another cell's map differs"
            )


def test_cells_that_differ_in_dead_neurons_share_a_map(rows):
    model = generic()
    model.model.layers[0].mlp.down_proj.weight.data[:, ::3] = 0
    found = regions.cells(regions.activation_patterns(model, rows, 0))
    maps = torch.stack([regions.cell_map(model, 0, p) for p in found.patterns]).flatten(1)
    brute = len(np.unique(maps.numpy().round(9), axis=0))
    assert regions.count_maps(model, 0, found) == brute < len(found.counts)
    assert regions.maps_independent(model, 0)
    for p in (
        model.model.layers[0].mlp.up_proj.weight.data,
        model.model.layers[0].mlp.down_proj.weight.data.T,
    ):
        p[1] = p[2]
    assert not regions.maps_independent(model, 0)


def test_region_rows_and_the_growth_of_the_count(rows):
    found = regions.region_rows(generic(), rows, seed=0)
    tokens, count = (value(found, "L0M", metric) for metric in ("tokens", "cells"))
    curve = {
        int(r["tokens"]): r["value"] for r in found if r["component"] == "L0M" and r["metric"] == "cells_seen"
    }
    assert curve[1] == 1 and curve[int(tokens)] == count and sorted(curve.values()) == list(curve.values())
    assert set(curve) == {2**k for k in range(9)} | {int(tokens)}
    seen = regions.cells(regions.activation_patterns(generic(), rows, 0))
    shuffled = seen.of_token[torch.randperm(int(tokens), generator=generator(0, "regions", 0)).numpy()]
    assert curve == {m: len(set(shuffled[:m])) for m in curve}
    assert value(found, "L0M", "share_of_1000_largest") == 1 >= value(found, "L0M", "share_of_1_largest")
    assert value(found, "L1M", "cell_tokens", cell="0") >= value(found, "L1M", "cell_tokens", cell="1")
    assert value(found, "L0M", "neurons_switching") <= value(found, "L0M", "neurons_ever_on") <= 24
