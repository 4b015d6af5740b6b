"""Lenses 1, 3 and 5, and the cross-lens table, see what was planted in a small model, and not where it was not."""

import math

import pytest
import torch

import dyck_models
from dyck_models import head_rows, silence, sure_of_itself, value
from gaugeport.pipeline.rotation.lenses import circuits, comparison, regions, roles, task_features, weights
from gaugeport.pipeline.rotation.lenses.measurement import NONE
from gaugeport.pipeline.rotation.toy import components as c
from gaugeport.pipeline.rotation.toy.effects import component_edges, measure_effects
from gaugeport.pipeline.rotation.toy.strings import CLOSE, OPEN, draw_strings, invalid_labels


def generic(seed=0):
    """Folded and in float64, as the lenses read it."""
    return dyck_models.generic(seed, folded=True, scale=0.4).double()


@pytest.fixture(scope="module")
def rows():
    return draw_strings(40, (2, 18), 20, torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def counting():
    """Head L0H1 averages openers minus closers over the past into one coordinate; nothing else writes anything."""
    model = generic()
    silence(model, *(x for x in c.components(model) if x != "L0H1"))
    with torch.no_grad():
        embedding = model.model.embed_tokens.weight.zero_()
        embedding[OPEN:CLOSE, 0], embedding[CLOSE : CLOSE + 3, 0] = 10, -10
        embedding[:9, 1:9] = torch.eye(9, dtype=torch.float64)[:, :8]
        for projection in ("q_proj", "v_proj"):
            head_rows(model, "L0H1", projection).zero_()
        head_rows(model, "L0H1", "v_proj")[0, 0] = 1
        out = model.model.layers[0].self_attn.o_proj.weight.chunk(2, 1)[1]
        out.zero_()
        out[9, 0] = 5
    return model


def test_spectra_are_those_of_the_products():
    gen = torch.Generator().manual_seed(0)
    left, right = (torch.randn(*s, generator=gen, dtype=torch.float64) for s in ((16, 4), (4, 12)))
    dense = torch.linalg.svdvals(left @ right)
    assert torch.allclose(weights.product_spectrum(left, right), dense[:4]) and float(dense[4]) < 1e-12
    assert weights.effective_rank(torch.ones(8)) == pytest.approx(8)
    assert weights.effective_rank(torch.tensor([3.0, 0, 0])) == pytest.approx(1)
    assert weights.effective_rank(torch.zeros(4)) == 0


def test_entropy_of_uniform_and_of_sharp_attention(rows):
    model = generic()
    head_rows(model, "L0H0", "q_proj").zero_()
    head_rows(model, "L0H1", "q_proj").mul_(1e4)
    found = weights.attention_entropy(model, rows["input_ids"])
    assert found["L0H0"] == pytest.approx(1, abs=1e-9) and found["L0H1"] < 0.05
    assert 0.1 < found["L1H0"] < 1 - 1e-3
    measures = weights.weight_rows(model, rows)
    assert (
        value(measures, "L0H0", "role", "role") == "counter"
        and value(measures, "L0H1", "role", "role") == "lookup"
    )
    assert value(measures, "L0H0", "qk_frobenius") == 0 < value(measures, "L0H1", "qk_frobenius")


def test_a_silent_head_is_weak_and_its_peer_writes_all(rows):
    found = weights.weight_rows(silence(generic(), "L0H0"), rows)
    assert value(found, "L0H0", "ov_frobenius") == value(found, "L0H0", "ov_share") == 0
    assert value(found, "L0H0", "role", "role") == "weak" and value(found, "L0H1", "ov_share") == 1
    assert value(found, "L1H0", "ov_share") + value(found, "L1H1", "ov_share") == pytest.approx(1)


def test_dead_neurons_and_the_share_of_the_largest():
    model = generic()
    model.model.layers[1].mlp.down_proj.weight.data[:, :5] = 0
    found = weights.neuron_rows(model)
    assert value(found, "L1M", "neurons_alive") == 19 and value(found, "L0M", "neurons_alive") == 24
    for p in model.model.layers[0].mlp.parameters():
        p.data.fill_(1.0)
    assert value(weights.neuron_rows(model), "L0M", "top_tenth_share") == pytest.approx(2 / 24)


def test_gains_in_place_are_refused(rows):
    model = generic()
    model.model.layers[0].input_layernorm.weight.data[3] = 2
    for lens in (weights.weight_rows, roles.role_rows, roles.tensor_rows):
        with pytest.raises(ValueError, match="expected a folded model"):
            lens(model, rows)
    with pytest.raises(ValueError, match=r"\(3, 1\).*expected a query"):
        weights.attention_entropy(model, torch.ones(3, 1, dtype=torch.long))


def test_features_against_a_stack(rows):
    ids, found = rows["input_ids"], task_features.task_features(rows, 20)
    assert set(found) == set(task_features.KIND) and all(x.shape == ids.shape for x in found.values())
    for i, row in enumerate(ids.tolist()):
        stack, wrong, balance = [], 0, [0, 0, 0]
        for t, token in enumerate(row[: int(rows["attention_mask"][i].sum())]):
            top, before, family = (stack or [None])[-1], wrong, None
            bad = False
            if OPEN <= token < CLOSE:
                family = token - OPEN
                stack.append(family)
                balance[family] += 1
            elif CLOSE <= token < CLOSE + 3:
                family = token - CLOSE
                bad = not stack or stack[-1] != family
                stack = stack[:-1]
                balance[family] -= 1
            wrong += bad
            at = {name: float(x[i, t]) for name, x in found.items()}
            assert at["local_invalid"] == bad and at["sticky_invalid"] == (wrong > 0)
            assert at["invalid_density"] == pytest.approx(wrong / (t + 1), abs=1e-6)
            assert at["raw_average_depth"] == pytest.approx(sum(balance) / (t + 1), abs=1e-6)
            assert at["own_balance"] == pytest.approx(
                (0 if family is None else balance[family]) / (t + 1), abs=1e-6
            )
            for f in range(3):
                assert at[f"met_{f}"] == (top == f and before == 0)
                assert at[f"top_{f}"] == (bool(stack) and stack[-1] == f and wrong == 0)
    assert torch.equal((found["local_invalid"].cumsum(1) > 0).long(), invalid_labels(ids))


def test_regression_finds_a_planted_feature_and_no_shuffled_one(rows):
    gen, kept = torch.Generator().manual_seed(2), rows["attention_mask"] == 1
    depth = task_features.task_features(rows, 20)["depth"]
    x = torch.randn(*depth.shape, 8, generator=gen, dtype=torch.float64)
    features = {
        "planted": depth,
        "shuffled": depth[torch.randperm(len(depth), generator=gen)][:, torch.randperm(20, generator=gen)],
        "constant": torch.ones_like(depth),
    }
    noise = roles.scores(x, features, kept)
    direction = torch.randn(8, generator=gen, dtype=torch.float64)
    found = roles.scores(x.cumsum(1) * 0.01 + depth[..., None] * direction, features, kept)
    assert (
        found["planted"] > 0.99 and noise["planted"] < 0.05 and found["shuffled"] < 0.05 > noise["shuffled"]
    )
    assert "constant" not in found
    with pytest.raises(ValueError, match=r"1 rows.*expected 2 or more"):
        roles.scores(x[:1], {"planted": depth[:1]}, kept[:1])


def test_redundant_inputs_do_not_disturb_the_regression(rows):
    kept, depth = rows["attention_mask"] == 1, task_features.task_features(rows, 20)["depth"]
    x = torch.randn(*depth.shape, 4, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    noisy = torch.cat([x, x @ torch.ones(4, 4).double()], -1).float()  # rank 4 but for float32's rounding
    once, twice = (roles.scores(z, {"depth": depth}, kept)["depth"] for z in (x, noisy))
    assert once == pytest.approx(twice, abs=1e-5)


def test_a_planted_counter_is_what_every_lens_says(counting, rows):
    found = roles.role_rows(counting, rows)
    assert (
        value(found, "L0H1", "role", "feature") == "raw_average_depth" and value(found, "L0H1", "role") > 0.5
    )
    assert value(found, "L0H1", "distinctive", "role") == "count"
    assert value(found, "L0H1", "r2_output", feature="raw_average_depth") > 0.99
    assert value(found, "L0H1", "lost", feature="raw_average_depth") > 0.5
    for other in ("L0H0", "L0M", "L1H1", "L1M"):
        assert value(found, other, "role", "feature") == NONE
    before, after = (
        value(found, f"resid_{at}_0", "r2", feature="raw_average_depth") for at in ("pre", "mid")
    )
    assert after > 0.99 > before + 0.5
    assert value(weights.weight_rows(counting, rows), "L0H1", "role", "role") == "counter"
    tensors = roles.tensor_rows(counting, rows)
    written = value(tensors, "model.layers.0.self_attn.o_proj.weight[L0H1]", "writes", "feature")
    assert written.split(", ")[0] == "raw_average_depth"
    assert "is_open" in value(tensors, "model.embed_tokens.weight", "writes", "feature").split(", ")
    assert value(tensors, "model.layers.1.mlp.down_proj.weight", "writes", "feature") == NONE


def every_lens(model, rows, threshold=1e-3, **more):
    ids = rows["input_ids"]
    ablation = measure_effects(model, ids, rows["labels"], component_edges(model), c.mean_outputs(model, ids))
    return comparison.cross_rows(
        weights.weight_rows(model, rows),
        {source: effect for (source, _), effect in ablation.items()},
        circuits.path_rows(circuits.path_effects(model, rows), threshold),
        circuits.acdc_rows(circuits.acdc(model, rows, threshold), model),
        roles.role_rows(model, rows),
        regions.region_rows(model, rows, 0),
        threshold,
        **more,
    )


def test_a_loud_head_that_reads_an_empty_coordinate_is_vestigial(rows):
    model = generic()
    known = sure_of_itself(model, rows)
    with torch.no_grad():
        model.model.embed_tokens.weight[:, 0] = 0
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight[0] = layer.mlp.down_proj.weight[0] = 0
        loud, quiet = (head_rows(model, h, "v_proj") for h in ("L1H0", "L1H1"))
        loud.zero_()[:, 0] = 9
        quiet.zero_()
    found = every_lens(model, known)
    assert value(found, "L1H0", "flag_vestigial") == value(found, "L1H0", "flag_unused") == 1
    assert "OV norm" in value(found, "L1H0", "flag_vestigial", "note")
    assert value(found, "L1H1", "flag_unused") == 1 and value(found, "L1H1", "flag_vestigial") == 0
    for used in ("L0H0", "L0H1", "L0M", "L1M"):
        assert value(found, used, "flag_unused") == 0
    assert value(found, "L1M", "regions_cells") > 1
    assert value(found, "L1H0", "disagreements", "note") == "vestigial"
    flags = sum(r["value"] for r in found if r["metric"].removeprefix("flag_") in comparison.DISAGREEMENTS)
    total = sum(value(found, x, "disagreements") for x in c.components(model))
    assert value(found, "model", "disagreements") == total == flags


def test_every_disagreement_by_its_rule():
    """One head described by hand, a field changed at a time."""

    def flags(
        effect=1.0, paths=1.0, acdc=1.0, looks="counter", raises="count", norm=5.0, other_layer=1.0, **kwargs
    ):
        def row(component, metric, value, **text):
            return {"lens": "x", "component": component, "metric": metric, "value": value, **text}

        numbers = [row("L0H0", m, norm) for m in comparison.HEAD_METRICS] + [row("L0H1", "ov_frobenius", 3.0)]
        numbers += [row(f"L1H{k}", "ov_frobenius", other_layer) for k in range(2)]
        found = comparison.cross_rows(
            [*numbers, row("L0H0", "role", 1.0, role=looks)],
            {"L0H0": effect},
            [row("L0H0", "kept", paths)],
            [row("L0H0", "kept", acdc)],
            [row("L0H0", "role", 0.5, role=raises, feature="some")],
            [],
            kwargs.get("threshold", 0.1),
        )
        return {r for r in ("unused", *comparison.DISAGREEMENTS) if value(found, "L0H0", f"flag_{r}")}

    assert flags() == flags(looks="lookup", raises="match") == flags(looks="mixed", raises="match") == set()
    assert flags(raises="match") == flags(looks="lookup", raises="count") == {"role"}
    assert flags(raises=NONE) == flags(raises="validity") == set()
    assert flags(paths=0.0) == {"paths_acdc"}
    assert flags(acdc=0.0) == {"paths_acdc", "ablation_acdc"}
    assert flags(effect=0.01) == {"ablation_acdc"}
    assert flags(effect=0.01, paths=0.0, acdc=0.0) == {"unused", "vestigial"}
    assert flags(effect=0.01, paths=0.0, acdc=0.0, norm=2.0) == {"unused"}
    assert flags(effect=0.01, paths=0.0, acdc=0.0, other_layer=9.0) == {"unused", "vestigial"}, (
        "of its own layer"
    )
    for bad in (0, -1, math.inf):
        with pytest.raises(ValueError, match="threshold"):
            flags(threshold=bad)


def test_unused_heads_are_as_loud_as_the_used_ones_of_their_layer():
    norms = {"L0H0": 2.0, "L0H1": 4.0, "L0H2": 6.0, "L1H0": 50.0}
    numbers = [
        {"component": c, "metric": m, "value": v} for c, v in norms.items() for m in comparison.HEAD_METRICS
    ]
    words = [{"component": c, "metric": "role", "value": 1.0, "role": "weak"} for c in norms]
    used = {"L0H0": 0.0, "L0H1": 1.0, "L0H2": 1.0, "L1H0": 0.0}
    kept = [{"component": c, "metric": "kept", "value": v} for c, v in used.items()]
    raised = [{"component": c, "metric": "role", "value": 0.0, "role": NONE} for c in norms]
    found = comparison.cross_rows([*numbers, *words], used, kept, kept, raised, [], 0.1)
    assert (
        value(found, "model", "unused_ov_over_used") == value(found, "model", "unused_qk_over_used") == 2 / 5
    )
    every = comparison.cross_rows([*numbers, *words], dict.fromkeys(norms, 1.0), kept, kept, raised, [], 0.1)
    assert not [r for r in every if "over_used" in r["metric"]], "no head is unused"


def test_a_component_that_a_lens_left_out_is_named():
    with pytest.raises(ValueError, match="no kept of L0H0"):
        comparison.cross_rows(
            [{"component": "L0H0", "metric": "ov_frobenius", "value": 1.0}],
            {"L0H0": 1.0},
            [],
            [],
            [],
            [],
            0.1,
        )
