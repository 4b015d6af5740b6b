"""Bars from a sample of components: the estimate against all of them, on effects with a known tail."""

import numpy as np
import pytest
import torch

from gaugeport.pipeline.rotation.toy.sampled import DESIGNS, probabilities, sampled_pearson, sampling_rows


@pytest.fixture(scope="module")
def effects():
    """Predicted and measured effects of 200 components, a few of them far larger than the others."""
    rng = np.random.default_rng(0)
    x = rng.standard_t(2, 200)
    return torch.tensor(x), torch.tensor(0.8 * x + rng.standard_normal(200))


def test_all_components_once_give_the_correlation(effects):
    x, y = effects
    every = sampled_pearson(x, y, torch.arange(200), probabilities(x, "uniform"))
    assert every == pytest.approx(np.corrcoef(x, y)[0, 1])


@pytest.mark.parametrize("design", DESIGNS)
def test_large_samples_approach_it_under_either_design(effects, design):
    x, y = effects
    p = probabilities(x, design)
    assert float(p.sum()) == pytest.approx(1) and float(p.min()) >= 0.5 / 200
    drawn = torch.multinomial(p, 200_000, replacement=True, generator=torch.Generator().manual_seed(0))
    assert sampled_pearson(x, y, drawn, p) == pytest.approx(np.corrcoef(x, y)[0, 1], abs=0.02)


def test_errors_fall_with_the_sample_and_drawing_by_size_helps_where_few_carry_it(effects):
    by_edge = ({("c", str(k)): float(v) for k, v in enumerate(side)} for side in effects)
    rows = list(sampling_rows(*by_edge, torch.Generator().manual_seed(0)))
    error = {(r["design"], r["sample"]): r["value"] for r in rows if r["metric"] == "sampling_error"}
    assert {n for _, n in error} == {8, 16, 32, 64, 128}
    for design in DESIGNS:
        assert error[design, 128] < error[design, 32] < error[design, 8]
    assert error["by_size", 32] < error["uniform", 32]


def test_effects_that_are_all_alike_have_no_correlation():
    alike = dict.fromkeys((("c", str(k)) for k in range(9)), 1.0)
    rows = list(sampling_rows(alike, alike, torch.Generator().manual_seed(0)))
    assert {r["metric"] for r in rows} == {"undefined_share"} and {r["value"] for r in rows} == {1.0}
    with pytest.raises(ValueError, match="allowed: uniform, by_size"):
        probabilities(torch.zeros(3), "best")
