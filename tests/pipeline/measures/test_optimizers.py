"""Table c4: theory does not depend on the measurement, and every measurement agrees with it."""

import pandas as pd
import pytest
import torch

from gaugeport.charts import chart_of
from gaugeport.charts.logit_change import random_tokens
from gaugeport.pipeline.measures.gauge_groups import tiny_model
from gaugeport.pipeline.measures.optimizer_recipes import CLIP_NORM, CLIP_VALUE, RECIPES, split_parameters
from gaugeport.pipeline.measures.optimizer_runs import neuron_axes, next_token_loss, reorder, train_from
from gaugeport.pipeline.measures.optimizers import CONDITIONS, optimizer_rows
from gaugeport.pipeline.paths import experiment_module
from gaugeport.pipeline.store.records import Record

MEASURED = {}


def rows_of(recipe):
    if recipe not in MEASURED:
        MEASURED[recipe] = {r["arm"]: r for r in optimizer_rows(recipe, "llama", 0)}
    return MEASURED[recipe]


@pytest.mark.parametrize("recipe", RECIPES)
def test_measurement_agrees_with_theory(recipe):
    rows = rows_of(recipe)
    assert tuple(rows) == CONDITIONS
    assert rows["signs"]["value"] == 0.0
    for condition, r in rows.items():
        assert r["optimizer"] == recipe and r["library"] == (
            "refuses" if r["theory"] == "refused" else "moves"
        )
        if r["theory"] == "exact":
            assert r["value"] <= r["yardstick"], condition
            assert recipe.startswith("muon") or r["value"] <= 1e-10
        else:
            assert r["value"] > max(1e-2, r["yardstick"]), condition


def test_theory_follows_the_algebra_of_the_optimizers():
    """Written out by hand: which groups beyond B_d each optimizer allows, and what dropping signs does."""
    exact = {(name, r["arm"]) for name in RECIPES for r in rows_of(name).values() if r["theory"] == "exact"}
    everywhere = {(name, condition) for name in RECIPES for condition in ("signs", "signed")}
    rotations = {(name, "rotation_frozen") for name in ("sgd", "sgd_nesterov", "sgd_clip_norm", "muon_sgd")}
    assert exact == everywhere | rotations | {("adafactor_torch", "signs_dropped")}
    assert all(rows_of(name)["rotation_trained"]["theory"] == "refused" for name in RECIPES)
    assert rows_of("sgd_clip_value")["rotation_frozen"]["theory"] == "broken"


def test_muon_is_exact_without_bfloat16(monkeypatch):
    """With its Newton-Schulz iteration in float64, Muon is as covariant as SGD, also under rotations."""

    def iteration(grad, coefficients, steps, eps):
        a, b, c = coefficients
        x = grad / grad.norm().clamp(min=eps)
        for _ in range(steps):
            gram = x @ x.T
            x = a * x + (b * gram + c * gram @ gram) @ x
        return x

    monkeypatch.setattr("torch.optim._muon._zeropower_via_newtonschulz", iteration)
    rows = {r["arm"]: r["value"] for r in optimizer_rows("muon_sgd", "llama", 0, "float64")}
    assert max(rows[condition] for condition in ("signs", "signed", "rotation_frozen")) <= 1e-10
    assert min(rows[condition] for condition in ("signs_dropped", "rotation_trained")) > 1e-2


def test_both_recipes_clip_gradients():
    """The rows on clipping mean something only where norms and entries of gradients exceed the bounds."""
    generator = torch.Generator().manual_seed(0)
    model = tiny_model("llama", generator)
    next_token_loss(model, random_tokens(model, generator)).backward()
    gradients = torch.cat([p.grad.flatten() for p in model.parameters()])
    assert float(gradients.norm()) > CLIP_NORM and float((gradients.abs() > CLIP_VALUE).float().mean()) > 0.1


@pytest.mark.parametrize(("family", "conditions"), [("gpt_neox", CONDITIONS), ("gemma2", CONDITIONS[:3])])
def test_other_families(family, conditions):
    """LayerNorm: S_d × {±1} and the rotations that fix 1; post-norm families have no rotations."""
    rows = {r["arm"]: r for r in optimizer_rows("sgd", family, 1)}
    assert tuple(rows) == conditions
    groups = {"gpt_neox": "global_sign_permutation", "gemma2": "signed_permutation"}
    assert rows["signed"]["group"] == groups[family] and rows["signs_dropped"]["group"] == "permutation"
    for r in rows.values():
        assert (r["value"] <= 1e-10) == (r["theory"] == "exact")


