"""Lens 5: regressions find what was planted and nothing else, and a planted counter is named as one."""

import pytest
import torch

from dyck_models import folded_float64, head_rows, silence, value
from gaugeport.pipeline.rotation.lenses import roles, weights
from gaugeport.pipeline.rotation.lenses.measurement import NONE
from gaugeport.pipeline.rotation.lenses.task_features import task_features
from gaugeport.pipeline.rotation.toy import components as c
from gaugeport.pipeline.rotation.toy.strings import CLOSE, OPEN


@pytest.fixture(scope="module")
def counting():
    """In this model, L0H1 averages openers minus closers over the past; nothing else writes."""
    model = folded_float64()
    silence(model, *(x for x in c.components(model) if x != "L0H1"))
    with torch.no_grad():
        # openers and closers are opposite in coordinate 0; coordinates 1 to 8 tell the tokens apart
        embedding = model.model.embed_tokens.weight.zero_()
        embedding[OPEN:CLOSE, 0], embedding[CLOSE : CLOSE + 3, 0] = 10, -10
        embedding[:9, 1:9] = torch.eye(9, dtype=torch.float64)[:, :8]
        # the head attends uniformly, reads coordinate 0 and writes coordinate 9
        for projection in ("q_proj", "v_proj"):
            head_rows(model, "L0H1", projection).zero_()
        head_rows(model, "L0H1", "v_proj")[0, 0] = 1
        out = model.model.layers[0].self_attn.o_proj.weight.chunk(2, 1)[1]
        out.zero_()
        out[9, 0] = 5
    return model


@pytest.fixture(scope="module")
def kept(rows):
    return rows["attention_mask"] == 1


@pytest.fixture(scope="module")
def depth(rows):
    return task_features(rows, 20)["depth"]


def test_regression_finds_a_planted_feature_and_not_a_shuffled_one(kept, depth):
    gen = torch.Generator().manual_seed(2)
    x = torch.randn(*depth.shape, 8, generator=gen, dtype=torch.float64)
    features = {
        "planted": depth,
        "shuffled": depth[torch.randperm(len(depth), generator=gen)][:, torch.randperm(20, generator=gen)],
        "constant": torch.ones_like(depth),
    }
    in_noise = roles.scores(x, features, kept)
    direction = torch.randn(8, generator=gen, dtype=torch.float64)
    r2 = roles.scores(x.cumsum(1) * 0.01 + depth[..., None] * direction, features, kept)
    assert r2["planted"] > 0.99 and in_noise["planted"] < 0.05
    assert r2["shuffled"] < 0.05 > in_noise["shuffled"]
    assert "constant" not in r2


def test_one_row_cannot_be_regressed(kept, depth):
    with pytest.raises(ValueError, match=r"1 rows.*expected 2 or more"):
        roles.scores(torch.zeros(1, 20, 8), {"planted": depth[:1]}, kept[:1])


def test_redundant_inputs_do_not_disturb_the_regression(kept, depth):
    x = torch.randn(*depth.shape, 4, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    redundant = torch.cat(
        [x, x @ torch.ones(4, 4).double()], -1
    ).float()  # rank 4, but for float32's rounding
    once, twice = (roles.scores(z, {"depth": depth}, kept)["depth"] for z in (x, redundant))
    assert once == pytest.approx(twice, abs=1e-5)


def test_lens_5_finds_the_planted_counter(counting, rows):
    measured = roles.role_rows(counting, rows)
    average = "raw_average_depth"
    assert value(measured, "L0H1", "role", "feature") == average and value(measured, "L0H1", "role") > 0.5
    assert value(measured, "L0H1", "distinctive", "role") == "count"
    assert value(measured, "L0H1", "r2_output", feature=average) > 0.99
    assert value(measured, "L0H1", "lost", feature=average) > 0.5
    for other in ("L0H0", "L0M", "L1H1", "L1M"):
        assert value(measured, other, "role", "feature") == NONE
    before, after = (value(measured, f"resid_{at}_0", "r2", feature=average) for at in ("pre", "mid"))
    assert after > 0.99 > before + 0.5


def test_lens_1_calls_the_planted_counter_a_counter(counting, rows):
    assert value(weights.weight_rows(counting, rows), "L0H1", "role", "role") == "counter"


def test_weight_matrices_write_what_was_planted(counting, rows):
    measured = roles.tensor_rows(counting, rows)

    def written(tensor):
        return value(measured, tensor, "writes", "feature")

    by_head = written("model.layers.0.self_attn.o_proj.weight[L0H1]")
    assert by_head.split(", ")[0] == "raw_average_depth"
    assert "is_open" in written("model.embed_tokens.weight").split(", ")
    assert written("model.layers.1.mlp.down_proj.weight") == NONE
