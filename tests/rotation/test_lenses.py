"""The lenses see what was planted in a small model, and do not see it where it was not."""

import math

import numpy as np
import pytest
import torch
from scipy.optimize import linprog

from gaugeport.charts import fold_gains
from gaugeport.rotation import components as c
from gaugeport.rotation.dyck_model import DyckConfig, DyckModel, by_head
from gaugeport.rotation.effects import component_edges, measured
from gaugeport.rotation.lenses import circuits, crosslens, regions, roles, weights
from gaugeport.rotation.strings import CLOSE, IGNORED, OPEN, draw, invalid
from gaugeport.seeds import generator


def small_model(seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        config = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 24, "max_position_embeddings": 20}
        model = DyckModel(DyckConfig(**config, initializer_range=0.4)).double().eval()
        for name, p in model.named_parameters():
            if "norm" in name:
                p.data.uniform_(0.5, 1.5)
    return fold_gains(model)


def silence(model, *names):
    """Nothing that these components would write arrives."""
    with torch.no_grad():
        for name in names:
            layer = model.model.layers[c.layer_of(name)]
            if c.is_mlp(name):
                layer.mlp.down_proj.weight.zero_()
            else:
                layer.self_attn.o_proj.weight.chunk(2, 1)[int(name[-1])].zero_()
    return model


def head_rows(model, name, projection):
    """The head's rows of q_proj, k_proj or v_proj."""
    return getattr(model.model.layers[c.layer_of(name)].self_attn, projection).weight.data.chunk(2)[int(name[-1])]


def value(rows, component, metric, text="value", **where):
    (found,) = [
        r
        for r in rows
        if r["component"] == component and r["metric"] == metric and all(r.get(k) == v for k, v in where.items())
    ]
    return found[text]


def sure_of_itself(model, rows):
    """Rows whose labels are the model's own answers, given with certainty: every cut that does something costs loss."""
    with torch.no_grad():
        for head in (model.lm_head, model.depth_head, model.valid_head):
            head.weight.mul_(50)
        answers = torch.stack([z.argmax(-1) for z in by_head(c.run(model, rows["input_ids"]).logits)], -1)
    return {**rows, "labels": answers.masked_fill(rows["labels"] == IGNORED, IGNORED)}


