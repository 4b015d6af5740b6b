"""Rank and rotation: Procrustes against SciPy, and the controls that tell a missing rank from another basis."""

import math

import pytest
import scipy.linalg
import torch
from scipy.stats import chi2

from gaugeport.groups import mean_free_basis
from gaugeport.pipeline.rotation.haar import null as haar_null
from gaugeport.pipeline.rotation.haar import rank, statistics

D, RANK = 64, 10
LAYER = "mean_preserving_orthogonal"


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


def stream(group="orthogonal", seed=0, tokens=2000, decay=1.0):
    """Rows with variances falling as a power of their rank, in a random basis; without the mean where the group wants it."""
    noise = gen(seed)
    width = statistics.free_width(D, group)
    spread = torch.arange(1, width + 1, dtype=torch.float64) ** (-decay / 2)
    inside = torch.randn(tokens, width, generator=noise, dtype=torch.float64) * spread
    inside = inside @ torch.linalg.qr(torch.randn(width, width, generator=noise, dtype=torch.float64)).Q
    x = inside if group == "orthogonal" else inside @ mean_free_basis(D).T
    return (x + 3.0 * x[0]).float()


@pytest.mark.parametrize("group", statistics.GROUPS)
def test_procrustes_is_scipys(group):
    a, planted = stream(group), statistics.random_rotation(D, group, gen(1))
    b = (2.5 * (a.double() @ planted.T + 0.1 * stream(group, 2).double())).float()
    found = rank.fit_rotation(a, b, group)
    x, y = (t.double() - t.double().mean(0) for t in (a, b))
    if group == LAYER:
        x, y = x @ mean_free_basis(D), y @ mean_free_basis(D)
    second = torch.from_numpy(scipy.linalg.orthogonal_procrustes(x.numpy(), y.numpy())[0]).T
    assert float((statistics.free_part(found.rotation, group) - second).abs().max()) < 1e-8
    assert statistics.orthogonality_error(found.rotation) <= 1e-6
    nuclear = float(torch.linalg.svdvals(y.T @ x).sum() / (x.norm() * y.norm()))
    assert found.correlation == pytest.approx(nuclear, abs=1e-6) and found.correlation < 1


def test_effective_rank_in_closed_form():
    flat = rank.Spectrum(torch.ones(20), torch.eye(20))
    assert flat.participation == pytest.approx(20) and flat.rank(0.5) == 10 and flat.rank(1.0) == 20
    one = rank.Spectrum(torch.tensor([8.0, 1.0, 1.0]), torch.eye(3))
    assert one.participation == pytest.approx(100 / 66) and one.rank(0.8) == 1 and one.rank(0.81) == 2
    x = torch.randn(500, 5, generator=gen(3)) * torch.tensor([1.0, 5.0, 1.0, 1.0, 1.0]) + 100
    found = rank.spectrum(x)
    assert float(found.directions[:, 0].abs()[1]) > 0.99 and found.support(0.5).shape == (5, 1)
    assert float(found.values.sum()) == pytest.approx(float(x.double().var(0, correction=0).sum()))


def test_supported_distance_in_closed_form():
    basis, eye = mean_free_basis(6), torch.eye(6, dtype=torch.float64)
    assert rank.supported_distance(eye, basis) == 0
    assert rank.supported_distance(-eye, basis) == pytest.approx(math.sqrt(2))
    flipped = eye - 2 * basis[:, :1] @ basis[:, :1].T  # turns one of the five directions over
    assert rank.supported_distance(flipped, basis) == pytest.approx(math.sqrt(4 / 10))
    assert rank.supported_distance(flipped, basis[:, 1:]) < 1e-12
    whole = statistics.rotation_statistics(flipped)["distance_from_identity"]
    assert rank.supported_distance(flipped, eye) == pytest.approx(whole)


