"""The Cayley refinement of a symmetry fit: it never raises the bar, and keeps permutations and scalings."""

import pytest
import torch

from gaugeport.pipeline.rotation.matching.refine import cayley, refine
from gaugeport.pipeline.rotation.matching.symmetry import Symmetry
from matching_models import bar, fit, generator, small_model


@pytest.mark.parametrize("seed", [1, 2])
def test_refinement_is_never_worse_than_its_baseline(seed):
    model, reference = small_model(seed), small_model(seed + 10)
    baseline = fit(model, reference, starts=2)
    starts = [baseline.symmetry, *(c.symmetry for c in baseline.configurations)]
    for steps in (1, 60):
        refined = refine(model, reference, baseline, steps=steps)
        assert refined.max_mse <= baseline.max_mse
        assert refined.max_mse == pytest.approx(min(*refined.trace, baseline.max_mse), rel=1e-9)
        assert bar(refined.symmetry.apply(model), reference) == pytest.approx(refined.max_mse, rel=1e-5)
        assert any(
            refined.symmetry.heads == s.heads
            and refined.symmetry.neurons == s.neurons
            and refined.symmetry.scale[0].equal(s.scale[0])
            for s in starts
        )
        assert refined.configurations == baseline.configurations
    assert refined.max_mse < 0.99 * baseline.max_mse, "a maximum has room that the sum did not use"


def test_refinement_of_exact_fit_stays_exact():
    reference = small_model()
    planted = Symmetry.random(reference, generator(4)).apply(reference)
    baseline = fit(planted, reference, starts=2, polish=400)
    assert refine(planted, reference, baseline, steps=5).max_mse <= baseline.max_mse


def test_cayley_gives_rotations():
    x = torch.randn(3, 6, 6, generator=generator(), dtype=torch.float64)
    r = cayley(x)
    assert torch.allclose(r @ r.mT, torch.eye(6, dtype=x.dtype).expand(3, 6, 6), atol=1e-12)
    assert torch.allclose(torch.linalg.det(r), torch.ones(3, dtype=x.dtype))
    assert torch.equal(cayley(torch.zeros_like(x)), torch.eye(6, dtype=x.dtype).expand(3, 6, 6))


def test_number_of_steps_is_checked():
    model, reference = small_model(1), small_model(2)
    with pytest.raises(ValueError, match="steps=0; allowed: 1 or more"):
        refine(model, reference, fit(model, reference, starts=1), steps=0)
