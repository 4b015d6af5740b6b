"""Path patching and ACDC: what carries something is kept, and nothing else."""

import math

import pytest
import torch

import dyck_models
from dyck_models import silence, sure_of_itself, value
from gaugeport.pipeline.rotation.lenses import circuits
from gaugeport.pipeline.rotation.toy import components as c
from gaugeport.pipeline.rotation.toy.strings import draw_strings


def generic(seed=0):
    """Folded and in float64, as the lenses read it."""
    return dyck_models.generic(seed, folded=True, scale=0.4).double()


@pytest.fixture(scope="module")
def rows():
    return draw_strings(40, (2, 18), 20, torch.Generator().manual_seed(1))


def test_path_patching_sees_nothing_behind_a_silent_head(rows):
    model = silence(generic(), "L0H1")
    effects = circuits.path_effects(model, sure_of_itself(model, rows))
    assert max(abs(effect) for (source, _), effect in effects.items() if source == "L0H1") < 1e-12
    assert max(abs(effect) for (source, _), effect in effects.items() if source == "L0H0") > 1e-3
    kept = circuits.kept_by_paths(effects, 1e-6)
    assert not kept["L0H1"] and kept["L0H0"] and kept["L1M"]
    found = circuits.path_rows(effects, 1e-6)
    assert value(found, "model", "heads_kept") == 3
    assert value(found, "L0H0", "direct_effect") == effects["L0H0", c.OUTPUT]
    assert value(found, "L0H0", "strongest_edge") == max(v for (s, _), v in effects.items() if s == "L0H0")


@pytest.mark.parametrize("by", circuits.COSTS)
def test_acdc_keeps_exactly_the_edges_that_carry_something(rows, by):
    model, working = generic(), ["L0H1", "L1M"]
    silence(model, *(x for x in c.components(model) if x not in working))
    known = sure_of_itself(model, rows)
    carrying = {(s, "L0H1") for s in c.INPUTS} | {(s, "L1M") for s in (*c.INPUTS, "L0H1")}
    carrying |= {(s, c.OUTPUT) for s in (*c.INPUTS, *working)}
    found = circuits.acdc(model, known, 1e-5, by)
    assert set(found.kept) == carrying
    assert found.loss == found.clean_loss and found.kl == 0
    table = circuits.acdc_rows(found, model)
    assert value(table, "model", "edges_kept") == len(carrying) and value(table, "model", "heads_kept") == 1
    assert {x for x in c.components(model) if value(table, x, "kept")} == set(working)
    assert circuits.acdc(model, known, 1e6, by).kept == [], "a threshold above everything leaves nothing"


def test_acdc_without_shortcuts_finds_the_same(rows):
    """Every edge tried by a whole forward pass, none dropped unseen."""
    model, ids = generic(3), rows["input_ids"]
    with torch.no_grad():
        mean, clean = c.mean_outputs(model, ids), c.run_graph(model, ids).logits
        cost, cut = 0.0, {}
        for destination in [c.OUTPUT, *reversed(c.components(model))]:
            for edge in reversed([e for e in c.edges(model) if e[1] == destination]):
                patches = {**cut, edge: mean[edge[0]]}
                charged = circuits.mean_kl(clean, c.run_graph(model, ids, patches).logits, rows["labels"])
                if charged - cost < 5e-3:
                    cut, cost = patches, charged
    found = circuits.acdc(model, rows, 5e-3)
    assert found.kept == [e for e in c.edges(model) if e not in cut] and 0 < len(cut) < len(c.edges(model))
    assert found.kl == pytest.approx(cost, abs=1e-12) and found.kl > 0


def test_thresholds_and_costs_are_checked(rows):
    model = generic()
    for bad in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(ValueError, match="threshold"):
            circuits.acdc(model, rows, bad)
        with pytest.raises(ValueError, match="threshold"):
            circuits.kept_by_paths({("L0H0", c.OUTPUT): 1.0}, bad)
    with pytest.raises(ValueError, match="cost='accuracy'; allowed: kl, loss"):
        circuits.acdc(model, rows, 1e-3, "accuracy")
