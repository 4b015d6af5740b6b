"""Procrustes recovers planted rotations, and no rotation does better."""

import pytest
import torch

from gaugeport.alignment.matchers import (
    cross_moment,
    match,
    procrustes,
    procrustes_mean_preserving,
)
from gaugeport.alignment.moments import MomentStream
from gaugeport.groups import (
    MeanPreservingOrthogonal,
    Orthogonal,
    SignedPermutation,
)
from tiny_models import gen


def test_rotation_margins_measure_mixing():
    assert torch.allclose(
        procrustes(SignedPermutation.random(6, gen(0)).dense()).margin, torch.ones(6).double()
    )
    turn = torch.tensor([[1.0, -1.0], [1.0, 1.0]]) / 2**0.5
    assert float(procrustes(turn).margin.abs().max()) < 1e-6


def paired_rows(g, noise, generator, n=4000):
    """Return the moments of anisotropic, correlated rows of A with g·x_A plus noise."""
    d = g.size
    a = (
        torch.randn(n, d, generator=generator)
        * torch.linspace(0.3, 3, d)
        @ Orthogonal.random(d, generator).dense(torch.float32)
    )
    if isinstance(g, MeanPreservingOrthogonal):
        a = a - a.mean(1, keepdim=True)
    b = g.act(a) + noise * torch.randn(n, d, generator=generator)
    stream = MomentStream()
    stream.update(a + 5, b - 3)
    return stream.result()


@pytest.mark.parametrize("cls", [Orthogonal, MeanPreservingOrthogonal])
def test_procrustes_recovers_a_planted_rotation_from_activations(cls):
    g = cls.random(24, gen(1))
    if (
        cls is MeanPreservingOrthogonal and float(g.matrix.sum()) < 0
    ):  # the sign on 1 is not in activations: +1
        g = cls(g.matrix + 2 / 24)
    pair = (cls.group, "procrustes")
    exact = match(cross_moment(paired_rows(g, 0.0, gen(2))), *pair).gauge
    assert float((exact.matrix - g.matrix).abs().max()) < 1e-5  # float32 rows, condition number 100
    noisy = match(cross_moment(paired_rows(g, 0.1, gen(2))), *pair).gauge
    error = float((noisy.matrix - g.matrix).norm()) / (2 * 24) ** 0.5
    wrong_way = float((noisy.matrix.T - g.matrix).norm()) / (2 * 24) ** 0.5
    assert error < 0.05 and wrong_way > 0.5  # its inverse is another rotation


def test_procrustes_maximises_the_trace():
    """The objective is tr(Q X_Aᵀ X_B); random rotations and small turns of the optimum are no better."""
    c = torch.randn(12, 12, generator=gen(0), dtype=torch.float64)
    result = procrustes(c)
    assert float((result.gauge.matrix @ c.T).trace()) == pytest.approx(result.objective, rel=1e-12)
    generator = gen(1)
    for _ in range(50):
        skew = torch.randn(12, 12, generator=generator, dtype=torch.float64) * 0.05
        near = result.gauge.matrix @ torch.linalg.matrix_exp(skew - skew.T)
        far = Orthogonal.random(12, generator).matrix
        assert max(float((q @ c.T).trace()) for q in (near, far)) <= result.objective


@pytest.mark.parametrize("sign", [1, -1])
def test_mean_preserving_procrustes_reads_the_sign_along_ones(sign):
    g = MeanPreservingOrthogonal.random(10, gen(0))
    now = round(float(g.matrix.sum()) / 10)
    g = MeanPreservingOrthogonal(g.matrix + (sign - now) / 10)
    s = torch.randn(30, 10, generator=gen(1), dtype=torch.float64)
    c = g.matrix @ (s.T @ s)
    result = procrustes_mean_preserving(g.matrix)
    assert float((result.gauge.matrix - g.matrix).abs().max()) < 1e-12
    assert result.objective == pytest.approx(float((result.gauge.matrix @ g.matrix.T).trace()))
    assert round(float(procrustes_mean_preserving(c).gauge.matrix.sum()) / 10) == sign
    blind = g.matrix - sign / 10 + sign * 1e-9
    assert round(float(procrustes_mean_preserving(blind).gauge.matrix.sum()) / 10) == 1


def test_cross_moments_are_scaled_by_the_total_variances():
    moments = paired_rows(Orthogonal.random(8, gen(0)), 0.0, gen(1))
    c = cross_moment(moments)
    assert float(torch.linalg.svdvals(c).sum()) == pytest.approx(
        1, abs=1e-5
    )  # x_B = Q x_A: all of the variance
    doubled = type(moments)(
        moments.n,
        moments.mean_a,
        2 * moments.mean_b,
        moments.square_a,
        4 * moments.square_b,
        2 * moments.cross,
    )
    assert torch.allclose(cross_moment(doubled), c)