def test_gpt2_is_measured_although_its_config_has_dropout():
    rows = optimizer_rows("adamw", "gpt2", 0, warmup=2, steps=2)
    assert [r["library"] for r in rows] == ["moves"] * 3 + ["refuses"] * 2


def test_gains_can_be_held():
    generator = torch.Generator().manual_seed(0)
    for recipe in ("adamw", "sgd"):
        for held in (True, False):
            model = tiny_model("llama", generator)
            gains = {n: model.get_parameter(n).detach().clone() for n in chart_of(model).names("gain")}
            parts = split_parameters(RECIPES[recipe], chart_of(model), model)
            train_from(RECIPES[recipe], parts, model, {}, [random_tokens(model, generator)], hold_gains=held)
            assert all(torch.equal(model.get_parameter(n), g) for n, g in gains.items()) == held
            assert all(model.get_parameter(n).requires_grad for n in gains)


@pytest.mark.parametrize("family", ["llama", "phi3", "gpt2"])
def test_reordering_neurons_keeps_the_function(family):
    generator = torch.Generator().manual_seed(0)
    model = tiny_model(family, generator).double()
    tokens, axes = random_tokens(model, generator), neuron_axes(chart_of(model), model)
    perm = torch.randperm(48, generator=generator)
    before, original = (
        next_token_loss(model, tokens),
        {n: p.detach().clone() for n, p in model.named_parameters()},
    )
    for name, p in model.named_parameters():
        p.data = reorder(p.data, axes[name], perm)
    assert abs((next_token_loss(model, tokens) - before).item()) < 1e-12
    assert not any(torch.equal(model.get_parameter(n), original[n]) for n, k in axes.items() if "neuron" in k)
    for name, p in model.named_parameters():
        assert torch.equal(reorder(p.data, axes[name], torch.argsort(perm)), original[name])


def test_result_depends_on_the_seed_and_not_on_global_state():
    state = torch.get_rng_state()
    first = optimizer_rows("sgd", "llama", 5, warmup=2, steps=2)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(99)
    assert optimizer_rows("sgd", "llama", 5, warmup=2, steps=2) == first
    assert optimizer_rows("sgd", "llama", 6, warmup=2, steps=2) != first


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="optimizer='rmsprop'; allowed: adam, adam_amsgrad"):
        optimizer_rows("rmsprop", "llama", 0)
    with pytest.raises(ValueError, match="family='bert'"):
        optimizer_rows("sgd", "bert", 0)
    with pytest.raises(ValueError, match="dtype='bfloat16'; allowed: float32, float64"):
        optimizer_rows("sgd", "llama", 0, "bfloat16")


# the table


def record(seed, rows):
    config = {"profile": "smoke", "model": {"name": "tinyllama"}, "seed": seed, "setting": "default"}
    config |= {"gauge": "signed_permutation", "matcher": "hungarian_abs", "route": "trajectory"}
    return Record(str(seed), "optimizers", config, [{"model": "llama", **r} for r in rows], 0.0, {}, 2)


def test_the_table_names_theory_and_measurement():
    module = experiment_module("optimizers")
    rows = [r for name in ("adam", "sgd", "muon_sgd") for r in rows_of(name).values()]
    table = module.tabulate([record(0, rows), record(1, rows)])
    seen = module.pivot(table).set_index("optimizer")
    assert len(seen) == 3 and list(seen["n"]) == [2, 2, 2]
    assert seen.loc["sgd", "O(d), gains folded and frozen"].startswith("exact ")
    assert seen.loc["sgd", "O(d), gains folded and trained"].startswith("refused ")
    assert seen.loc["adam", "the same, state without signs"].startswith("broken ")
    assert (
        "(noise" in seen.loc["muon_sgd", "B_d or S_d × {±1}"]
        and "(noise" not in seen.loc["adam", "B_d or S_d × {±1}"]
    )
    assert len(module.plot(table).axes) == 2


def test_the_table_shows_disagreement():
    module = experiment_module("optimizers")
    wrong = {"value": 0.5, "yardstick": 1e-10, "theory": "exact", "library": "moves"}
    assert module.cell(pd.DataFrame([wrong])) == "broken, library moves (theory: exact) 5e-01"
    between = {**wrong, "value": 1e-5, "theory": "refused", "library": "moves"}
    assert module.cell(pd.DataFrame([between])) == "unclear, library moves (theory: refused) 1e-05"
    good = {**wrong, "theory": "refused", "library": "refuses"}
    assert module.cell(pd.DataFrame([good])) == "refused 5e-01"
