"""The full symmetry group of Dyck-3, the search in it and its refinement: planted elements, exact steps, refusals."""

import itertools

import numpy as np
import pytest
import torch
from scipy.linalg import orthogonal_procrustes
from scipy.optimize import linear_sum_assignment

import dyck_models
from gaugeport.charts.measure import logits_of, norms_in_float64, random_tokens, relative_change
from gaugeport.groups import Orthogonal, Permutation, SignedPermutation
from gaugeport.pipeline.measures.gauge_groups import tiny_model
from gaugeport.pipeline.rotation.matching.refine import cayley, refine
from gaugeport.pipeline.rotation.matching.search import (
    best_scaling,
    fit_symmetry,
    heads_step,
    neurons_step,
    residual_step,
    tensor_mse,
)
from gaugeport.pipeline.rotation.matching.symmetry import Symmetry, part, stream_rows
from gaugeport.transport import transport_model

SIZES = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 24, "max_position_embeddings": 16}
GROUPS_OF = {"folded": ("orthogonal", "signed_permutation", "permutation", "identity")}
GROUPS_OF["raw"] = GROUPS_OF["folded"][1:]
everywhere = pytest.mark.parametrize(
    ("chart", "residual"), [(c, g) for c, gs in GROUPS_OF.items() for g in gs]
)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def generic(seed=0, chart="folded", **sizes):
    """A small model with random weights and gains, these folded or in place."""
    return dyck_models.generic(seed, chart == "folded", **SIZES | sizes)


def bar(model, reference):
    return max(tensor_mse(stream_rows(model), stream_rows(reference)).values())


def change(a, b):
    tokens = random_tokens(a, generator(5))
    with norms_in_float64(a), norms_in_float64(b), torch.no_grad():
        return relative_change(logits_of(a, tokens), logits_of(b, tokens))


@everywhere
def test_a_random_element_is_the_same_function(chart, residual):
    model = generic(chart=chart).double()
    moved = Symmetry.random(model, generator(1), residual).apply(model)
    assert change(model, moved) <= 1e-12
    assert bar(moved, model) > 1e-3
    assert all(
        torch.equal(p, q)
        for p, q in zip(model.parameters(), generic(chart=chart).double().parameters(), strict=True)
    )


def test_in_float32_the_logits_move_by_rounding_only():
    model = generic()
    tokens, s = random_tokens(model, generator(5)), Symmetry.random(model, generator(1))
    before, moved = logits_of(model, tokens), s.apply(model)
    yardstick = 10 * relative_change(before, logits_of(s.inverse().apply(moved), tokens))
    assert 0 < relative_change(before, logits_of(moved, tokens)) <= yardstick


def test_a_rotation_of_the_raw_model_is_another_function_and_refused():
    model = generic(chart="raw").double()
    s = Symmetry.random(model, generator(1))
    with pytest.raises(ValueError, match="fold_gains"):
        s.apply(model)
    assert change(model, s.apply(model, strict=False)) > 1e-1


def test_the_position_buffer_has_to_move_along():
    model = generic().double()
    moved = Symmetry.random(model, generator(1)).apply(model)
    moved.model.position.copy_(model.model.position)
    assert change(model, moved) > 1e-1


@everywhere
def test_there_and_back(chart, residual):
    model = generic(chart=chart).double()
    s = Symmetry.random(model, generator(2), residual)
    assert bar(s.inverse().apply(s.apply(model)), model) <= 1e-28
    assert bar(Symmetry.identity(model).apply(model), model) == 0


@pytest.mark.parametrize("chart", ["raw", "folded"])
def test_discrete_elements_are_those_of_transport(chart):
    model = generic(chart=chart)
    s, plain = Symmetry.random(model, generator(3), "signed_permutation"), Symmetry.identity(model)
    s = Symmetry(s.residual, s.heads, plain.qk, plain.vo, s.neurons, plain.scale)
    theirs = s.neurons.apply(s.heads.apply(transport_model(model, s.residual)))
    mine = s.apply(model)
    assert all(torch.equal(v, theirs.state_dict()[k]) for k, v in mine.state_dict().items())
    assert torch.equal(mine.model.position, theirs.model.position)


@everywhere
def test_a_planted_element_is_recovered_to_the_float_floor(chart, residual):
    reference = generic(chart=chart)
    s = Symmetry.random(reference, generator(4), residual)
    planted = s.apply(reference)
    floor = 10 * bar(s.inverse().apply(planted), reference)
    found = fit_symmetry(planted, reference, residual, starts=4, polish=400, generator=generator())
    assert found.max_mse <= floor < 1e-12 < bar(planted, reference)
    assert bar(found.symmetry.apply(planted), reference) <= floor
    assert "model.position" in found.per_tensor and max(found.per_tensor.values()) == found.max_mse
    assert found.global_mse <= found.max_mse
    assert found.symmetry.heads.after(s.heads).blocks == Symmetry.identity(reference).heads.blocks
    assert found.symmetry.neurons.after(s.neurons).blocks == Symmetry.identity(reference).neurons.blocks
    if residual != "identity":
        assert all(c.max_mse > 1e-3 for c in found.configurations if not c.rotated)


