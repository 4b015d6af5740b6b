"""Lens 1: spectra, attention entropy, head roles and neurons are those planted in a small model."""

import pytest
import torch

from dyck_models import folded_float64, head_rows, silence, value
from gaugeport.pipeline.rotation.lenses import roles, weights


def test_spectra_are_those_of_the_products():
    gen = torch.Generator().manual_seed(0)
    left, right = (torch.randn(*s, generator=gen, dtype=torch.float64) for s in ((16, 4), (4, 12)))
    dense = torch.linalg.svdvals(left @ right)
    assert torch.allclose(weights.product_spectrum(left, right), dense[:4]) and float(dense[4]) < 1e-12


def test_effective_rank_counts_equal_singular_values():
    assert weights.effective_rank(torch.ones(8)) == pytest.approx(8)
    assert weights.effective_rank(torch.tensor([3.0, 0, 0])) == pytest.approx(1)
    assert weights.effective_rank(torch.zeros(4)) == 0


def test_entropy_and_roles_of_uniform_and_of_sharp_attention(rows):
    model = folded_float64()
    head_rows(model, "L0H0", "q_proj").zero_()
    head_rows(model, "L0H1", "q_proj").mul_(1e4)
    entropy = weights.attention_entropy(model, rows["input_ids"])
    assert entropy["L0H0"] == pytest.approx(1, abs=1e-9) and entropy["L0H1"] < 0.05
    assert 0.1 < entropy["L1H0"] < 1 - 1e-3
    measured = weights.weight_rows(model, rows)
    assert value(measured, "L0H0", "role", "role") == "counter"
    assert value(measured, "L0H1", "role", "role") == "lookup"
    assert value(measured, "L0H0", "qk_frobenius") == 0 < value(measured, "L0H1", "qk_frobenius")


def test_a_silent_head_is_weak_and_its_peer_writes_all(rows):
    measured = weights.weight_rows(silence(folded_float64(), "L0H0"), rows)
    assert value(measured, "L0H0", "ov_frobenius") == value(measured, "L0H0", "ov_share") == 0
    assert value(measured, "L0H0", "role", "role") == "weak" and value(measured, "L0H1", "ov_share") == 1
    assert value(measured, "L1H0", "ov_share") + value(measured, "L1H1", "ov_share") == pytest.approx(1)


def test_dead_neurons_and_the_share_of_the_largest():
    model = folded_float64()
    model.model.layers[1].mlp.down_proj.weight.data[:, :5] = 0
    measured = weights.neuron_rows(model)
    assert value(measured, "L1M", "neurons_alive") == 19 and value(measured, "L0M", "neurons_alive") == 24
    for p in model.model.layers[0].mlp.parameters():
        p.data.fill_(1.0)
    assert value(weights.neuron_rows(model), "L0M", "top_tenth_share") == pytest.approx(2 / 24)


@pytest.mark.parametrize("lens", [weights.weight_rows, roles.role_rows, roles.tensor_rows])
def test_a_model_with_gains_is_refused(rows, lens):
    model = folded_float64()
    model.model.layers[0].input_layernorm.weight.data[3] = 2
    with pytest.raises(ValueError, match=r"gains.*expected a folded model.*fold_gains"):
        lens(model, rows)


def test_strings_of_one_token_have_no_attention_entropy():
    with pytest.raises(ValueError, match=r"\(3, 1\).*expected a query"):
        weights.attention_entropy(folded_float64(), torch.ones(3, 1, dtype=torch.long))
