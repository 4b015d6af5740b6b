"""One rotation for weights and activations, the geodesic between their optima, and the bar without a residual gauge."""

import copy
import math

import pytest
import torch
from scipy.linalg import fractional_matrix_power

import dyck_models
from gaugeport.groups import Orthogonal, SignedPermutation
from gaugeport.pipeline.rotation.matching.joint import (
    Mismatch,
    activation_mismatch,
    descend,
    geodesic,
    joint_alignment,
    sign_of,
    weight_mismatch,
)
from gaugeport.pipeline.rotation.matching.quotient import floors, quotient_bar
from gaugeport.pipeline.rotation.matching.refine import cayley
from gaugeport.pipeline.rotation.matching.search import fit_symmetry, tensor_mse
from gaugeport.pipeline.rotation.matching.symmetry import Symmetry, stream_rows
from gaugeport.transport import transport_model

SIZES = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 24, "max_position_embeddings": 16}
WIDTH = SIZES["hidden_size"]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def generic(seed=0, folded=True):
    return dyck_models.generic(seed, folded, **SIZES)


def rotation(seed=0, size=0.3):
    """A rotation that is not far from the identity, so that a descent from there can reach it."""
    return Orthogonal(
        cayley(size * torch.randn(WIDTH, WIDTH, generator=generator(seed), dtype=torch.float64))
    )


def noise(seed, *shape):
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


