"""The comparison of the lenses: every flag is raised by what it says, and by nothing else."""

import math

import pytest
import torch

from dyck_models import folded_float64, head_rows, label_with_own_answers, value
from gaugeport.pipeline.rotation.lenses import circuits, comparison, regions, roles, weights
from gaugeport.pipeline.rotation.lenses.measurement import NONE
from gaugeport.pipeline.rotation.toy import components as c
from gaugeport.pipeline.rotation.toy.effects import component_edges, measure_effects


def compare_all(model, rows, threshold=1e-3):
    """Run lenses 1, 3, 4 and 5 and compare them."""
    ids = rows["input_ids"]
    means = c.mean_outputs(model, ids)
    ablation = measure_effects(model, ids, rows["labels"], component_edges(model), means)
    return comparison.cross_rows(
        weights.weight_rows(model, rows),
        {source: effect for (source, _), effect in ablation.items()},
        circuits.path_rows(circuits.path_effects(model, rows), threshold),
        circuits.acdc_rows(circuits.acdc(model, rows, threshold), model),
        roles.role_rows(model, rows),
        regions.region_rows(model, rows, 0),
        threshold,
    )


def test_a_loud_head_that_reads_an_empty_coordinate_is_vestigial(rows):
    model = folded_float64()
    known = label_with_own_answers(model, rows)
    with torch.no_grad():
        # nothing writes coordinate 0, and the loud head reads nothing else
        model.model.embed_tokens.weight[:, 0] = 0
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight[0] = layer.mlp.down_proj.weight[0] = 0
        loud, quiet = (head_rows(model, h, "v_proj") for h in ("L1H0", "L1H1"))
        loud.zero_()[:, 0] = 9
        quiet.zero_()
    compared = compare_all(model, known)
    assert value(compared, "L1H0", "flag_vestigial") == value(compared, "L1H0", "flag_unused") == 1
    assert "OV norm" in value(compared, "L1H0", "flag_vestigial", "note")
    assert value(compared, "L1H1", "flag_unused") == 1 and value(compared, "L1H1", "flag_vestigial") == 0
    for used in ("L0H0", "L0H1", "L0M", "L1M"):
        assert value(compared, used, "flag_unused") == 0
    assert value(compared, "L1M", "regions_cells") > 1
    assert value(compared, "L1H0", "disagreements", "note") == "vestigial"
    flags = sum(r["value"] for r in compared if r["metric"].removeprefix("flag_") in comparison.DISAGREEMENTS)
    total = sum(value(compared, x, "disagreements") for x in c.components(model))
    assert value(compared, "model", "disagreements") == total == flags


def row(component, metric, value, **text):
    return {"lens": "x", "component": component, "metric": metric, "value": value, **text}


def flags(
    effect=1.0,
    paths=1.0,
    acdc=1.0,
    looks="counter",
    raises="count",
    norm=5.0,
    norm_of_other_layer=1.0,
    threshold=0.1,
):
    """Return the flags raised for a head L0H0 described by hand, whose peer L0H1 has an OV norm of 3."""
    of_head = [row("L0H0", m, norm) for m in comparison.HEAD_METRICS]
    of_others = [row("L0H1", "ov_frobenius", 3.0)]
    of_others += [row(f"L1H{k}", "ov_frobenius", norm_of_other_layer) for k in range(2)]
    compared = comparison.cross_rows(
        [*of_head, *of_others, row("L0H0", "role", 1.0, role=looks)],
        {"L0H0": effect},
        [row("L0H0", "kept", paths)],
        [row("L0H0", "kept", acdc)],
        [row("L0H0", "role", 0.5, role=raises, feature="some")],
        [],
        threshold,
    )
    return {f for f in ("unused", *comparison.DISAGREEMENTS) if value(compared, "L0H0", f"flag_{f}")}


def test_every_flag_is_raised_by_its_rule():
    assert flags() == flags(looks="lookup", raises="match") == flags(looks="mixed", raises="match") == set()
    assert flags(raises="match") == flags(looks="lookup", raises="count") == {"role"}
    assert flags(raises=NONE) == flags(raises="validity") == set()
    assert flags(paths=0.0) == {"paths_acdc"}
    assert flags(acdc=0.0) == {"paths_acdc", "ablation_acdc"}
    assert flags(effect=0.01) == {"ablation_acdc"}
    unused = {"effect": 0.01, "paths": 0.0, "acdc": 0.0}
    assert flags(**unused) == {"unused", "vestigial"}
    assert flags(**unused, norm=2.0) == {"unused"}
    of_own_layer = flags(**unused, norm_of_other_layer=9.0)
    assert of_own_layer == {"unused", "vestigial"}, "the median is that of the head's own layer"


@pytest.mark.parametrize("bad", [0, -1, math.inf])
def test_a_threshold_that_is_not_positive_is_refused(bad):
    with pytest.raises(ValueError, match=f"threshold={bad} nats; allowed: positive"):
        flags(threshold=bad)


def test_loudness_is_the_norm_of_unused_heads_over_that_of_used_ones_in_their_layer():
    norms = {"L0H0": 2.0, "L0H1": 4.0, "L0H2": 6.0, "L1H0": 50.0}
    numbers = [row(head, m, norm) for head, norm in norms.items() for m in comparison.HEAD_METRICS]
    words = [row(head, "role", 1.0, role="weak") for head in norms]
    used = {"L0H0": 0.0, "L0H1": 1.0, "L0H2": 1.0, "L1H0": 0.0}
    kept = [row(head, "kept", v) for head, v in used.items()]
    raised = [row(head, "role", 0.0, role=NONE) for head in norms]
    compared = comparison.cross_rows([*numbers, *words], used, kept, kept, raised, [], 0.1)
    loudness = [value(compared, "model", f"unused_{circuit}_over_used") for circuit in ("ov", "qk")]
    assert loudness == [2 / 5, 2 / 5]
    all_used = dict.fromkeys(norms, 1.0)
    compared = comparison.cross_rows([*numbers, *words], all_used, kept, kept, raised, [], 0.1)
    assert not [r for r in compared if "over_used" in r["metric"]], "no head is unused"


def test_a_component_that_a_lens_left_out_is_named():
    with pytest.raises(ValueError, match=r"no kept of L0H0.*described: none"):
        comparison.cross_rows([row("L0H0", "ov_frobenius", 1.0)], {"L0H0": 1.0}, [], [], [], [], 0.1)
