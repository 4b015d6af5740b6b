"""SAEs on other models: maps undo planted gauges, and nothing else explains as much."""

import pytest
import torch

from gaugeport.charts import chart_of
from gaugeport.groups import Orthogonal, SignedPermutation
from gaugeport.pipeline.measures.maps import round_trip_explained_variance
from gaugeport.pipeline.rotation.features.universality import (
    SCALED,
    decoder_rows,
    fit_maps,
    gaussian_like,
    principal_axes,
    token_rows,
    transfer_rows,
)
from gaugeport.pipeline.rotation.lenses.dictionaries import train_dictionary, untrained_dictionary
from gaugeport.pipeline.tasks.checkpoints import composed
from planted_saes import SETTINGS, WIDTH, moved_streams, noise, train_home


@pytest.fixture(scope="module")
def home():
    return train_home()


@pytest.fixture(scope="module")
def rotation():
    return Orthogonal.random(WIDTH, noise())


@pytest.fixture(scope="module")
def rotated(home, rotation):
    return moved_streams(home, rotation)


@pytest.fixture(scope="module")
def rows_of_rotated(home, rotated):
    return transfer(home, *rotated)


def transfer(home, fit_b, test_b):
    """Return all rows of the transfer from ``home`` to a model with these streams."""
    maps, unpaired = fit_maps(home.fit, fit_b), principal_axes(home.fit, fit_b, 0)
    return list(transfer_rows(home.sae, maps, unpaired, home.test, test_b, 0))


def by_group(rows, metric="explained_variance"):
    return {r["group"]: r["value"] for r in rows if r["metric"] == metric}


def test_planted_rotation_is_undone_by_rotations_only(home, rows_of_rotated):
    assert chart_of(home.model).group == "orthogonal"
    ev = by_group(rows_of_rotated)
    assert abs(ev["orthogonal"] - ev["self"]) < 1e-4
    for group in ("identity", "translation", "permutation", "signed_permutation"):
        assert ev[group] < ev["self"] - 0.1
    assert ev["noise"] < ev["self"]


def test_planted_signed_permutation_is_undone_by_signs_and_rotations_but_not_by_permutations(home):
    ev = by_group(transfer(home, *moved_streams(home, SignedPermutation.random(WIDTH, noise(1)))))
    for group in ("signed_permutation", "orthogonal"):
        assert abs(ev[group] - ev["self"]) < 1e-4
    assert ev["permutation"] < ev["self"] - 0.1


def test_stream_of_another_length_needs_the_rotations_scale(home, rotation):
    """RMSNorm forgets the length of a stream, an SAE does not."""
    ev = by_group(transfer(home, 0.5 * rotation.act(home.fit), 0.5 * rotation.act(home.test)))
    assert abs(ev[SCALED] - ev["self"]) < 1e-6 and abs(ev["orthogonal"] - ev["self"]) > 0.01
    assert SCALED not in fit_maps(home.fit, home.fit, ["permutation"])


def test_gauges_keep_the_whole_stream_and_regressions_do_not(home):
    other_test = home.test + 0.5 * home.test.std() * torch.randn(home.test.shape, generator=noise(2))
    other_fit = home.fit + 0.5 * home.fit.std() * torch.randn(home.fit.shape, generator=noise(3))
    kept = by_group(transfer(home, other_fit, other_test), "round_trip")
    assert all(kept[group] == pytest.approx(1, abs=1e-9) for group in kept if group != "affine")
    assert kept["affine"] < 0.95, "even a perfect SAE would look imperfect through it"


