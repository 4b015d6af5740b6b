"""One rotation for weights and activations, and the geodesic between their optima."""

import math
from typing import Any, NamedTuple

import pytest
import torch
from scipy.linalg import fractional_matrix_power

from gaugeport.groups import Orthogonal
from gaugeport.pipeline.rotation.matching.joint import (
    Mismatch,
    activation_mismatch,
    cayley_descent,
    determinant_of,
    geodesic,
    joint_alignment,
    weight_mismatch,
)
from gaugeport.pipeline.rotation.matching.refine import cayley
from gaugeport.pipeline.rotation.matching.search import tensor_mse
from gaugeport.pipeline.rotation.matching.symmetry import stream_rows
from gaugeport.transport import transport_model
from matching_models import WIDTH, fit, generator, small_model


def rotation_near_identity(seed=0, size=0.3):
    """Return a rotation that a descent from the identity can reach."""
    return Orthogonal(cayley(size * noise(seed, WIDTH, WIDTH)))


def noise(seed, *shape):
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


def streams(seed, rows=200):
    return {"middle": noise(seed, rows, WIDTH), "late": 2 * noise(seed + 50, rows // 10, 10, WIDTH)}


def flat(x):
    return x.reshape(-1, WIDTH)


def table(records):
    """Return the metrics of every (λ, method, start)."""
    metrics: dict[tuple, dict[str, float]] = {}
    for r in records:
        assert set(r) == {"lam", "method", "start", "metric", "value"} and math.isfinite(r["value"])
        metrics.setdefault((r["lam"], r["method"], r["start"]), {})[r["metric"]] = r["value"]
    return metrics


class Unrelated(NamedTuple):
    """Two unrelated models, unrelated activations of both, and the table of their joint alignment."""

    model: Any
    reference: Any
    baseline: Any
    x: dict
    y: dict
    table: dict

    @property
    def weights(self):
        prepared = self.baseline.symmetry.move_heads_and_neurons(stream_rows(self.model))
        return weight_mismatch(prepared, stream_rows(self.reference))


@pytest.fixture(scope="module")
def unrelated():
    model, reference, x, y = small_model(1), small_model(2), streams(3), streams(4)
    baseline = fit(model, reference, starts=2)
    rows = joint_alignment(model, reference, baseline, x, y, steps=30)
    return Unrelated(model, reference, baseline, x, y, table(rows))


def test_no_descent_is_below_the_exact_solution(unrelated):
    for (lam, method, start), row in unrelated.table.items():
        if method == "geodesic":
            continue
        optimum = unrelated.table[lam, "exact", "global"]["objective"]
        sides = [unrelated.table[lam, "exact", side]["objective"] for side in ("rotation", "reflection")]
        slack = 1e-12 * optimum  # of sums of 256 products in float64
        assert optimum == min(sides), (lam, start)
        assert row["objective"] >= optimum - slack
        assert row["excess"] >= -slack and abs(row["determinant"]) == 1
        if method == "exact":
            assert row["excess"] == 0 or start == "global"
            assert start == "global" or row["determinant"] == {"rotation": 1, "reflection": -1}[start]


def test_descents_keep_the_determinant_of_their_start(unrelated):
    determinants = {
        "weights": unrelated.table[0.0, "exact", "global"]["determinant"],
        "activations": unrelated.table[math.inf, "exact", "global"]["determinant"],
        "identity": 1,
    }
    for (_, method, start), row in unrelated.table.items():
        if method == "cayley":
            assert row["determinant"] == determinants[start]


def test_smallest_and_largest_lambda_give_the_two_optima(unrelated):
    weights, activations = (unrelated.table[lam, "exact", "global"] for lam in (0.0, math.inf))
    assert weights["from_weights"] == activations["from_activations"] == 0
    assert weights["objective"] == pytest.approx(weights["weight_objective"], rel=1e-12)
    assert activations["objective"] == activations["activation_mse"]
    for row in unrelated.table.values():
        if "objective" in row:
            assert row["weight_objective"] >= weights["weight_objective"] * (1 - 1e-12)
            assert row["activation_mse"] >= activations["activation_mse"] * (1 - 1e-12)

    # the weights' optimum, computed from the models themselves
    best = unrelated.weights.best()
    moved = unrelated.baseline.symmetry.with_residual(Orthogonal(best)).move(stream_rows(unrelated.model))
    mse = tensor_mse(moved, stream_rows(unrelated.reference))
    assert weights["weight_max_mse"] == pytest.approx(max(mse.values()), rel=1e-12)
    last_objective = unrelated.baseline.trace[-1]
    assert weights["weight_objective"] <= last_objective * (1 + 1e-12), "the baseline stopped after its heads"

    # the activations' mismatch there, from the activations themselves
    differences = torch.cat([flat(unrelated.x[s]) @ best.T - flat(unrelated.y[s]) for s in unrelated.x])
    assert weights["activation_mse"] == pytest.approx(float(differences.square().mean()), rel=1e-12)
    spread = sum(float((flat(t) - flat(t).mean(0)).square().sum()) for t in unrelated.y.values())
    expected = float(differences.square().sum()) / spread
    assert weights["activation_nmse"] == pytest.approx(expected, rel=1e-12)


def test_barrier_is_measured_along_the_geodesic(unrelated):
    weights = unrelated.weights
    activations, _ = activation_mismatch(unrelated.x, unrelated.y, WIDTH)
    start = weights.best()
    end = activations.best(determinant_of(start))
    step = (start.T @ end).numpy()
    for lam in (0.0, 1.0, math.inf):
        joint, row = weights.plus(lam, activations), unrelated.table[lam, "geodesic", "weights"]
        powers = (torch.from_numpy(fractional_matrix_power(step, t / 100).real) for t in range(101))
        path = [joint(start @ power) for power in powers]
        above = [float(v - (path[0] + (path[-1] - path[0]) * t / 100)) for t, v in enumerate(path)]
        assert row["barrier"] == pytest.approx(max(0.0, *above), abs=1e-9)
        assert row["same_component"] == (determinant_of(activations.best()) == determinant_of(start))
        side = determinant_of(joint.best())
        best, other = (float(joint(joint.best(d))) for d in (side, -side))
        assert row["determinant_cost"] == pytest.approx(1 - best / other) and row["determinant_cost"] > 0


def test_planted_barrier_is_found():
    """The geodesic leads away from the optimum to its far side and back, so the mismatch rises in between."""
    start = torch.eye(2, dtype=torch.float64)
    end = torch.tensor([[-0.6, -0.8], [0.8, -0.6]], dtype=torch.float64)
    middle = geodesic(start, end, 3)[1]
    path = Mismatch(-middle, 0.0)(geodesic(start, end, 101))
    assert float(path.max() - path[0]) > 1 and float(path[0] - path[-1]) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("turns", ["generic", "half", "none"])
def test_geodesics_have_equal_steps_and_stay_orthogonal(turns):
    start = Orthogonal.random(6, generator(1)).matrix
    end = {"generic": Orthogonal.random(6, generator(2)).matrix, "none": start}.get(turns)
    if turns == "half":
        end = start @ torch.diag(torch.tensor([-1.0, 1, -1, -1, 1, -1], dtype=torch.float64))
    if determinant_of(start) != determinant_of(end):
        end = torch.cat([-end[:1], end[1:]])
    path = geodesic(start, end, 9)
    eye = torch.eye(6, dtype=torch.float64)
    assert torch.allclose(path[0], start, atol=1e-12) and torch.allclose(path[-1], end, atol=1e-10)
    assert torch.allclose(path @ path.mT, eye.expand_as(path), atol=1e-12)
    steps = (path[1:] - path[:-1]).flatten(1).norm(dim=1)
    assert torch.allclose(steps, steps[0].expand_as(steps), atol=1e-10)
    with pytest.raises(ValueError, match=r"no path.*allowed: two matrices of one determinant"):
        geodesic(start, torch.cat([-end[:1], end[1:]]), 9)


@pytest.mark.parametrize("determinant", [1, -1])
def test_descents_in_one_component_reach_its_optimum(determinant):
    """A component has one basin, as the module argues."""
    joint = Mismatch(noise(8, 6, 6), 10.0)
    optimum, flip = float(joint(joint.best(determinant))), torch.eye(6, dtype=torch.float64)
    flip[0, 0] = -1
    least = torch.linalg.svdvals(joint.cross)[-2:]
    saddle = 4 * float(least[0] - least[1])  # every other critical point is at least this far above
    for seed in range(3):
        r = Orthogonal.random(6, generator(seed)).matrix
        r = r if determinant_of(r) == determinant else flip @ r
        for _ in range(4):  # restarted, since a single Cayley transform has its half-turns at infinity
            r = cayley_descent(joint, r, 100, 0.1)
        assert determinant_of(r) == determinant
        assert optimum - 1e-12 <= float(joint(r)) <= optimum + 1e-2 * saddle


def test_planted_rotation_is_found_exactly_and_by_descent():
    reference, g = small_model(2), rotation_near_identity()
    model = transport_model(reference, g.inverse())
    baseline = fit(model, reference, starts=2, polish=400)
    y = streams(4)
    x = {site: g.inverse().act(t) for site, t in y.items()}
    metrics = table(joint_alignment(model, reference, baseline, x, y, (0.0, 1.0), steps=250))
    # a copy moved there and back is off by rounding twice, in every tensor of the objective
    back = tensor_mse(stream_rows(transport_model(model, g)), stream_rows(reference))
    rounding = 10 * sum(back.values())
    for lam in (0.0, 1.0):
        assert abs(metrics[lam, "exact", "global"]["objective"]) <= rounding
        assert metrics[lam, "exact", "global"]["determinant"] == 1
        assert metrics[lam, "cayley", "identity"]["objective"] <= 1e-6
        assert metrics[lam, "geodesic", "weights"]["barrier"] <= rounding
    assert metrics[1.0, "exact", "global"]["from_weights"] <= 1e-5
    assert metrics[1.0, "exact", "reflection"]["objective"] > 1e-2
    assert metrics[1.0, "geodesic", "weights"]["determinant_cost"] == pytest.approx(1, abs=1e-6)


def test_bad_input_is_refused(unrelated):
    model, reference, baseline, x, *_ = unrelated
    raw = small_model(2, "raw")
    with pytest.raises(ValueError, match=r"lambdas=\[0.0, -1.0\]; allowed: numbers of at least 0"):
        joint_alignment(model, reference, baseline, x, x, (0.0, -1.0))
    with pytest.raises(ValueError, match=r"nan.*allowed: numbers of at least 0"):
        joint_alignment(model, reference, baseline, x, x, (math.nan,))
    with pytest.raises(ValueError, match=r"same sites.*'late'"):
        joint_alignment(model, reference, baseline, x, {"middle": x["middle"]})
    with pytest.raises(ValueError, match="same sites"):
        joint_alignment(model, reference, baseline, {}, {})
    narrow = {site: t[..., 1:] for site, t in x.items()}
    with pytest.raises(ValueError, match=r"width 16.*15"):
        joint_alignment(model, reference, baseline, narrow, narrow)
    with pytest.raises(ValueError, match="fold_gains"):
        joint_alignment(raw, raw, baseline, x, x)
