"""Effects of mean ablation: unchanged by folding, and predicted exactly where theory says so."""

import pytest
import torch

from dyck_models import generic
from gaugeport.charts import fold_gains
from gaugeport.charts.logit_change import norms_in_float64
from gaugeport.pipeline.rotation.toy import components as c
from gaugeport.pipeline.rotation.toy import effects
from gaugeport.pipeline.rotation.toy.strings import draw_strings

ROUNDING = 1e-12
"""Largest rounding error of float64, norms included, for quantities of order 1."""


@pytest.fixture(scope="module")
def rows():
    return draw_strings(12, (2, 18), 20, torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def model():
    """A model in float64 throughout: what should be equal is equal up to :data:`ROUNDING`."""
    model = generic(scale=0.4).double()
    with norms_in_float64(model):
        yield model


def test_folding_leaves_outputs_and_effects_unchanged(model, rows):
    ids, labels = rows["input_ids"], rows["labels"]
    folded, patched = fold_gains(model), effects.component_edges(model)
    with norms_in_float64(folded):
        with torch.no_grad():
            assert (folded(ids).logits - model(ids).logits).abs().max() < ROUNDING
        in_place, in_folded = (
            effects.measure_effects(m, ids, labels, patched, c.mean_outputs(m, ids)) for m in (model, folded)
        )
    assert in_place == pytest.approx(in_folded, abs=ROUNDING)


def test_integrated_gradients_approach_the_measured_effect_with_more_points(model, rows):
    ids, labels, mean = rows["input_ids"], rows["labels"], c.mean_outputs(model, rows["input_ids"])
    patched = [*effects.component_edges(model), ("L0M", "L1M"), ("embed", "L1H1"), ("position", c.OUTPUT)]
    measured = effects.measure_effects(model, ids, labels, patched, mean)

    def worst_error(predicted):
        return max(abs(predicted[e] - measured[e]) for e in patched)

    few, paper, many = (
        worst_error(effects.integrated_gradients(model, ids, labels, patched, mean, points))
        for points in (2, 32, 128)
    )
    assert few > paper > many and many <= 1e-3
    by_clean_gradient = worst_error(effects.attribution_patching(model, ids, labels, patched, mean))
    assert by_clean_gradient > 10 * paper, "the clean gradient alone is no substitute on a generic model"


def test_both_predictors_are_exact_where_the_loss_is_linear(model, rows, monkeypatch):
    """The loss is linear in the logits, the final norm is removed, and edges to the output are patched."""
    linear = generic(scale=0.4).double()
    monkeypatch.setattr(linear.model.norm, "forward", lambda x: x)
    weights = torch.randn(51, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    monkeypatch.setattr(effects, "mean_loss", lambda logits, labels: (logits @ weights).mean())
    ids, labels, mean = rows["input_ids"], rows["labels"], c.mean_outputs(linear, rows["input_ids"])
    patched = [(s, c.OUTPUT) for s in c.components(linear)]
    measured = effects.measure_effects(linear, ids, labels, patched, mean)
    size = max(abs(v) for v in measured.values())
    for predictor in (effects.attribution_patching, effects.integrated_gradients):
        predicted = predictor(linear, ids, labels, patched, mean)
        assert max(abs(predicted[e] - measured[e]) for e in patched) < ROUNDING * max(1, size)


def test_a_path_without_points_is_refused(model, rows):
    with pytest.raises(ValueError, match="points=0; allowed: 1"):
        effects.integrated_gradients(model, rows["input_ids"], rows["labels"], [], {}, 0)
