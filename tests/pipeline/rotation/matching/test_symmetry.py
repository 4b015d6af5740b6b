"""The symmetry group of Dyck-3: its elements keep the function, invert, and agree with transport."""

import pytest
import torch

from gaugeport.charts.logit_change import logits_of, norms_in_float64, random_tokens, relative_change
from gaugeport.pipeline.measures.gauge_groups import tiny_model
from gaugeport.pipeline.rotation.matching.symmetry import Symmetry
from gaugeport.transport import transport_model
from matching_models import bar, every_group, generator, small_model


def change(a, b):
    """Return the relative change of the logits from model ``a`` to model ``b``."""
    tokens = random_tokens(a, generator(5))
    with norms_in_float64(a), norms_in_float64(b), torch.no_grad():
        return relative_change(logits_of(a, tokens), logits_of(b, tokens))


@every_group
def test_random_element_keeps_function_and_input_model(chart, residual):
    model = small_model(chart=chart).double()
    moved = Symmetry.random(model, generator(1), residual).apply(model)
    assert change(model, moved) <= 1e-12
    assert bar(moved, model) > 1e-3
    untouched = small_model(chart=chart).double()
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), untouched.parameters(), strict=True))


def test_float32_logits_change_by_rounding_only():
    model = small_model()
    tokens, s = random_tokens(model, generator(5)), Symmetry.random(model, generator(1))
    before, moved = logits_of(model, tokens), s.apply(model)
    rounding = 10 * relative_change(before, logits_of(s.inverse().apply(moved), tokens))
    assert 0 < relative_change(before, logits_of(moved, tokens)) <= rounding


def test_rotation_of_raw_model_changes_function_and_is_refused():
    model = small_model(chart="raw").double()
    s = Symmetry.random(model, generator(1))
    with pytest.raises(ValueError, match="fold_gains"):
        s.apply(model)
    assert change(model, s.apply(model, strict=False)) > 1e-1


def test_position_buffer_must_move_too():
    model = small_model().double()
    moved = Symmetry.random(model, generator(1)).apply(model)
    moved.model.position.copy_(model.model.position)
    assert change(model, moved) > 1e-1


@every_group
def test_inverse_undoes_element(chart, residual):
    model = small_model(chart=chart).double()
    s = Symmetry.random(model, generator(2), residual)
    assert bar(s.inverse().apply(s.apply(model)), model) <= 1e-28
    assert bar(Symmetry.identity(model).apply(model), model) == 0


@pytest.mark.parametrize("chart", ["raw", "folded"])
def test_discrete_elements_equal_transport(chart):
    model = small_model(chart=chart)
    s, plain = Symmetry.random(model, generator(3), "signed_permutation"), Symmetry.identity(model)
    s = Symmetry(s.residual, s.heads, plain.qk, plain.vo, s.neurons, plain.scale)
    transported = s.neurons.apply(s.heads.apply(transport_model(model, s.residual)))
    moved = s.apply(model)
    assert all(torch.equal(v, transported.state_dict()[k]) for k, v in moved.state_dict().items())
    assert torch.equal(moved.model.position, transported.model.position)


def test_bad_elements_and_models_are_refused():
    model = small_model(1)
    plain = Symmetry.identity(model)
    with pytest.raises(ValueError, match=r"'haar'.*allowed: orthogonal, signed_permutation"):
        Symmetry.random(model, generator(), "haar")
    with pytest.raises(ValueError, match=r"dyck3.*'llama'"):
        Symmetry.identity(tiny_model("llama", generator()))
    with pytest.raises(ValueError, match=r"\(24,\).*the model's.*\(20,\)"):
        Symmetry.identity(small_model(intermediate_size=20)).apply(model)
    negative = tuple(-s for s in plain.scale)
    with pytest.raises(ValueError, match=r"positive, finite.*-1.0 to -1.0"):
        Symmetry(plain.residual, plain.heads, plain.qk, plain.vo, plain.neurons, negative)
    stretched = tuple(2 * q for q in plain.qk)
    with pytest.raises(ValueError, match=r"orthogonal.*= 3, allowed: up to"):
        Symmetry(plain.residual, plain.heads, stretched, plain.vo, plain.neurons, plain.scale)