@pytest.fixture(scope="module")
def rows():
    return draw(40, (2, 18), 20, torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def counting():
    """Head L0H1 averages openers minus closers over the past into one coordinate; nothing else writes anything."""
    model = small_model()
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


# lens 1


def test_spectra_are_those_of_the_products():
    gen = torch.Generator().manual_seed(0)
    left, right = (torch.randn(*s, generator=gen, dtype=torch.float64) for s in ((16, 4), (4, 12)))
    dense = torch.linalg.svdvals(left @ right)
    assert torch.allclose(weights.product_spectrum(left, right), dense[:4]) and float(dense[4]) < 1e-12
    assert weights.effective_rank(torch.ones(8)) == pytest.approx(8)
    assert weights.effective_rank(torch.tensor([3.0, 0, 0])) == pytest.approx(1)
    assert weights.effective_rank(torch.zeros(4)) == 0


def test_entropy_of_uniform_and_of_sharp_attention(rows):
    model = small_model()
    head_rows(model, "L0H0", "q_proj").zero_()
    head_rows(model, "L0H1", "q_proj").mul_(1e4)
    found = weights.attention_entropy(model, rows["input_ids"])
    assert found["L0H0"] == pytest.approx(1, abs=1e-9) and found["L0H1"] < 0.05
    assert 0.1 < found["L1H0"] < 1 - 1e-3
    measures = weights.weight_rows(model, rows)
    assert value(measures, "L0H0", "role", "role") == "counter" and value(measures, "L0H1", "role", "role") == "lookup"
    assert value(measures, "L0H0", "qk_frobenius") == 0 < value(measures, "L0H1", "qk_frobenius")


def test_a_silent_head_is_weak_and_its_peer_writes_all(rows):
    found = weights.weight_rows(silence(small_model(), "L0H0"), rows)
    assert value(found, "L0H0", "ov_frobenius") == value(found, "L0H0", "ov_share") == 0
    assert value(found, "L0H0", "role", "role") == "weak" and value(found, "L0H1", "ov_share") == 1
    assert value(found, "L1H0", "ov_share") + value(found, "L1H1", "ov_share") == pytest.approx(1)


def test_dead_neurons_and_the_share_of_the_largest():
    model = small_model()
    model.model.layers[1].mlp.down_proj.weight.data[:, :5] = 0
    found = weights.neuron_rows(model)
    assert value(found, "L1M", "neurons_alive") == 19 and value(found, "L0M", "neurons_alive") == 24
    for p in model.model.layers[0].mlp.parameters():
        p.data.fill_(1.0)
    assert value(weights.neuron_rows(model), "L0M", "top_tenth_share") == pytest.approx(2 / 24)


def test_gains_in_place_are_refused(rows):
    model = small_model()
    model.model.layers[0].input_layernorm.weight.data[3] = 2
    for lens in (weights.weight_rows, roles.role_rows, roles.tensor_rows):
        with pytest.raises(ValueError, match="fold_gains"):
            lens(model, rows)
    with pytest.raises(ValueError, match="no query"):
        weights.attention_entropy(model, torch.ones(3, 1, dtype=torch.long))


# lens 3


def test_path_patching_sees_nothing_behind_a_silent_head(rows):
    model = silence(small_model(), "L0H1")
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
    model, working = small_model(), ["L0H1", "L1M"]
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
    model, ids = small_model(3), rows["input_ids"]
    with torch.no_grad():
        mean, clean = c.means(model, ids), c.run(model, ids).logits
        cost, cut = 0.0, {}
        for destination in [c.OUTPUT, *reversed(c.components(model))]:
            for edge in reversed([e for e in c.edges(model) if e[1] == destination]):
                patches = {**cut, edge: mean[edge[0]]}
                charged = circuits.kl(clean, c.run(model, ids, patches).logits, rows["labels"])
                if charged - cost < 5e-3:
                    cut, cost = patches, charged
    found = circuits.acdc(model, rows, 5e-3)
    assert found.kept == [e for e in c.edges(model) if e not in cut] and 0 < len(cut) < len(c.edges(model))
    assert found.kl == pytest.approx(cost, abs=1e-12) and found.kl > 0


def test_thresholds_and_costs_are_checked(rows):
    model = small_model()
    for bad in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(ValueError, match="threshold"):
            circuits.acdc(model, rows, bad)
        with pytest.raises(ValueError, match="threshold"):
            circuits.kept_by_paths({("L0H0", c.OUTPUT): 1.0}, bad)
    with pytest.raises(ValueError, match="allowed: kl, loss"):
        circuits.acdc(model, rows, 1e-3, "accuracy")


# lens 4


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
    assert sorted(found.counts, reverse=True) == list(found.counts) and sorted(found.counts) == sorted(repeats.tolist())
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
    with pytest.raises(ValueError, match="at least one token"):
        regions.cells(np.zeros((0, 2), dtype=np.uint8))


def test_the_map_of_a_cell_is_the_mlp_there(rows):
    model, ids = small_model(), rows["input_ids"]
    patterns = regions.activation_patterns(model, rows, 1)
    assert len(patterns) == int(rows["attention_mask"].sum())
    with torch.no_grad():
        wrote = c.run(model, ids).wrote
        mid = sum(wrote[s] for s in (*c.INPUTS, "L0H0", "L0H1", "L0M", "L1H0", "L1H1"))
        x = model.model.layers[1].post_attention_layernorm(mid)[ids != 0]
        for k in range(0, len(x), 37):
            there = regions.cell_map(model, 1, patterns[k])
            assert (there @ x[k] - wrote["L1M"][ids != 0][k]).abs().max() < 1e-12
            other = int((patterns != patterns[k]).any(1).argmax())
            assert (there @ x[other] - wrote["L1M"][ids != 0][other]).abs().max() > 1e-6, "another cell's map differs"


def test_cells_that_differ_in_dead_neurons_share_a_map(rows):
    model = small_model()
    model.model.layers[0].mlp.down_proj.weight.data[:, ::3] = 0
    found = regions.cells(regions.activation_patterns(model, rows, 0))
    maps = torch.stack([regions.cell_map(model, 0, p) for p in found.patterns]).flatten(1)
    brute = len(np.unique(maps.numpy().round(9), axis=0))
    assert regions.distinct_maps(model, 0, found) == brute < len(found.counts)
    assert regions.independent(model, 0)
    for p in (model.model.layers[0].mlp.up_proj.weight.data, model.model.layers[0].mlp.down_proj.weight.data.T):
        p[1] = p[2]
    assert not regions.independent(model, 0)


def test_region_rows_and_the_growth_of_the_count(rows):
    found = regions.region_rows(small_model(), rows, seed=0)
    tokens, count = (value(found, "L0M", metric) for metric in ("tokens", "cells"))
    curve = {int(r["tokens"]): r["value"] for r in found if r["component"] == "L0M" and r["metric"] == "cells_seen"}
    assert curve[1] == 1 and curve[int(tokens)] == count and sorted(curve.values()) == list(curve.values())
    assert set(curve) == {2**k for k in range(9)} | {int(tokens)}
    seen = regions.cells(regions.activation_patterns(small_model(), rows, 0))
    shuffled = seen.of_token[torch.randperm(int(tokens), generator=generator(0, "regions", 0)).numpy()]
    assert curve == {m: len(set(shuffled[:m])) for m in curve}
    assert value(found, "L0M", "share_of_1000_largest") == 1 >= value(found, "L0M", "share_of_1_largest")
    assert value(found, "L1M", "cell_tokens", cell="0") >= value(found, "L1M", "cell_tokens", cell="1")
    assert value(found, "L0M", "neurons_switching") <= value(found, "L0M", "neurons_ever_on") <= 24


# lens 5


def test_features_against_a_stack(rows):
    ids, found = rows["input_ids"], roles.task_features(rows, 20)
    assert set(found) == set(roles.KIND) and all(x.shape == ids.shape for x in found.values())
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
            assert at["own_balance"] == pytest.approx((0 if family is None else balance[family]) / (t + 1), abs=1e-6)
            for f in range(3):
                assert at[f"met_{f}"] == (top == f and before == 0)
                assert at[f"top_{f}"] == (bool(stack) and stack[-1] == f and wrong == 0)
    assert torch.equal((found["local_invalid"].cumsum(1) > 0).long(), invalid(ids))


def test_regression_finds_a_planted_feature_and_no_shuffled_one(rows):
    gen, kept = torch.Generator().manual_seed(2), rows["attention_mask"] == 1
    depth = roles.task_features(rows, 20)["depth"]
    x = torch.randn(*depth.shape, 8, generator=gen, dtype=torch.float64)
    features = {
        "planted": depth,
        "shuffled": depth[torch.randperm(len(depth), generator=gen)][:, torch.randperm(20, generator=gen)],
        "constant": torch.ones_like(depth),
    }
    noise = roles.scores(x, features, kept)
    direction = torch.randn(8, generator=gen, dtype=torch.float64)
    found = roles.scores(x.cumsum(1) * 0.01 + depth[..., None] * direction, features, kept)
    assert found["planted"] > 0.99 and noise["planted"] < 0.05 and found["shuffled"] < 0.05 > noise["shuffled"]
    assert "constant" not in found
    with pytest.raises(ValueError, match="two halves"):
        roles.scores(x[:1], {"planted": depth[:1]}, kept[:1])


def test_redundant_inputs_do_not_disturb_the_regression(rows):
    kept, depth = rows["attention_mask"] == 1, roles.task_features(rows, 20)["depth"]
    x = torch.randn(*depth.shape, 4, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    noisy = torch.cat([x, x @ torch.ones(4, 4).double()], -1).float()  # rank 4 but for float32's rounding
    once, twice = (roles.scores(z, {"depth": depth}, kept)["depth"] for z in (x, noisy))
    assert once == pytest.approx(twice, abs=1e-5)


def test_a_planted_counter_is_what_every_lens_says(counting, rows):
    found = roles.role_rows(counting, rows)
    assert value(found, "L0H1", "role", "feature") == "raw_average_depth" and value(found, "L0H1", "role") > 0.5
    assert value(found, "L0H1", "distinctive", "role") == "count"
    assert value(found, "L0H1", "r2_output", feature="raw_average_depth") > 0.99
    assert value(found, "L0H1", "lost", feature="raw_average_depth") > 0.5
    for other in ("L0H0", "L0M", "L1H1", "L1M"):
        assert value(found, other, "role", "feature") == roles.NONE
    before, after = (value(found, f"resid_{at}_0", "r2", feature="raw_average_depth") for at in ("pre", "mid"))
    assert after > 0.99 > before + 0.5
    assert value(weights.weight_rows(counting, rows), "L0H1", "role", "role") == "counter"
    tensors = roles.tensor_rows(counting, rows)
    written = value(tensors, "model.layers.0.self_attn.o_proj.weight[L0H1]", "writes", "feature")
    assert written.split(", ")[0] == "raw_average_depth"
    assert "is_open" in value(tensors, "model.embed_tokens.weight", "writes", "feature").split(", ")
    assert value(tensors, "model.layers.1.mlp.down_proj.weight", "writes", "feature") == roles.NONE


# across lenses


def every_lens(model, rows, threshold=1e-3, **more):
    ids = rows["input_ids"]
    ablation = measured(model, ids, rows["labels"], component_edges(model), c.means(model, ids))
    return crosslens.cross_rows(
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
    model = small_model()
    known = sure_of_itself(model, rows)
    with torch.no_grad():
        model.model.embed_tokens.weight[:, 0] = 0
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight[0] = layer.mlp.down_proj.weight[0] = 0
        loud, quiet = (head_rows(model, h, "v_proj") for h in ("L1H0", "L1H1"))
        loud.zero_()[:, 0] = 9
        quiet.zero_()
    found = every_lens(model, known, transcoders={"L0M": 0.9})
    assert value(found, "L1H0", "flag_vestigial") == value(found, "L1H0", "flag_unused") == 1
    assert "OV norm" in value(found, "L1H0", "flag_vestigial", "note")
    assert value(found, "L1H1", "flag_unused") == 1 and value(found, "L1H1", "flag_vestigial") == 0
    for used in ("L0H0", "L0H1", "L0M", "L1M"):
        assert value(found, used, "flag_unused") == 0
    assert value(found, "L0M", "transcoder_explained_variance") == 0.9
    assert value(found, "L1M", "regions_cells") > 1
    assert "L1H0 vestigial: OV norm" in "\n".join(crosslens.disagreements(found))
    total = sum(value(found, x, "disagreements") for x in c.components(model))
    assert value(found, "model", "disagreements") == total == len(crosslens.disagreements(found))


def test_every_disagreement_by_its_rule():
    """One head described by hand, a field changed at a time."""

    def flags(effect=1.0, paths=1.0, acdc=1.0, looks="counter", raises="count", norm=5.0, **kwargs):
        def row(component, metric, value, **text):
            return {"lens": "x", "component": component, "metric": metric, "value": value, **text}

        numbers = [row("L0H0", m, norm) for m in crosslens.HEAD_NUMBERS] + [row("L0H1", "ov_frobenius", 3.0)]
        found = crosslens.cross_rows(
            [*numbers, row("L0H0", "role", 1.0, role=looks)],
            {"L0H0": effect},
            [row("L0H0", "kept", paths)],
            [row("L0H0", "kept", acdc)],
            [row("L0H0", "role", 0.5, role=raises, feature="some")],
            [],
            kwargs.get("threshold", 0.1),
        )
        return {r for r in ("unused", *crosslens.RULES) if value(found, "L0H0", f"flag_{r}")}

    assert flags() == flags(looks="lookup", raises="match") == flags(looks="mixed", raises="match") == set()
    assert flags(raises="match") == flags(looks="lookup", raises="count") == {"role"}
    assert flags(raises=roles.NONE) == flags(raises="validity") == set()
    assert flags(paths=0.0) == {"paths_acdc"}
    assert flags(acdc=0.0) == {"paths_acdc", "ablation_acdc"}
    assert flags(effect=0.01) == {"ablation_acdc"}
    assert flags(effect=0.01, paths=0.0, acdc=0.0) == {"unused", "vestigial"}
    assert flags(effect=0.01, paths=0.0, acdc=0.0, norm=2.0) == {"unused"}
    for bad in (0, -1, math.inf):
        with pytest.raises(ValueError, match="threshold"):
            flags(threshold=bad)


def test_a_component_that_a_lens_left_out_is_named():
    with pytest.raises(ValueError, match="no kept of L0H0"):
        crosslens.cross_rows([{"metric": "ov_frobenius", "value": 1.0}], {"L0H0": 1.0}, [], [], [], [], 0.1)
