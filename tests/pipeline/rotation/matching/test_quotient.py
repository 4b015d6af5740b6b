"""The bar up to any residual rotation sees everything but the rotation, and floors bound every element."""

import copy

import pytest
import torch

from gaugeport.groups import Orthogonal
from gaugeport.pipeline.rotation.matching.quotient import floors, quotient_bar
from gaugeport.pipeline.rotation.matching.search import tensor_mse
from gaugeport.pipeline.rotation.matching.symmetry import Symmetry, stream_rows
from gaugeport.transport import transport_model
from matching_models import WIDTH, bar, fit, generator, small_model


def test_quotient_ignores_residual_rotation():
    reference = small_model(2)
    g = Orthogonal.random(WIDTH, generator(1))
    model = transport_model(reference, g)
    rounding = 10 * quotient_bar(transport_model(model, g.inverse()), reference).max_mse
    quotient = quotient_bar(model, reference)
    assert quotient.max_mse <= rounding < 1e-10
    assert quotient.max_mse == quotient.per_pair[quotient.pair] == max(quotient.per_pair.values())
    assert quotient.max_mse >= quotient.global_mse
    names = list(stream_rows(reference))
    assert len(quotient.per_pair) == len(names) * (len(names) + 1) // 2
    assert "model.position" in names and ("model.position", "lm_head.weight") not in quotient.relative
    assert bar(model, reference) > 1e-3


def test_quotient_sees_heads_neurons_and_changed_weights():
    reference = small_model(2)
    s = Symmetry.random(reference, generator(3))
    model = s.apply(reference)
    rounding = 10 * quotient_bar(s.inverse().apply(model), reference).max_mse
    assert quotient_bar(model, reference).max_mse > 1e-2, "heads and neurons are not taken out"

    # once heads and neurons are aligned the models are equal, whatever the residual part
    aligned = fit(model, reference, starts=2, polish=400).symmetry
    quotient = quotient_bar(model, reference, aligned)
    assert quotient.max_mse <= rounding and quotient.symmetry is aligned
    elsewhere = aligned.with_residual(Orthogonal.random(WIDTH, generator(9)))
    assert quotient_bar(model, reference, elsewhere).max_mse == quotient.max_mse

    plain = Symmetry.identity(reference)
    neurons_only = Symmetry(plain.residual, plain.heads, plain.qk, plain.vo, s.neurons, plain.scale)
    assert quotient_bar(neurons_only.apply(reference), reference).max_mse > 1e-2
    changed = copy.deepcopy(reference)
    with torch.no_grad():
        changed.lm_head.weight[3, 5] += 0.5
    assert quotient_bar(changed, reference).pair[1] == "lm_head.weight"


def test_no_element_of_the_group_is_below_the_floors():
    model, reference = small_model(1), small_model(2)
    rows, target = stream_rows(model), stream_rows(reference)
    least = floors(model, reference)
    assert set(least) == {n for n in target if "mlp" not in n}
    fitted = fit(model, reference, starts=2)
    for s in [fitted.symmetry] + [Symmetry.random(model, generator(seed)) for seed in range(20)]:
        mse = tensor_mse(s.move(rows), target)
        assert all(mse[name] >= floor for name, floor in least.items())
    assert fitted.max_mse >= max(least.values()) > 0.01
    moved = Symmetry.random(reference, generator(3)).apply(reference)
    assert max(floors(moved, reference).values()) < 1e-12


@pytest.mark.parametrize("compare", [quotient_bar, floors])
def test_gains_must_be_folded(compare):
    model, raw = small_model(1), small_model(2, "raw")
    with pytest.raises(ValueError, match="fold_gains"):
        compare(raw, raw)
    with pytest.raises(ValueError, match="allowed: both folded, or neither"):
        compare(model, raw)
