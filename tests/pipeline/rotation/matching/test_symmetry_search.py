"""The symmetry search: it recovers planted elements, and each of its steps is optimal."""

import itertools

import numpy as np
import pytest
import torch
from scipy.linalg import orthogonal_procrustes
from scipy.optimize import linear_sum_assignment

from gaugeport.groups import Orthogonal, Permutation, SignedPermutation
from gaugeport.pipeline.rotation.matching.search import tensor_mse
from gaugeport.pipeline.rotation.matching.steps import best_scaling, heads_step, neurons_step, residual_step
from gaugeport.pipeline.rotation.matching.symmetry import Symmetry, parameter_name, stream_rows
from gaugeport.transport import transport_model
from matching_models import FOLDED_GROUPS, WIDTH, bar, every_group, fit, generator, small_model


@every_group
def test_planted_element_is_recovered_to_rounding(chart, residual):
    reference = small_model(chart=chart)
    s = Symmetry.random(reference, generator(4), residual)
    planted = s.apply(reference)
    rounding = 10 * bar(s.inverse().apply(planted), reference)
    recovered = fit(planted, reference, residual, starts=4, polish=400)
    assert recovered.max_mse <= rounding < 1e-12 < bar(planted, reference)
    assert bar(recovered.symmetry.apply(planted), reference) <= rounding
    assert "model.position" in recovered.per_tensor
    assert max(recovered.per_tensor.values()) == recovered.max_mse >= recovered.global_mse
    plain = Symmetry.identity(reference)
    assert recovered.symmetry.heads.after(s.heads).blocks == plain.heads.blocks
    assert recovered.symmetry.neurons.after(s.neurons).blocks == plain.neurons.blocks
    if residual != "identity":
        assert all(c.max_mse > 1e-3 for c in recovered.configurations if not c.rotated)


def test_signed_permutation_planted_by_transport_is_recovered():
    raw = small_model(2, "raw")
    planted = transport_model(raw, SignedPermutation.random(WIDTH, generator()))
    assert fit(planted, raw, "signed_permutation", starts=1).max_mse < 1e-12


def test_model_matches_itself():
    assert fit(small_model(), small_model(), starts=2).max_mse <= 1e-28


@every_group
def test_objective_never_rises_and_every_configuration_is_kept(chart, residual):
    model, reference = small_model(1, chart), small_model(2, chart)
    result = fit(model, reference, residual, starts=3, iterations=4)
    rises = np.diff(result.trace)
    assert (rises <= 1e-12 * result.trace[0]).all() and result.trace[-1] < 0.9 * result.trace[0]
    assert result.trace[-1] == pytest.approx(sum(result.per_tensor.values()), rel=1e-12)
    assert [(c.start, c.rotated) for c in result.configurations] == [
        (start, rotated and residual != "identity") for start in range(3) for rotated in (False, True)
    ]
    assert result.max_mse <= min(c.max_mse for c in result.configurations)
    assert bar(result.symmetry.apply(model), reference) == pytest.approx(result.max_mse, rel=1e-5)


def test_larger_group_has_lower_objective():
    model, reference = small_model(1), small_model(2)
    best = {}
    for residual in FOLDED_GROUPS:
        configurations = fit(model, reference, residual, starts=2, polish=0).configurations
        best[residual] = min(c.objective for c in configurations)
    assert best["orthogonal"] < best["signed_permutation"] < best["identity"]
    assert best["permutation"] < best["identity"]


def test_scalings_are_the_global_minimum():
    noise = generator(6)
    n = 20
    p, r = (torch.randn(n, n, generator=noise, dtype=torch.float64) * 3 for _ in range(2))
    y, v = (torch.rand(n, generator=noise, dtype=torch.float64) + 0.05 for _ in range(2))
    r[0], p[0] = 4, 4  # two minima of equal depth where the lengths agree
    y[:3], v[:3] = 1.0, 1.0
    p[1], r[1] = 1, 1  # where those two part: a triple root
    p[2] = r[2] = 0.0
    result = best_scaling(p, y, r, v)
    grid = torch.logspace(-4, 4, 8001, dtype=torch.float64)[:, None, None]
    brute = (2 * p * grid - y * grid**2 + 2 * r / grid - v / grid**2).amax(0)
    assert bool((result.scale > 0).all())
    assert bool((result.saved >= brute - 1e-9).all()), "no point of the grid is below the minimum"
    assert bool((result.saved <= brute + 1e-5 * (1 + brute.abs())).all()), "the grid comes near the minimum"