@pytest.mark.parametrize("group", statistics.GROUPS)
def test_the_identity_on_low_rank_data_is_recognised_although_it_looks_far_off(group):
    null, width = haar_null.draw_null(D, 100, 0, group), statistics.free_width(D, group)
    x = stream(group)
    support = rank.spectrum(x).directions[:, :RANK]
    least = float(null.supported_distance(RANK).min())
    same = rank.fit_rotation(*rank.low_rank_copies(x, support, gen(4), group=group), group)
    away = statistics.rotation_statistics(same.rotation, group)["distance_from_identity"]
    assert abs(away**2 - (width - RANK) / width) < 5 / width, (
        "the trace of a Haar matrix has standard deviation 1"
    )
    supported = rank.supported_distance(same.rotation, support)
    assert supported < 0.05 and rank.far_below_haar(supported, least)

    first, second = rank.low_rank_copies(x, support, gen(5), group=group)
    planted = statistics.random_rotation(D, group, gen(6))
    other = rank.fit_rotation(first, (second.double() @ planted.T).float(), group)
    supported = rank.supported_distance(other.rotation, support)
    assert supported == pytest.approx(rank.supported_distance(planted, support), abs=0.01)
    assert not rank.far_below_haar(supported, least)


def test_what_the_rank_leaves_open_is_haar():
    """The trace of a Haar matrix has mean 0 and variance 1; float32 sums of the cross moment made it several times that."""
    x, noise = stream(tokens=500), gen(9)
    support = rank.spectrum(x).directions[:, :RANK]
    fits = [rank.fit_rotation(*rank.low_rank_copies(x, support, noise)) for _ in range(40)]
    traces = torch.stack([f.rotation.trace() - RANK for f in fits])
    assert abs(float(traces.mean())) < 5 / math.sqrt(40) and float(traces.square().sum()) < chi2(40).ppf(
        1 - 1e-5
    )


@pytest.mark.parametrize("group", statistics.GROUPS)
def test_independent_rows_share_covariances_and_nothing_else(group):
    a, b = stream(group), stream(group, 7, decay=0.3)
    x, y = rank.independent_rows(a, b, gen(8))
    for sampled, given in ((x, a), (y, b)):
        truth = given.double().T.cov()
        assert float((sampled.double().T.cov() - truth).norm() / truth.norm()) < 0.2
    cross = (x.double() - x.double().mean(0)).T @ (y.double() - y.double().mean(0)) / len(x)
    scale = x.double().std(0)[:, None] * y.double().std(0)
    assert float((cross / scale).abs().max()) < 6 / math.sqrt(len(x))
    noise, same = rank.fit_rotation(x, y, group), rank.fit_rotation(a, a, group)
    assert noise.correlation < 0.5 * same.correlation and same.correlation == pytest.approx(1)
    assert statistics.rotation_statistics(noise.rotation, group)["distance_from_identity"] > 0.9, (
        "far from the identity all the same"
    )


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: rank.spectrum(torch.ones(5, 3)), "all rows are the same"),
        (
            lambda: rank.spectrum(torch.ones(1, 3)),
            "shape (1, 3); allowed: [tokens, d] with two tokens or more",
        ),
        (lambda: rank.spectrum(torch.randn(5, 3)).rank(0), "share=0; allowed: above 0, up to 1"),
        (lambda: rank.supported_distance(torch.eye(3), torch.eye(4)), "shape (4, 4); allowed: [3, r]"),
        (lambda: rank.supported_distance(torch.ones(3, 3), torch.eye(3)), "allowed: orthogonal"),
        (
            lambda: rank.fit_rotation(torch.randn(5, 3), torch.randn(4, 3)),
            "shapes (5, 3) and (4, 3); allowed: [tokens, d] both",
        ),
        (lambda: rank.fit_rotation(torch.randn(5, 3), torch.full((5, 3), math.inf)), "allowed: finite rows"),
        (
            lambda: rank.fit_rotation(torch.randn(5, 3), torch.randn(5, 3), "permutation"),
            "allowed: permutation with",
        ),
    ],
)
def test_bad_input_names_what_is_allowed(call, words):
    with pytest.raises(ValueError) as e:
        call()
    assert words in str(e.value)
