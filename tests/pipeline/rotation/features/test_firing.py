"""Firing of an SAE's latents: correlations equal NumPy, and a rotation brings the firing pattern back."""

import numpy as np
import pytest
import torch

from gaugeport.groups import Orthogonal
from gaugeport.pipeline.rotation.features.firing import firing_rows, latents, pearson_by_latent
from gaugeport.pipeline.rotation.features.universality import fit_maps
from planted_saes import WIDTH, moved_streams, noise, train_home


@pytest.fixture(scope="module")
def home():
    return train_home()


def test_correlation_equals_numpy_and_is_zero_for_silent_latents(home):
    a = latents(home.sae, home.test)
    b = latents(home.sae, home.test + 0.5 * torch.randn(home.test.shape, generator=noise()))
    r = pearson_by_latent(a, b)
    for latent in range(a.shape[1]):
        silent = a[:, latent].std() == 0 or b[:, latent].std() == 0
        expected = 0 if silent else np.corrcoef(a[:, latent].double(), b[:, latent].double())[0, 1]
        assert float(r[latent]) == pytest.approx(expected, abs=1e-9)


def test_latents_fire_again_once_the_rotation_is_undone(home):
    fit_b, test_b = moved_streams(home, Orthogonal.random(WIDTH, noise()))
    rows = list(firing_rows(home.sae, home.test, test_b, fit_maps(home.fit, fit_b), 0.5))
    r = {row["group"]: row["value"] for row in rows if row["metric"] == "firing_pearson"}
    recovered = {row["group"]: row["value"] for row in rows if row["metric"] == "recovered_share"}
    alive = float((latents(home.sae, home.test) > 0).any(0).double().mean())
    assert r["self"] == pytest.approx(alive) and r["orthogonal"] == pytest.approx(r["self"], abs=1e-3)
    assert r["identity"] < r["self"] - 0.1
    assert recovered["orthogonal"] == pytest.approx(alive, abs=1e-2)
