"""Rank and rotation: Procrustes equals SciPy, and controls tell missing rank from another basis."""

import math

import pytest
import scipy.linalg
import torch
from scipy.stats import chi2

from gaugeport.groups import mean_free_basis
from gaugeport.pipeline.rotation.haar.null import draw_null
from gaugeport.pipeline.rotation.haar.rank import (
    Spectrum,
    far_below_haar,
    fit_rotation,
    independent_rows,
    low_rank_copies,
    spectrum,
    supported_distance,
)
from gaugeport.pipeline.rotation.haar.statistics import (
    GROUPS,
    free_part,
    free_width,
    orthogonality_error,
    random_rotation,
    rotation_statistics,
)

D, RANK = 64, 10
MEAN_PRESERVING = "mean_preserving_orthogonal"


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


def stream(group="orthogonal", seed=0, tokens=2000, decay=1.0):
    """Return rows whose variances fall as a power of their rank, in a random basis of the group's space."""
    noise = gen(seed)
    width = free_width(D, group)
    spread = torch.arange(1, width + 1, dtype=torch.float64) ** (-decay / 2)
    inside = torch.randn(tokens, width, generator=noise, dtype=torch.float64) * spread
    inside = inside @ torch.linalg.qr(torch.randn(width, width, generator=noise, dtype=torch.float64)).Q
    x = inside if group == "orthogonal" else inside @ mean_free_basis(D).T
    return (x + 3.0 * x[0]).float()


@pytest.mark.parametrize("group", GROUPS)
def test_fitted_rotation_equals_scipy(group):
    a, planted = stream(group), random_rotation(D, group, gen(1))
    b = (2.5 * (a.double() @ planted.T + 0.1 * stream(group, 2).double())).float()
    fit = fit_rotation(a, b, group)
    x, y = (t.double() - t.double().mean(0) for t in (a, b))
    if group == MEAN_PRESERVING:
        x, y = x @ mean_free_basis(D), y @ mean_free_basis(D)
    expected = torch.from_numpy(scipy.linalg.orthogonal_procrustes(x.numpy(), y.numpy())[0]).T
    assert float((free_part(fit.rotation, group) - expected).abs().max()) < 1e-8
    assert orthogonality_error(fit.rotation) <= 1e-6
    nuclear = float(torch.linalg.svdvals(y.T @ x).sum() / (x.norm() * y.norm()))
    assert fit.correlation == pytest.approx(nuclear, abs=1e-6) and fit.correlation < 1


def test_effective_rank_in_closed_form():
    flat = Spectrum(torch.ones(20), torch.eye(20))
    assert flat.participation == pytest.approx(20) and flat.rank(0.5) == 10 and flat.rank(1.0) == 20
    one = Spectrum(torch.tensor([8.0, 1.0, 1.0]), torch.eye(3))
    assert one.participation == pytest.approx(100 / 66) and one.rank(0.8) == 1 and one.rank(0.81) == 2
    x = torch.randn(500, 5, generator=gen(3)) * torch.tensor([1.0, 5.0, 1.0, 1.0, 1.0]) + 100
    components = spectrum(x)
    assert float(components.directions[:, 0].abs()[1]) > 0.99 and components.support(0.5).shape == (5, 1)
    assert float(components.values.sum()) == pytest.approx(float(x.double().var(0, correction=0).sum()))


def test_supported_distance_in_closed_form():
    basis, eye = mean_free_basis(6), torch.eye(6, dtype=torch.float64)
    assert supported_distance(eye, basis) == 0
    assert supported_distance(-eye, basis) == pytest.approx(math.sqrt(2))
    flipped = eye - 2 * basis[:, :1] @ basis[:, :1].T  # reverses one of the five directions
    assert supported_distance(flipped, basis) == pytest.approx(math.sqrt(4 / 10))
    assert supported_distance(flipped, basis[:, 1:]) < 1e-12
    everywhere = rotation_statistics(flipped)["distance_from_identity"]
    assert supported_distance(flipped, eye) == pytest.approx(everywhere)