def test_a_model_is_itself():
    found = fit_symmetry(generic(), generic(), starts=2, generator=generator())
    assert found.max_mse <= 1e-28


@everywhere
def test_the_objective_never_rises_and_every_configuration_is_kept(chart, residual):
    model, reference = generic(1, chart), generic(2, chart)
    found = fit_symmetry(model, reference, residual, starts=3, iterations=4, generator=generator())
    rises = np.diff(found.trace)
    assert (rises <= 1e-12 * found.trace[0]).all() and found.trace[-1] < 0.9 * found.trace[0]
    assert found.trace[-1] == pytest.approx(sum(found.per_tensor.values()), rel=1e-12)
    assert [(c.start, c.rotated) for c in found.configurations] == [
        (start, rotated and residual != "identity") for start in range(3) for rotated in (False, True)
    ]
    assert found.max_mse <= min(c.max_mse for c in found.configurations)
    assert bar(found.symmetry.apply(model), reference) == pytest.approx(found.max_mse, rel=1e-5)


def test_a_larger_group_never_fits_worse_by_the_objective():
    model, reference = generic(1), generic(2)
    best = {}
    for residual in GROUPS_OF["folded"]:
        found = fit_symmetry(model, reference, residual, starts=2, polish=0, generator=generator())
        best[residual] = min(c.objective for c in found.configurations)
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
    found = best_scaling(p, y, r, v)
    grid = torch.logspace(-4, 4, 8001, dtype=torch.float64)[:, None, None]
    brute = (2 * p * grid - y * grid**2 + 2 * r / grid - v / grid**2).amax(0)
    assert bool((found.scale > 0).all())
    assert bool((found.saved >= brute - 1e-9).all())  # grid points cannot beat the minimum
    assert bool((found.saved <= brute + 1e-5 * (1 + brute.abs())).all())  # and come near it


