"""SAEs across seeds: planted gauges are undone to what the SAE explains at home, and nothing else is."""

import numpy as np
import pytest
import torch

from dyck_models import generic
from gaugeport.charts import chart_of
from gaugeport.groups import Orthogonal, SignedPermutation
from gaugeport.pipeline.rotation.features import firing
from gaugeport.pipeline.rotation.features import universality as u
from gaugeport.pipeline.rotation.lenses.dictionaries import (
    train_dictionary,
    untrained_dictionary,
)
from gaugeport.pipeline.rotation.toy import strings
from gaugeport.pipeline.rotation.toy.sites import activations_at
from gaugeport.pipeline.tasks.checkpoints import composed
from gaugeport.transport.model import transport_model

SETTINGS = {
    "architecture": "topk",
    "k": 4,
    "l1": 5.0,
    "lr": 2e-3,
    "batch_size": 256,
    "activations": 8192,
    "tokens": 16384,
}
WIDTH = 16


def noise(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def home():
    """A folded model, its stream on tokens to fit on and on others, and an SAE of it."""
    model = generic(folded=True, scale=0.5)
    fit, test = (
        activations_at(model, strings.heldout("train", 300, 18, 20, s), "resid_mid_1") for s in (0, 1)
    )
    return model, fit, test, train_dictionary(fit, SETTINGS, 4, 0, "resid_mid_1")


def moved(model, gauge):
    twin = transport_model(model, gauge)
    return [activations_at(twin, strings.heldout("train", 300, 18, 20, s), "resid_mid_1") for s in (0, 1)]


def transfer(sae, fit, fit_b, test, test_b):
    return list(
        u.transfer_rows(sae, u.fit_maps(fit, fit_b), u.principal_axes(fit, fit_b, 0), test, test_b, 0)
    )


def values(rows, metric="explained_variance"):
    return {r["group"]: r["value"] for r in rows if r["metric"] == metric}


def test_a_planted_rotation_of_a_model_is_undone_by_o_d_alone(home):
    model, fit, test, sae = home
    assert chart_of(model).group == "orthogonal"
    fit_b, test_b = moved(model, Orthogonal.random(WIDTH, noise()))
    ev = values(transfer(sae, fit, fit_b, test, test_b))
    assert abs(ev["orthogonal"] - ev["self"]) < 1e-4
    assert (
        max(ev[g] for g in ("identity", "translation", "permutation", "signed_permutation"))
        < ev["self"] - 0.1
    )
    assert ev["noise"] < ev["self"]


def test_a_planted_signed_permutation_is_undone_by_b_d_and_o_d_but_not_s_d(home):
    model, fit, test, sae = home
    fit_b, test_b = moved(model, SignedPermutation.random(WIDTH, noise(1)))
    ev = values(transfer(sae, fit, fit_b, test, test_b))
    for group in ("signed_permutation", "orthogonal"):
        assert abs(ev[group] - ev["self"]) < 1e-4
    assert ev["permutation"] < ev["self"] - 0.1


def test_a_stream_of_another_length_needs_the_rotation_s_scale(home):
    """RMSNorm forgets the length of a stream, an SAE does not."""
    _, fit, test, sae = home
    r = Orthogonal.random(WIDTH, noise())
    ev = values(transfer(sae, fit, 0.5 * r.act(fit), test, 0.5 * r.act(test)))
    assert abs(ev[u.SCALED] - ev["self"]) < 1e-6 and abs(ev["orthogonal"] - ev["self"]) > 0.01
    assert u.SCALED not in u.fit_maps(fit, fit, ["permutation"])


def test_gauges_keep_the_whole_stream_there_and_back_and_regressions_do_not(home):
    _, fit, test, sae = home
    partner = test + 0.5 * test.std() * torch.randn(test.shape, generator=noise(2))
    other = fit + 0.5 * fit.std() * torch.randn(fit.shape, generator=noise(3))
    kept = values(transfer(sae, fit, other, test, partner), "round_trip")
    assert all(kept[g] == pytest.approx(1, abs=1e-9) for g in kept if g != "affine")
    assert kept["affine"] < 0.95, "the identity for an SAE would look imperfect through it"


def test_aligned_principal_axes_have_the_moments_and_not_the_tokens(home):
    """Second moments of what arrives are those of A; a token's own partner is what only the fitted rotation finds."""
    model, fit, test, sae = home
    fit_b, test_b = moved(model, Orthogonal.random(WIDTH, noise()))
    for m in u.principal_axes(fit, fit_b, 0):
        arrived = m.backward(fit_b).double()
        torch.testing.assert_close(arrived.T.cov(), fit.double().T.cov(), rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(arrived.mean(0), fit.double().mean(0), rtol=1e-4, atol=1e-5)
        assert u.round_trip(m, test_b) == pytest.approx(1, abs=1e-6)
        assert float((arrived - fit).norm() / (fit - fit.mean(0)).norm()) > 0.5
    ev = values(transfer(sae, fit, fit_b, test, test_b))
    assert ev["identity"] < ev["principal_axes"] < ev["orthogonal"] - 0.05
    shuffled = u.principal_axes(fit, fit_b[torch.randperm(len(fit_b), generator=noise(1))], 0)
    for one, two in zip(shuffled, u.principal_axes(fit, fit_b, 0), strict=True):
        torch.testing.assert_close(one.backward(test_b), two.backward(test_b), rtol=1e-3, atol=1e-3)


def test_maps_fitted_on_all_tokens_explain_what_the_curve_says_at_its_end(home):
    model, fit, test, sae = home
    fit_b, test_b = moved(model, Orthogonal.random(WIDTH, noise()))
    curve = list(u.token_rows(sae, fit, fit_b, test_b, [64, len(fit)]))
    whole = values(transfer(sae, fit, fit_b, test, test_b))
    for row in curve:
        if row["tokens"] == len(fit):
            assert row["value"] == pytest.approx(whole[row["group"]], abs=1e-9)
    with pytest.raises(ValueError, match=r"tokens=\[1\] .*allowed: 2 to"):
        list(u.token_rows(sae, fit, fit_b, test_b, [1]))


def test_gaussian_noise_has_the_streams_mean_and_covariance_and_is_gaussian(home):
    _, fit, _, _ = home
    drawn = u.gaussian_like(fit.repeat(10, 1), 0).double()
    x = fit.double()
    scale = float(x.var(0).max())
    assert float((drawn.mean(0) - x.mean(0)).abs().max()) < 6 * (scale / len(drawn)) ** 0.5
    assert float((drawn.T.cov() - x.T.cov()).abs().max()) < 10 * scale / len(drawn) ** 0.5
    z = (drawn - drawn.mean(0)) @ torch.linalg.eigh(drawn.T.cov())[1]
    z = z[:, -1] / z[:, -1].std()
    assert abs(float((z**4).mean()) - 3) < 6 * (24 / len(z)) ** 0.5


def test_a_rotated_copy_of_a_decoder_matches_once_carried_back(home):
    model, fit, _, sae = home
    gauge = Orthogonal.random(WIDTH, noise())
    maps = u.fit_maps(fit, moved(model, gauge)[0])
    rows = list(u.decoder_rows(sae.W_dec, gauge.act(sae.W_dec.detach()), maps, 0.7, "own"))
    cosine = values(rows, "decoder_mean_max_cosine")
    assert cosine["orthogonal"] == pytest.approx(1, abs=1e-4) and cosine["identity"] < 0.9
    assert values(rows, "decoder_matched_above")["orthogonal"] == 1
    assert "translation" not in cosine


def test_the_untrained_sae_is_where_training_begins(home):
    _, fit, _, _ = home
    still = train_dictionary(fit, {**SETTINGS, "lr": 1e-12}, 4, 7, "here")
    began = untrained_dictionary(SETTINGS, 4, WIDTH, 7)
    other = untrained_dictionary(SETTINGS, 4, WIDTH, 8)

    def cosine(a, b):
        return torch.nn.functional.cosine_similarity(a.W_dec, b.W_dec, dim=1).detach()

    assert float(cosine(still, began).min()) > 1 - 1e-5
    assert float(cosine(still, other).abs().mean()) < 0.5


def test_correlation_by_latent_is_numpys_and_silent_latents_count_as_nothing(home):
    _, _, test, sae = home
    a = firing.latents(sae, test)
    b = firing.latents(sae, test + 0.5 * torch.randn(test.shape, generator=noise()))
    r = firing.pearson_by_latent(a, b)
    for latent in range(a.shape[1]):
        silent = a[:, latent].std() == 0 or b[:, latent].std() == 0
        expected = 0 if silent else np.corrcoef(a[:, latent].double(), b[:, latent].double())[0, 1]
        assert float(r[latent]) == pytest.approx(expected, abs=1e-9)


def test_latents_fire_again_where_they_did_once_the_rotation_is_undone(home):
    model, fit, test, sae = home
    fit_b, test_b = moved(model, Orthogonal.random(WIDTH, noise()))
    rows = list(firing.firing_rows(sae, test, test_b, u.fit_maps(fit, fit_b), 0.5))
    r = values(rows, "firing_pearson")
    alive = float((firing.latents(sae, test) > 0).any(0).double().mean())
    assert r["self"] == pytest.approx(alive) and r["orthogonal"] == pytest.approx(r["self"], abs=1e-3)
    assert r["identity"] < r["self"] - 0.1
    assert values(rows, "recovered_share")["orthogonal"] == pytest.approx(alive, abs=1e-2)


def test_composed_maps_do_what_their_links_do_one_after_another():
    x = [torch.randn(400, WIDTH, generator=noise(s)) + s for s in range(3)]
    first, second = (u.fit_maps(x[i], x[i + 1], ["orthogonal"])["orthogonal"] for i in (0, 1))
    both = composed([first, second])
    assert torch.allclose(both.forward(x[0]), second.forward(first.forward(x[0])), atol=1e-5)
    assert torch.allclose(both.backward(x[2]), first.backward(second.backward(x[2])), atol=1e-5)
    assert torch.allclose(both.backward(both.forward(x[0])), x[0], atol=1e-5)
