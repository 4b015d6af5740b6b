"""Test the bars across seeds: effects are predicted on the anchor and measured on the model."""

import pandas as pd
import pytest
import torch

from dyck_models import generic
from gaugeport.groups import Permutation
from gaugeport.pipeline.config.compose import compose_config, from_config
from gaugeport.pipeline.paths import experiment_module
from gaugeport.pipeline.rotation.toy import bars, components, effects
from gaugeport.pipeline.tasks import cross_seed
from gaugeport.pipeline.tasks.shared.toy import correlation_row, heldout
from gaugeport.transport import HeadGauge


@pytest.fixture(scope="module")
def job():
    chosen = ["experiment=bars_cross_seed", "profile=smoke", "seed=1"]
    return from_config(compose_config(chosen), chosen).job


@pytest.fixture(scope="module")
def anchor():
    return generic(folded=True, scale=0.4, max_position_embeddings=64)


@pytest.fixture(scope="module")
def swapped(anchor):
    """The same function with the heads of both layers in the other order."""
    return HeadGauge((Permutation(torch.tensor([1, 0])),) * 2).apply(anchor)


def by_metric(rows):
    return {r["metric"]: r["value"] for r in rows if "component" not in r}


def test_swapped_heads_lower_the_bars(job, anchor, swapped):
    limits = bars.Thresholds()
    same = by_metric(cross_seed.correlations(job, anchor, anchor, limits))
    other = by_metric(cross_seed.correlations(job, anchor, swapped, limits))
    assert same["bar_c_edges_pearson"] == pytest.approx(1) and same["bar_pr_pearson"] == pytest.approx(1)
    assert same["bar_c_pearson"] > 0.99 > other["bar_c_pearson"] and other["bar_c_edges_pearson"] < 0.99
    assert other["bar_pr_pearson"] < same["bar_pr_pearson"]
    assert same["bar_c_any_order"] < same["bar_c_pearson"]
    assert same["bar_c_heads_any_order"] < same["bar_c_heads_pearson"] == pytest.approx(1, abs=1e-3)
    # effects are float32 losses: a Pearson correlation of them is rounded at about 1e-6
    for metric in ("bar_c_any_order", "bar_c_heads_any_order"):
        assert other[metric] == pytest.approx(same[metric], abs=1e-5), "the mean over orders ignores order"


def test_effects_are_predicted_on_anchor_and_measured_on_model(job, anchor):
    model = generic(5, folded=True, scale=0.4, max_position_embeddings=64)
    rows = cross_seed.correlations(job, anchor, model, bars.Thresholds())
    strings = heldout(job, job.task["rows"], "effects")
    ids, labels = strings["input_ids"], strings["labels"]
    # four points on the path predict effects within 5 %
    for metric, m, tolerance in (("effect", model, 1e-6), ("effect_predicted", anchor, 0.05)):
        reported = {r["component"]: r["value"] for r in rows if r["metric"] == metric}
        edges, means = effects.component_edges(m), components.mean_outputs(m, ids)
        expected = effects.measure_effects(m, ids, labels, edges, means)
        largest = max(abs(value) for value in expected.values())
        errors = [abs(reported[component] - value) for (component, _), value in expected.items()]
        assert max(errors) <= tolerance * largest
    own, other = (effects.component_edges(m) for m in (anchor, model))
    assert own == other


def test_correlation_with_constant_effects_is_undefined_and_fails():
    edges = [("L0H0", "all"), ("L0M", "all")]
    constant, varying = dict.fromkeys(edges, 0.0), dict(zip(edges, (1.0, 2.0), strict=True))
    row = correlation_row("bar_c", "c", constant, varying, bars.Thresholds())
    assert row == {"metric": "bar_c_pearson_undefined", "value": 1.0, "status": "FAIL"}


def test_share_explained_by_group_is_computed_from_objective():
    module = experiment_module("bars_cross_seed")
    objective = {"identity": 0.4, "signed_permutation": 0.3, "orthogonal": 0.1}
    rows = [{"metric": "bar_p_objective", "alignment": a, "value": v} for a, v in objective.items()]
    rows += [{"metric": "bar_p_global_mse", "alignment": a, "value": 1 - v} for a, v in objective.items()]
    assert module.explained(pd.DataFrame(rows), "folded") == pytest.approx(
        {"signed_permutation": 0.25, "orthogonal": 0.75}
    )


def test_head_mse_is_averaged_over_used_and_unused_heads():
    module = experiment_module("bars_cross_seed")
    effect = {"L0H0": 0.5, "L0H1": 1e-4, "L1H0": 0.02}
    mse = {"L0H0": 0.1, "L0H1": 0.7, "L1H0": 0.3}
    rows = [{"metric": "effect_predicted", "component": c, "value": v} for c, v in effect.items()]
    rows += [{"metric": "bar_p_head", "component": c, "value": v} for c, v in mse.items()]
    assert module.of_heads(pd.DataFrame(rows)) == pytest.approx([0.2, 0.7])


def test_head_mse_is_mean_over_its_four_matrices(anchor):
    model = generic(folded=True, scale=0.4, max_position_embeddings=64)
    with torch.no_grad():
        model.model.layers[1].self_attn.v_proj.weight[:8] += 0.5
    mse = {row["component"]: row["value"] for row in cross_seed.head_rows(model, anchor)}
    assert mse == pytest.approx({"L0H0": 0, "L0H1": 0, "L1H0": 0.25 / 4, "L1H1": 0})