def test_scalings_of_dead_neurons_are_finite():
    zero, one = torch.zeros(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    for y, v in itertools.product((zero, one, 1e-20 * one), repeat=2):
        p, r = (0.5 * length.sqrt()[None] for length in (y, v))
        found = best_scaling(p, y, r, v)
        assert bool(
            torch.isfinite(found.scale).all()
            and (found.scale > 0).all()
            and torch.isfinite(found.saved).all()
        )


def test_residual_steps_against_scipy():
    rows, target = stream_rows(generic(1, "raw")), stream_rows(generic(2, "raw"))
    weighted = {n: t.flatten(0, -2) / t.numel() ** 0.5 for n, t in rows.items() if t.dim() > 1}
    x = torch.cat(list(weighted.values())).numpy()
    y = torch.cat([target[n].flatten(0, -2) / target[n].numel() ** 0.5 for n in weighted]).numpy()
    rotation = residual_step(rows, target, "orthogonal")
    assert isinstance(rotation, Orthogonal)
    assert np.allclose(rotation.matrix.numpy().T, orthogonal_procrustes(x, y)[0], atol=1e-10)
    gains = sum(np.outer(target[n], t) / t.numel() for n, t in rows.items() if t.dim() == 1)
    for residual, score in (
        ("permutation", y.T @ x + gains),
        ("signed_permutation", np.abs(y.T @ x) + gains),
    ):
        g = residual_step(rows, target, residual)
        columns = linear_sum_assignment(-score)[1]
        assert type(g) is {"permutation": Permutation}.get(residual, SignedPermutation)
        assert g.perm.tolist() == columns.tolist()
        if residual == "signed_permutation":
            assert g.sign.tolist() == np.sign((y.T @ x)[range(16), columns]).tolist()
            assert not np.array_equal(
                linear_sum_assignment(-np.abs(y.T @ x))[1], columns
            )  # the gains have a say


def test_heads_and_neurons_against_all_permutations():
    sizes = {"intermediate_size": 5}
    model, reference = generic(1, **sizes), generic(2, **sizes)
    rows, target = stream_rows(model), stream_rows(reference)
    found, plain = (
        fit_symmetry(model, reference, "identity", generator=generator()).symmetry,
        Symmetry.identity(model),
    )
    best = sum(tensor_mse(found.move(rows), target).values())
    for layer in range(2):
        heads, qk, vo = heads_step(rows, target, layer)
        neurons, _ = neurons_step(rows, target, layer)
        assert heads == found.heads.blocks[layer] and neurons == found.neurons.blocks[layer]
        assert torch.allclose(qk, found.qk[layer], atol=1e-9) and torch.allclose(
            vo, found.vo[layer], atol=1e-9
        )
        up, down = part(layer, "up"), part(layer, "down")
        y, v = rows[up].square().sum(1), rows[down].square().sum(1)
        saved = best_scaling(target[up] @ rows[up].T, y, target[down] @ rows[down].T, v).saved
        every = [
            sum(float(saved[i, j]) for i, j in enumerate(perm)) for perm in itertools.permutations(range(5))
        ]
        mine = sum(float(saved[i, j]) for i, j in enumerate(neurons.perm.tolist()))
        assert mine == pytest.approx(max(every), rel=1e-12)
    noise = generator(7)
    for _ in range(50):  # no other element of the group is nearer
        other = Symmetry.random(model, noise, "identity")
        assert sum(tensor_mse(other.move(rows), target).values()) >= best
    assert sum(tensor_mse(plain.move(rows), target).values()) >= best


@pytest.mark.parametrize("seed", [1, 2])
def test_refinement_is_never_worse_than_its_baseline(seed):
    model, reference = generic(seed), generic(seed + 10)
    baseline = fit_symmetry(model, reference, starts=2, generator=generator())
    for steps in (1, 60):
        refined = refine(model, reference, baseline, steps=steps)
        assert refined.max_mse <= baseline.max_mse
        assert refined.max_mse == pytest.approx(min(*refined.trace, baseline.max_mse), rel=1e-9)
        assert bar(refined.symmetry.apply(model), reference) == pytest.approx(refined.max_mse, rel=1e-5)
        starts = [baseline.symmetry, *(c.symmetry for c in baseline.configurations)]
        assert any(
            refined.symmetry.heads == s.heads
            and refined.symmetry.neurons == s.neurons
            and refined.symmetry.scale[0].equal(s.scale[0])
            for s in starts
        )
        assert refined.configurations == baseline.configurations
    assert refined.max_mse < 0.99 * baseline.max_mse  # a maximum has room that the sum did not use


def test_refinement_at_the_floor_stays_there():
    reference = generic()
    planted = Symmetry.random(reference, generator(4)).apply(reference)
    baseline = fit_symmetry(planted, reference, starts=2, polish=400, generator=generator())
    assert refine(planted, reference, baseline, steps=5).max_mse <= baseline.max_mse


def test_cayley_gives_rotations():
    x = torch.randn(3, 6, 6, generator=generator(), dtype=torch.float64)
    r = cayley(x)
    assert torch.allclose(r @ r.mT, torch.eye(6, dtype=x.dtype).expand(3, 6, 6), atol=1e-12)
    assert torch.allclose(torch.linalg.det(r), torch.ones(3, dtype=x.dtype))
    assert torch.equal(cayley(torch.zeros_like(x)), torch.eye(6, dtype=x.dtype).expand(3, 6, 6))


def test_bad_input_is_named():
    model, reference, raw = generic(1), generic(2), generic(2, "raw")

    def align(a, b, *args, **options):
        return fit_symmetry(a, b, *args, generator=generator(), **options)

    with pytest.raises(ValueError, match="unknown residual group 'haar'; allowed: orthogonal"):
        align(model, reference, "haar")
    with pytest.raises(ValueError, match="unknown residual group 'haar'"):
        Symmetry.random(model, generator(), "haar")
    with pytest.raises(ValueError, match="at least 1, found 0 and 6"):
        align(model, reference, starts=0)
    with pytest.raises(ValueError, match="at least 1, found 16 and 0"):
        align(model, reference, iterations=0)
    with pytest.raises(ValueError, match=r"up_proj.weight has shape \(20, 16\) in the model"):
        align(generic(intermediate_size=20), reference)
    with pytest.raises(ValueError, match="folded"):
        align(model, raw)
    with pytest.raises(ValueError, match="fold_gains"):
        align(raw, raw, "orthogonal")
    assert align(raw, generic(3, "raw"), "orthogonal", starts=1, strict=False).max_mse > 0
    with pytest.raises(ValueError, match="dyck3"):
        Symmetry.identity(tiny_model("llama", generator()))
    with pytest.raises(ValueError, match="the model's are"):
        Symmetry.identity(generic(intermediate_size=20)).apply(model)
    with pytest.raises(ValueError, match="steps must be at least 1"):
        refine(model, reference, align(model, reference, starts=1), steps=0)
    with torch.no_grad():
        broken = generic(3)
        broken.lm_head.weight[0, 0] = float("nan")
    with pytest.raises(ValueError, match=r"lm_head.weight is not finite"):
        align(broken, reference)
    plain = Symmetry.identity(model)
    with pytest.raises(ValueError, match="positive"):
        Symmetry(
            plain.residual, plain.heads, plain.qk, plain.vo, plain.neurons, tuple(-s for s in plain.scale)
        )
    with pytest.raises(ValueError, match="no rotation"):
        Symmetry(
            plain.residual, plain.heads, tuple(2 * q for q in plain.qk), plain.vo, plain.neurons, plain.scale
        )