def test_principal_axes_match_moments_and_not_tokens(home, rotated, rows_of_rotated):
    """What arrives has the second moments of A; only the fitted rotation finds the partner of a token."""
    fit = home.fit.double()
    maps = principal_axes(home.fit, rotated.fit, 0)
    for m in maps:
        arrived = m.backward(rotated.fit).double()
        torch.testing.assert_close(arrived.T.cov(), fit.T.cov(), rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(arrived.mean(0), fit.mean(0), rtol=1e-4, atol=1e-5)
        assert round_trip_explained_variance(m, rotated.test) == pytest.approx(1, abs=1e-6)
        assert float((arrived - fit).norm() / (fit - fit.mean(0)).norm()) > 0.5
    ev = by_group(rows_of_rotated)
    assert ev["identity"] < ev["principal_axes"] < ev["orthogonal"] - 0.05

    # B's tokens in another order give the same maps
    shuffled = rotated.fit[torch.randperm(len(rotated.fit), generator=noise(1))]
    for one, two in zip(principal_axes(home.fit, shuffled, 0), maps, strict=True):
        torch.testing.assert_close(
            one.backward(rotated.test), two.backward(rotated.test), rtol=1e-3, atol=1e-3
        )


def test_token_curve_ends_at_maps_fitted_on_all_tokens(home, rotated, rows_of_rotated):
    on_all = by_group(rows_of_rotated)
    for row in token_rows(home.sae, home.fit, rotated.fit, rotated.test, [64, len(home.fit)]):
        if row["tokens"] == len(home.fit):
            assert row["value"] == pytest.approx(on_all[row["group"]], abs=1e-9)
    with pytest.raises(ValueError, match=r"tokens=\[1\] .*allowed: 2 to"):
        list(token_rows(home.sae, home.fit, rotated.fit, rotated.test, [1]))


def test_gaussian_noise_has_the_streams_mean_and_covariance_and_is_gaussian(home):
    drawn = gaussian_like(home.fit.repeat(10, 1), 0).double()
    x = home.fit.double()
    scale = float(x.var(0).max())
    assert float((drawn.mean(0) - x.mean(0)).abs().max()) < 6 * (scale / len(drawn)) ** 0.5
    assert float((drawn.T.cov() - x.T.cov()).abs().max()) < 10 * scale / len(drawn) ** 0.5
    z = (drawn - drawn.mean(0)) @ torch.linalg.eigh(drawn.T.cov())[1]
    z = z[:, -1] / z[:, -1].std()
    assert abs(float((z**4).mean()) - 3) < 6 * (24 / len(z)) ** 0.5


def test_rotated_decoder_matches_once_carried_back(home, rotation, rotated):
    maps = fit_maps(home.fit, rotated.fit)
    turned = rotation.act(home.sae.W_dec.detach())
    rows = list(decoder_rows(home.sae.W_dec, turned, maps, 0.7, "own"))
    cosine = by_group(rows, "decoder_mean_max_cosine")
    assert cosine["orthogonal"] == pytest.approx(1, abs=1e-4) and cosine["identity"] < 0.9
    assert by_group(rows, "decoder_matched_above")["orthogonal"] == 1
    assert "translation" not in cosine


def test_untrained_sae_is_where_training_begins(home):
    barely_trained = train_dictionary(home.fit, {**SETTINGS, "lr": 1e-12}, 4, 7, "here")
    untrained = untrained_dictionary(SETTINGS, 4, WIDTH, 7)
    of_other_seed = untrained_dictionary(SETTINGS, 4, WIDTH, 8)

    def cosine(a, b):
        return torch.nn.functional.cosine_similarity(a.W_dec, b.W_dec, dim=1).detach()

    assert float(cosine(barely_trained, untrained).min()) > 1 - 1e-5
    assert float(cosine(barely_trained, of_other_seed).abs().mean()) < 0.5


def test_composed_maps_equal_their_links_one_after_another():
    x = [torch.randn(400, WIDTH, generator=noise(s)) + s for s in range(3)]
    first, second = (fit_maps(x[i], x[i + 1], ["orthogonal"])["orthogonal"] for i in (0, 1))
    both = composed([first, second])
    assert torch.allclose(both.forward(x[0]), second.forward(first.forward(x[0])), atol=1e-5)
    assert torch.allclose(both.backward(x[2]), first.backward(second.backward(x[2])), atol=1e-5)
    assert torch.allclose(both.backward(both.forward(x[0])), x[0], atol=1e-5)
