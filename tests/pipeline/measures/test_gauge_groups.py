"""Table a1: theory does not depend on the measurement, and the measurement agrees with it."""

import pytest
import torch

from gaugeport.groups import MeanPreservingOrthogonal, Orthogonal, Permutation, SignedPermutation
from gaugeport.pipeline.measures.gauge_groups import (
    MODEL_TYPES,
    gauge_group_rows,
    generic_element,
    tiny_model,
)

FIELDS = {"chart", "group", "metric", "value", "yardstick", "theory"}
LAYER = ("gpt_neox", "gpt2")
POST_NORM = ("gemma2", "gemma3_text", "olmo2")


@pytest.mark.parametrize("family", MODEL_TYPES)
def test_measurement_agrees_with_theory(family):
    records = gauge_group_rows(family, seed=0)
    charts = ["raw", "degenerate"] + ([] if family in POST_NORM else ["folded"])
    assert [r["chart"] for r in records] == [c for c in charts for _ in range(5)]
    for r in records:
        assert set(r) == FIELDS and r["metric"] == "relative_logit_change"
        if r["theory"] == "exact":
            assert r["value"] <= r["yardstick"] and r["value"] <= 1e-12
        else:
            assert r["value"] > 0.1


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt_neox"])
def test_theory_is_that_of_the_paper(family):
    exact = {
        (r["chart"], r["group"]) for r in gauge_group_rows(family, 1, "float32") if r["theory"] == "exact"
    }
    small = {"permutation", "global_sign_permutation"}
    raw = small if family in LAYER else small | {"signed_permutation"}
    large = raw | {"mean_preserving_orthogonal"} | (set() if family in LAYER else {"orthogonal"})
    expected = {("raw", g) for g in raw} | {("degenerate", g) for g in large}
    assert exact == expected | (set() if family in POST_NORM else {("folded", g) for g in large})


def test_result_depends_on_the_seed_and_not_on_global_state():
    state = torch.get_rng_state()
    first = gauge_group_rows("qwen2", 5, "float32")
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(99)
    assert gauge_group_rows("qwen2", 5, "float32") == first
    assert gauge_group_rows("qwen2", 6, "float32") != first


def test_elements_are_in_no_smaller_group():
    for seed in range(50):
        generator = torch.Generator().manual_seed(seed)
        g = generic_element(SignedPermutation, 3, generator)
        assert set(g.sign.tolist()) == {1, -1} and g.perm.tolist() != [0, 1, 2]
        assert generic_element(Permutation, 2, generator).perm.tolist() == [1, 0]
        assert isinstance(generic_element(MeanPreservingOrthogonal, 3, generator), MeanPreservingOrthogonal)
        assert type(generic_element(Orthogonal, 3, generator)) is Orthogonal


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match=r"family='bert'; allowed: llama, mistral"):
        gauge_group_rows("bert", 0)
    with pytest.raises(ValueError, match="allowed: float32, float64"):
        gauge_group_rows("llama", 0, "bfloat16")
    with pytest.raises(ValueError, match="family='bert'"):
        tiny_model("bert", torch.Generator())


def test_trained_model_is_measured_as_it_is_and_left_unchanged():
    own = tiny_model("llama", torch.Generator().manual_seed(3), width=16)
    before = {name: p.clone() for name, p in own.named_parameters()}
    rows = gauge_group_rows("model", 0, trained=own)
    assert [r for r in rows if r["chart"] == "raw"] == gauge_group_rows(
        "model", 0, trained=own, measured=["raw"]
    )
    assert all((r["value"] <= r["yardstick"]) == (r["theory"] == "exact") for r in rows)
    assert {(r["chart"], r["group"]) for r in rows if r["theory"] == "exact"} >= {
        ("raw", "signed_permutation")
    }
    assert all(torch.equal(p, before[name]) for name, p in own.named_parameters())
