"""Lens 3: path patching and ACDC keep what carries something, and nothing else."""

import math

import pytest
import torch

from dyck_models import folded_float64, label_with_own_answers, silence, value
from gaugeport.pipeline.rotation.lenses import circuits
from gaugeport.pipeline.rotation.toy import components as c


def test_path_patching_measures_no_effect_of_a_silent_head(rows):
    model = silence(folded_float64(), "L0H1")
    effects = circuits.path_effects(model, label_with_own_answers(model, rows))
    of_silent, of_peer = ([v for (s, _), v in effects.items() if s == head] for head in ("L0H1", "L0H0"))
    assert max(abs(v) for v in of_silent) < 1e-12 and max(abs(v) for v in of_peer) > 1e-3
    kept = circuits.kept_by_paths(effects, 1e-6)
    assert not kept["L0H1"] and kept["L0H0"] and kept["L1M"]
    measured = circuits.path_rows(effects, 1e-6)
    assert value(measured, "model", "heads_kept") == 3
    assert value(measured, "L0H0", "direct_effect") == effects["L0H0", c.OUTPUT]
    assert value(measured, "L0H0", "strongest_edge") == max(of_peer)


@pytest.mark.parametrize("cost", circuits.COSTS)
def test_acdc_keeps_exactly_the_edges_that_carry_something(rows, cost):
    model, working = folded_float64(), ["L0H1", "L1M"]
    silence(model, *(x for x in c.components(model) if x not in working))
    known = label_with_own_answers(model, rows)
    carrying = {(s, "L0H1") for s in c.INPUTS} | {(s, "L1M") for s in (*c.INPUTS, "L0H1")}
    carrying |= {(s, c.OUTPUT) for s in (*c.INPUTS, *working)}
    circuit = circuits.acdc(model, known, 1e-5, cost)
    assert set(circuit.kept) == carrying
    assert circuit.loss == circuit.clean_loss and circuit.kl == 0
    table = circuits.acdc_rows(circuit, model)
    assert value(table, "model", "edges_kept") == len(carrying) and value(table, "model", "heads_kept") == 1
    assert {x for x in c.components(model) if value(table, x, "kept")} == set(working)
    assert circuits.acdc(model, known, 1e6, cost).kept == [], "a threshold above everything leaves nothing"


def test_acdc_finds_the_same_circuit_without_its_shortcuts(rows):
    """Here every edge is tried, and by a whole forward pass."""
    model, ids = folded_float64(3), rows["input_ids"]
    with torch.no_grad():
        mean, clean = c.mean_outputs(model, ids), c.run_graph(model, ids).logits
        cost, cut = 0.0, {}
        for destination in [c.OUTPUT, *reversed(c.components(model))]:
            for edge in reversed([e for e in c.edges(model) if e[1] == destination]):
                patches = {**cut, edge: mean[edge[0]]}
                tried = circuits.mean_kl(clean, c.run_graph(model, ids, patches).logits, rows["labels"])
                if tried - cost < 5e-3:
                    cut, cost = patches, tried
    circuit = circuits.acdc(model, rows, 5e-3)
    assert circuit.kept == [e for e in c.edges(model) if e not in cut]
    assert 0 < len(cut) < len(c.edges(model))
    assert circuit.kl == pytest.approx(cost, abs=1e-12) and circuit.kl > 0


@pytest.mark.parametrize("bad", [0.0, -1.0, math.inf, math.nan])
def test_a_threshold_that_is_not_positive_is_refused(rows, bad):
    with pytest.raises(ValueError, match=f"threshold={bad} nats; allowed: positive"):
        circuits.acdc(folded_float64(), rows, bad)
    with pytest.raises(ValueError, match=f"threshold={bad} nats; allowed: positive"):
        circuits.kept_by_paths({("L0H0", c.OUTPUT): 1.0}, bad)


def test_an_unknown_cost_is_refused(rows):
    with pytest.raises(ValueError, match="cost='accuracy'; allowed: kl, loss"):
        circuits.acdc(folded_float64(), rows, 1e-3, "accuracy")
