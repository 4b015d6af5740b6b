"""Lens 4: cells are counted correctly, and a cell's map is what the MLP computes there."""

import numpy as np
import pytest
import torch
from scipy.optimize import linprog

from dyck_models import folded_float64, value
from gaugeport.pipeline.rotation.lenses import regions
from gaugeport.pipeline.rotation.toy import components as c
from gaugeport.utils.seeds import generator


def one_point_per_cell(normals):
    """Ask a linear program for a point of every sign pattern; return those of the patterns that exist."""
    n, d = normals.shape
    points = []
    for k in range(2**n):
        signs = 1.0 - 2 * np.array([k >> i & 1 for i in range(n)])
        solved = linprog(np.zeros(d), -signs[:, None] * normals.numpy(), -np.ones(n), bounds=(None, None))
        points += [solved.x] if solved.status == 0 else []
    return torch.from_numpy(np.stack(points))


@pytest.mark.parametrize(("n", "d"), [(5, 2), (6, 3), (7, 3), (6, 4)])
def test_counted_cells_are_those_of_the_arrangement(n, d):
    normals = torch.randn(n, d, generator=torch.Generator().manual_seed(n + d), dtype=torch.float64)
    points = one_point_per_cell(normals)
    assert len(points) == regions.cells_of_arrangement(n, d) < 2**n
    repeats = torch.arange(len(points)) % 3 + 1
    visited = regions.cells(regions.pack(points.repeat_interleave(repeats, 0) @ normals.T))
    assert sorted(visited.counts, reverse=True) == list(visited.counts)
    assert sorted(visited.counts) == sorted(repeats.tolist())
    cloud = torch.randn(100_000, d, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    visited = regions.cells(regions.pack(cloud @ normals.T))
    assert len(visited.counts) <= len(points) and visited.counts.sum() == 100_000
    assert d > 2 or len(visited.counts) == len(points)


def test_cells_of_an_arrangement_in_closed_form():
    assert [regions.cells_of_arrangement(n, 1) for n in (1, 5)] == [2, 2]
    assert [regions.cells_of_arrangement(n, 2) for n in (1, 2, 7)] == [2, 4, 14]
    assert regions.cells_of_arrangement(4, 9) == 2**4


@pytest.mark.parametrize(("n", "d"), [(0, 3), (3, 0)])
def test_an_arrangement_without_planes_or_dimensions_is_refused(n, d):
    with pytest.raises(ValueError, match=f"{n} hyperplanes in {d} dimensions; allowed: 1 or more"):
        regions.cells_of_arrangement(n, d)


def test_patterns_that_differ_in_the_last_of_many_neurons_are_different_cells():
    pre = -torch.ones(5, 11)
    pre[1:3, 10] = 1
    pre[4, 0] = 1
    visited = regions.cells(regions.pack(pre))
    assert list(visited.counts) == [2, 2, 1] and list(visited.of_token[[0, 1, 4]]) == [0, 1, 2]
    assert (visited.patterns[visited.of_token] == regions.pack(pre)).all()


def test_patterns_of_no_token_are_refused():
    with pytest.raises(ValueError, match=r"\(0, 2\).*expected packed bits"):
        regions.cells(np.zeros((0, 2), dtype=np.uint8))


def test_the_map_of_a_cell_is_the_mlp_there_and_not_elsewhere(rows):
    model, ids = folded_float64(), rows["input_ids"]
    patterns = regions.activation_patterns(model, rows, 1)
    assert len(patterns) == int(rows["attention_mask"].sum())
    with torch.no_grad():
        written = c.run_graph(model, ids).written
        mid = sum(written[s] for s in (*c.INPUTS, "L0H0", "L0H1", "L0M", "L1H0", "L1H1"))
        x = model.model.layers[1].post_attention_layernorm(mid)[ids != 0]
        y = written["L1M"][ids != 0]
        for k in range(0, len(x), 37):
            cell_map = regions.cell_map(model, 1, patterns[k])
            other = int((patterns != patterns[k]).any(1).argmax())
            assert (cell_map @ x[k] - y[k]).abs().max() < 1e-12
            assert (cell_map @ x[other] - y[other]).abs().max() > 1e-6, "another cell has another map"


def test_cells_that_differ_in_dead_neurons_share_a_map(rows):
    model = folded_float64()
    model.model.layers[0].mlp.down_proj.weight.data[:, ::3] = 0
    visited = regions.cells(regions.activation_patterns(model, rows, 0))
    maps = torch.stack([regions.cell_map(model, 0, p) for p in visited.patterns]).flatten(1)
    by_comparing = len(np.unique(maps.numpy().round(9), axis=0))
    assert regions.count_maps(model, 0, visited) == by_comparing < len(visited.counts)


def test_maps_are_dependent_once_two_neurons_are_the_same():
    model = folded_float64()
    model.model.layers[0].mlp.down_proj.weight.data[:, ::3] = 0
    assert regions.maps_independent(model, 0)
    mlp = model.model.layers[0].mlp
    for p in (mlp.up_proj.weight.data, mlp.down_proj.weight.data.T):
        p[1] = p[2]
    assert not regions.maps_independent(model, 0)


def test_rows_count_cells_and_their_growth(rows):
    model = folded_float64()
    measured = regions.region_rows(model, rows, seed=0)
    tokens, cells = (value(measured, "L0M", metric) for metric in ("tokens", "cells"))
    of_curve = [r for r in measured if r["component"] == "L0M" and r["metric"] == "cells_seen"]
    curve = {int(r["tokens"]): r["value"] for r in of_curve}
    assert curve[1] == 1 and curve[int(tokens)] == cells and sorted(curve.values()) == list(curve.values())
    assert set(curve) == {2**k for k in range(9)} | {int(tokens)}
    visited = regions.cells(regions.activation_patterns(model, rows, 0))
    shuffled = visited.of_token[torch.randperm(int(tokens), generator=generator(0, "regions", 0)).numpy()]
    assert curve == {m: len(set(shuffled[:m])) for m in curve}
    assert (
        value(measured, "L0M", "share_of_1000_largest") == 1 >= value(measured, "L0M", "share_of_1_largest")
    )
    assert value(measured, "L1M", "cell_tokens", cell="0") >= value(measured, "L1M", "cell_tokens", cell="1")
    assert value(measured, "L0M", "neurons_switching") <= value(measured, "L0M", "neurons_ever_on") <= 24