def streams(seed, rows=200):
    return {"middle": noise(seed, rows, WIDTH), "late": 2 * noise(seed + 50, rows // 10, 10, WIDTH)}


def table(records):
    found = {}
    for r in records:
        assert set(r) == {"lam", "method", "start", "metric", "value"} and math.isfinite(r["value"])
        found.setdefault((r["lam"], r["method"], r["start"]), {})[r["metric"]] = r["value"]
    return found


@pytest.fixture(scope="module")
def strangers():
    """Two unrelated models, unrelated activations, and the table of their joint alignment."""
    model, reference = generic(1), generic(2)
    baseline = fit_symmetry(model, reference, starts=2, generator=generator())
    x, y = streams(3), streams(4)
    return (
        model,
        reference,
        baseline,
        x,
        y,
        table(joint_alignment(model, reference, baseline, x, y, steps=30)),
    )


def test_the_exact_solution_is_never_beaten(strangers):
    found = strangers[-1]
    for (lam, method, start), row in found.items():
        if method == "geodesic":
            continue
        optimum = found[lam, "exact", "global"]["objective"]
        sides = [found[lam, "exact", side]["objective"] for side in ("rotation", "reflection")]
        slack = 1e-12 * optimum  # of sums of 256 products in float64
        assert optimum == min(sides), (lam, start)
        assert row["objective"] >= optimum - slack
        assert row["excess"] >= -slack and abs(row["determinant"]) == 1
        if method == "exact":
            assert row["excess"] == 0 or start == "global"
            assert start == "global" or row["determinant"] == {"rotation": 1, "reflection": -1}[start]


def test_descents_stay_on_their_side(strangers):
    found = strangers[-1]
    home = {
        "weights": found[0.0, "exact", "global"]["determinant"],
        "activations": found[math.inf, "exact", "global"]["determinant"],
        "identity": 1,
    }
    for (_, method, start), row in found.items():
        if method == "cayley":
            assert row["determinant"] == home[start]


def test_the_ends_of_lambda_are_the_two_optima(strangers):
    model, reference, baseline, x, y, found = strangers
    weights, activations = found[0.0, "exact", "global"], found[math.inf, "exact", "global"]
    assert weights["from_weights"] == activations["from_activations"] == 0
    assert weights["objective"] == pytest.approx(weights["weight_objective"], rel=1e-12)
    assert activations["objective"] == activations["activation_mse"]
    for row in found.values():
        if "objective" in row:
            assert row["weight_objective"] >= weights["weight_objective"] * (1 - 1e-12)
            assert row["activation_mse"] >= activations["activation_mse"] * (1 - 1e-12)
    inside, target = baseline.symmetry.inside(stream_rows(model)), stream_rows(reference)
    best = weight_mismatch(inside, target).best()
    moved = baseline.symmetry.with_residual(Orthogonal(best)).move(stream_rows(model))
    assert weights["weight_max_mse"] == pytest.approx(max(tensor_mse(moved, target).values()), rel=1e-12)
    assert weights["weight_objective"] <= baseline.trace[-1] * (
        1 + 1e-12
    )  # the baseline stopped after its heads
    mine = torch.cat([(x[s].reshape(-1, WIDTH) @ best.T - y[s].reshape(-1, WIDTH)) for s in x])
    assert weights["activation_mse"] == pytest.approx(float(mine.square().mean()), rel=1e-12)
    spread = sum(
        float((t.reshape(-1, WIDTH) - t.reshape(-1, WIDTH).mean(0)).square().sum()) for t in y.values()
    )
    assert weights["activation_nmse"] == pytest.approx(float(mine.square().sum()) / spread, rel=1e-12)


def test_a_barrier_is_measured_on_the_geodesic(strangers):
    model, reference, baseline, x, y, found = strangers
    weights = weight_mismatch(baseline.symmetry.inside(stream_rows(model)), stream_rows(reference))
    activations, _ = activation_mismatch(x, y, WIDTH)
    start = weights.best()
    end = activations.best(sign_of(start))
    step = (start.T @ end).numpy()
    for lam in (0.0, 1.0, math.inf):
        joint, row = weights.plus(lam, activations), found[lam, "geodesic", "weights"]
        path = [
            joint(start @ torch.from_numpy(fractional_matrix_power(step, t / 100).real)) for t in range(101)
        ]
        above = [float(v - (path[0] + (path[-1] - path[0]) * t / 100)) for t, v in enumerate(path)]
        assert row["barrier"] == pytest.approx(max(0.0, *above), abs=1e-9)
        assert row["same_component"] == (sign_of(activations.best()) == sign_of(start))
        best, other = (float(joint(joint.best(d))) for d in (sign_of(joint.best()), -sign_of(joint.best())))
        assert row["determinant_cost"] == pytest.approx(1 - best / other) and row["determinant_cost"] > 0


def test_a_barrier_is_found_where_there_is_one():
    # a full turn away from the optimum: the mismatch rises to the far side and has to come back
    start, end = (
        torch.eye(2, dtype=torch.float64),
        torch.tensor([[-0.6, -0.8], [0.8, -0.6]], dtype=torch.float64),
    )
    middle = geodesic(start, end, 3)[1]
    path = Mismatch(-middle, 0.0)(geodesic(start, end, 101))
    assert float(path.max() - path[0]) > 1 and float(path[0] - path[-1]) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("turns", ["generic", "half", "none"])
def test_geodesics_are_straight(turns):
    start = Orthogonal.random(6, generator(1)).matrix
    end = {"generic": Orthogonal.random(6, generator(2)).matrix, "none": start}.get(turns)
    if turns == "half":
        end = start @ torch.diag(torch.tensor([-1.0, 1, -1, -1, 1, -1], dtype=torch.float64))
    if sign_of(start) != sign_of(end):
        end = torch.cat([-end[:1], end[1:]])
    path = geodesic(start, end, 9)
    eye = torch.eye(6, dtype=torch.float64)
    assert torch.allclose(path[0], start, atol=1e-12) and torch.allclose(path[-1], end, atol=1e-10)
    assert torch.allclose(path @ path.mT, eye.expand_as(path), atol=1e-12)
    steps = (path[1:] - path[:-1]).flatten(1).norm(dim=1)
    assert torch.allclose(steps, steps[0].expand_as(steps), atol=1e-10)
    with pytest.raises(ValueError, match="no path"):
        geodesic(start, torch.cat([-end[:1], end[1:]]), 9)


@pytest.mark.parametrize("determinant", [1, -1])
def test_a_component_has_one_basin(determinant):
    """From everywhere in a component descent ends at its optimum: what the module's argument says."""
    joint = Mismatch(noise(8, 6, 6), 10.0)
    optimum, flip = float(joint(joint.best(determinant))), torch.eye(6, dtype=torch.float64)
    flip[0, 0] = -1
    least = torch.linalg.svdvals(joint.cross)[-2:]
    saddle = 4 * float(least[0] - least[1])  # no other critical point is nearer to the optimum
    for seed in range(3):
        start = Orthogonal.random(6, generator(seed)).matrix
        start = start if sign_of(start) == determinant else flip @ start
        at = start
        for _ in range(4):  # restarted, since a single Cayley transform has its half-turns at infinity
            at = descend(joint, at, 100, 0.1)
        assert sign_of(at) == determinant
        assert optimum - 1e-12 <= float(joint(at)) <= optimum + 1e-2 * saddle


def test_a_planted_rotation_is_found_by_both():
    reference, g = generic(2), rotation()
    model = transport_model(reference, g.inverse())
    baseline = fit_symmetry(model, reference, starts=2, polish=400, generator=generator())
    y = streams(4)
    x = {site: g.inverse().act(t) for site, t in y.items()}
    found = table(joint_alignment(model, reference, baseline, x, y, (0.0, 1.0), steps=250))
    # a copy moved there and back is off by rounding twice, in every tensor of the objective
    back = tensor_mse(stream_rows(transport_model(model, g)), stream_rows(reference))
    floor = 10 * sum(back.values())
    for lam in (0.0, 1.0):
        assert abs(found[lam, "exact", "global"]["objective"]) <= floor
        assert found[lam, "exact", "global"]["determinant"] == 1
        assert found[lam, "cayley", "identity"]["objective"] <= 1e-6  # from a distance, by gradients
        assert found[lam, "geodesic", "weights"]["barrier"] <= floor
    assert found[1.0, "exact", "global"]["from_weights"] <= 1e-5
    assert found[1.0, "exact", "reflection"]["objective"] > 1e-2
    assert found[1.0, "geodesic", "weights"]["determinant_cost"] == pytest.approx(1, abs=1e-6)


def test_a_quotient_knows_no_residual_rotation():
    reference = generic(2)
    g = Orthogonal.random(WIDTH, generator(1))
    model = transport_model(reference, g)
    floor = 10 * quotient_bar(transport_model(model, g.inverse()), reference).max_mse
    found = quotient_bar(model, reference)
    assert found.max_mse <= floor < 1e-10
    assert found.max_mse == found.per_pair[found.pair] == max(found.per_pair.values()) >= found.global_mse
    names = list(stream_rows(reference))
    assert len(found.per_pair) == len(names) * (len(names) + 1) // 2
    assert "model.position" in names and ("model.position", "lm_head.weight") not in found.relative
    assert max(tensor_mse(stream_rows(model), stream_rows(reference)).values()) > 1e-3


def test_a_quotient_sees_what_is_no_residual_rotation():
    reference = generic(2)
    s = Symmetry.random(reference, generator(3))
    model = s.apply(reference)
    floor = 10 * quotient_bar(s.inverse().apply(model), reference).max_mse
    assert quotient_bar(model, reference).max_mse > 1e-2  # heads and neurons are not taken out
    aligned = fit_symmetry(model, reference, starts=2, polish=400, generator=generator()).symmetry
    found = quotient_bar(model, reference, aligned)
    assert found.max_mse <= floor and found.symmetry is aligned
    elsewhere = aligned.with_residual(Orthogonal.random(WIDTH, generator(9)))
    assert quotient_bar(model, reference, elsewhere).max_mse == found.max_mse
    plain = Symmetry.identity(reference)
    neurons = Symmetry(plain.residual, plain.heads, plain.qk, plain.vo, s.neurons, plain.scale).apply(
        reference
    )
    assert quotient_bar(neurons, reference).max_mse > 1e-2
    other = copy.deepcopy(reference)
    with torch.no_grad():
        other.lm_head.weight[3, 5] += 0.5
    assert quotient_bar(other, reference).pair[1] == "lm_head.weight"


def test_no_element_of_the_group_is_below_the_floors():
    model, reference = generic(1), generic(2)
    rows, target = stream_rows(model), stream_rows(reference)
    least = floors(model, reference)
    assert set(least) == {n for n in target if "mlp" not in n}
    found = fit_symmetry(model, reference, starts=2, generator=generator())
    elements = [found.symmetry] + [Symmetry.random(model, generator(s)) for s in range(20)]
    for s in elements:
        mse = tensor_mse(s.move(rows), target)
        assert all(mse[name] >= floor for name, floor in least.items())
    assert found.max_mse >= max(least.values()) > 0.01
    moved = Symmetry.random(reference, generator(3)).apply(reference)
    assert max(floors(moved, reference).values()) < 1e-12


def test_bad_input_is_named():
    model, reference, raw = generic(1), generic(2), generic(2, folded=False)
    baseline = fit_symmetry(model, reference, starts=1, generator=generator())
    x = streams(3)
    with pytest.raises(ValueError, match=r"at least 0 .*-1"):
        joint_alignment(model, reference, baseline, x, x, (0.0, -1.0))
    with pytest.raises(ValueError, match="nan"):
        joint_alignment(model, reference, baseline, x, x, (math.nan,))
    with pytest.raises(ValueError, match="same sites"):
        joint_alignment(model, reference, baseline, x, {"middle": x["middle"]})
    with pytest.raises(ValueError, match="same sites"):
        joint_alignment(model, reference, baseline, {}, {})
    narrow = {site: t[..., 1:] for site, t in x.items()}
    with pytest.raises(ValueError, match="width 16"):
        joint_alignment(model, reference, baseline, narrow, narrow)
    with pytest.raises(ValueError, match="fold_gains"):
        joint_alignment(raw, raw, baseline, x, x)
    for compare in (quotient_bar, floors):
        with pytest.raises(ValueError, match="fold_gains"):
            compare(raw, raw)
        with pytest.raises(ValueError, match="folded"):
            compare(model, raw)
    pinned = transport_model(raw, SignedPermutation.random(WIDTH, generator()))
    assert fit_symmetry(pinned, raw, "signed_permutation", starts=1, generator=generator()).max_mse < 1e-12