@pytest.mark.parametrize("group", GROUPS)
def test_support_tells_identity_on_low_rank_data_from_another_basis(group):
    null, width = draw_null(D, 100, 0, group), free_width(D, group)
    x = stream(group)
    support = spectrum(x).directions[:, :RANK]
    least = float(null.supported_distance(RANK).min())

    # two copies in one basis: far from the identity as a whole, and near it on the support
    same = fit_rotation(*low_rank_copies(x, support, gen(4), group=group), group)
    away = rotation_statistics(same.rotation, group)["distance_from_identity"]
    expected = (width - RANK) / width
    assert abs(away**2 - expected) < 5 / width, "the trace of a Haar matrix has standard deviation 1"
    supported = supported_distance(same.rotation, support)
    assert supported < 0.05 and far_below_haar(supported, least)

    # a copy in a planted basis: far from the identity on the support too
    first, second = low_rank_copies(x, support, gen(5), group=group)
    planted = random_rotation(D, group, gen(6))
    other = fit_rotation(first, (second.double() @ planted.T).float(), group)
    supported = supported_distance(other.rotation, support)
    assert supported == pytest.approx(supported_distance(planted, support), abs=0.01)
    assert not far_below_haar(supported, least)


def test_directions_that_the_rank_leaves_open_are_haar():
    """The trace of a Haar matrix has mean 0, variance 1; cross moments in float32 gave several times that."""
    x, noise = stream(tokens=500), gen(9)
    support = spectrum(x).directions[:, :RANK]
    fits = [fit_rotation(*low_rank_copies(x, support, noise)) for _ in range(40)]
    traces = torch.stack([f.rotation.trace() - RANK for f in fits])
    assert abs(float(traces.mean())) < 5 / math.sqrt(40)
    assert float(traces.square().sum()) < chi2(40).ppf(1 - 1e-5)


@pytest.mark.parametrize("group", GROUPS)
def test_independent_rows_share_covariances_only(group):
    a, b = stream(group), stream(group, 7, decay=0.3)
    x, y = independent_rows(a, b, gen(8))
    for sampled, given in ((x, a), (y, b)):
        expected = given.double().T.cov()
        assert float((sampled.double().T.cov() - expected).norm() / expected.norm()) < 0.2
    cross = (x.double() - x.double().mean(0)).T @ (y.double() - y.double().mean(0)) / len(x)
    scale = x.double().std(0)[:, None] * y.double().std(0)
    assert float((cross / scale).abs().max()) < 6 / math.sqrt(len(x))
    noise, same = fit_rotation(x, y, group), fit_rotation(a, a, group)
    assert noise.correlation < 0.5 * same.correlation and same.correlation == pytest.approx(1)
    distance = rotation_statistics(noise.rotation, group)["distance_from_identity"]
    assert distance > 0.9, "far from the identity all the same"


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: spectrum(torch.ones(5, 3)), "all rows are the same"),
        (lambda: spectrum(torch.ones(1, 3)), "shape (1, 3); allowed: [tokens, d] with two tokens or more"),
        (lambda: spectrum(torch.randn(5, 3)).rank(0), "share=0; allowed: above 0, up to 1"),
        (lambda: supported_distance(torch.eye(3), torch.eye(4)), "shape (4, 4); allowed: [3, r]"),
        (lambda: supported_distance(torch.ones(3, 3), torch.eye(3)), "allowed: orthogonal"),
        (
            lambda: fit_rotation(torch.randn(5, 3), torch.randn(4, 3)),
            "shapes (5, 3) and (4, 3); allowed: [tokens, d] both",
        ),
        (lambda: fit_rotation(torch.randn(5, 3), torch.full((5, 3), math.inf)), "allowed: finite rows"),
        (
            lambda: fit_rotation(torch.randn(5, 3), torch.randn(5, 3), "permutation"),
            "allowed: permutation with",
        ),
    ],
)
def test_bad_input_is_refused(call, words):
    with pytest.raises(ValueError) as e:
        call()
    assert words in str(e.value)