def test_scalings_of_dead_neurons_are_finite():
    zero, one = torch.zeros(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    for y, v in itertools.product((zero, one, 1e-20 * one), repeat=2):
        p, r = (0.5 * length.sqrt()[None] for length in (y, v))
        result = best_scaling(p, y, r, v)
        assert bool(torch.isfinite(result.scale).all()) and bool((result.scale > 0).all())
        assert bool(torch.isfinite(result.saved).all())


def test_residual_steps_equal_scipy():
    rows, target = stream_rows(small_model(1, "raw")), stream_rows(small_model(2, "raw"))
    weighted = {n: t.flatten(0, -2) / t.numel() ** 0.5 for n, t in rows.items() if t.dim() > 1}
    x = torch.cat(list(weighted.values())).numpy()
    y = torch.cat([target[n].flatten(0, -2) / target[n].numel() ** 0.5 for n in weighted]).numpy()
    rotation = residual_step(rows, target, "orthogonal")
    assert isinstance(rotation, Orthogonal)
    assert np.allclose(rotation.matrix.numpy().T, orthogonal_procrustes(x, y)[0], atol=1e-10)

    gains = sum(np.outer(target[n], t) / t.numel() for n, t in rows.items() if t.dim() == 1)
    plain = residual_step(rows, target, "permutation")
    assert type(plain) is Permutation
    assert plain.perm.tolist() == linear_sum_assignment(-(y.T @ x + gains))[1].tolist()

    signed = residual_step(rows, target, "signed_permutation")
    columns = linear_sum_assignment(-(np.abs(y.T @ x) + gains))[1]
    assert type(signed) is SignedPermutation
    assert signed.perm.tolist() == columns.tolist()
    assert signed.sign.tolist() == np.sign((y.T @ x)[range(16), columns]).tolist()
    without_gains = linear_sum_assignment(-np.abs(y.T @ x))[1]
    assert not np.array_equal(without_gains, columns), "gains change the assignment"


def test_heads_and_neurons_are_best_of_all_permutations():
    sizes = {"intermediate_size": 5}
    model, reference = small_model(1, **sizes), small_model(2, **sizes)
    rows, target = stream_rows(model), stream_rows(reference)
    symmetry = fit(model, reference, "identity").symmetry
    best = sum(tensor_mse(symmetry.move(rows), target).values())
    for layer in range(2):
        heads, qk, vo = heads_step(rows, target, layer)
        neurons, _ = neurons_step(rows, target, layer)
        assert heads == symmetry.heads.blocks[layer] and neurons == symmetry.neurons.blocks[layer]
        assert torch.allclose(qk, symmetry.qk[layer], atol=1e-9)
        assert torch.allclose(vo, symmetry.vo[layer], atol=1e-9)
        up, down = parameter_name(layer, "up"), parameter_name(layer, "down")
        y, v = rows[up].square().sum(1), rows[down].square().sum(1)
        saved = best_scaling(target[up] @ rows[up].T, y, target[down] @ rows[down].T, v).saved
        of_all = [
            sum(float(saved[i, j]) for i, j in enumerate(perm)) for perm in itertools.permutations(range(5))
        ]
        chosen = sum(float(saved[i, j]) for i, j in enumerate(neurons.perm.tolist()))
        assert chosen == pytest.approx(max(of_all), rel=1e-12)
    noise = generator(7)
    for _ in range(50):
        other = Symmetry.random(model, noise, "identity")
        assert sum(tensor_mse(other.move(rows), target).values()) >= best, "no other element is nearer"
    plain = Symmetry.identity(model)
    assert sum(tensor_mse(plain.move(rows), target).values()) >= best


def test_bad_input_is_refused():
    model, reference, raw = small_model(1), small_model(2), small_model(2, "raw")
    with pytest.raises(ValueError, match="'haar'; allowed: orthogonal"):
        fit(model, reference, "haar")
    with pytest.raises(ValueError, match="starts=0, iterations=6; allowed: both 1 or more"):
        fit(model, reference, starts=0)
    with pytest.raises(ValueError, match="starts=16, iterations=0; allowed: both 1 or more"):
        fit(model, reference, iterations=0)
    with pytest.raises(ValueError, match=r"up_proj.weight has shape \(20, 16\) in the model"):
        fit(small_model(intermediate_size=20), reference)
    with pytest.raises(ValueError, match="allowed: both folded, or neither"):
        fit(model, raw)
    with pytest.raises(ValueError, match="fold_gains"):
        fit(raw, raw, "orthogonal")
    assert fit(raw, small_model(3, "raw"), "orthogonal", starts=1, strict=False).max_mse > 0
    broken = small_model(3)
    with torch.no_grad():
        broken.lm_head.weight[0, 0] = float("nan")
    with pytest.raises(ValueError, match=r"lm_head.weight is not finite; allowed: weights without NaN"):
        fit(broken, reference)
