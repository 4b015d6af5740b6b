"""Comparison of groups on streams with a planted gauge; held-out tokens are measured."""

import pytest
import torch

from gaugeport.groups import SignedPermutation
from gaugeport.pipeline.measures.head_to_head import head_to_head_rows
from gaugeport.pipeline.rotation.lenses.dictionaries import train_dictionary

D, K, FEW, MANY, NOISE = 24, 6, 40, 2000, 1.0
SAE = {
    "architecture": "topk",
    "k": 4,
    "l1": 5.0,
    "lr": 2e-3,
    "batch_size": 256,
    "activations": 8192,
    "tokens": 65536,
}


def gen(seed):
    return torch.Generator().manual_seed(seed)


def streams():
    """Each token has a few of 40 features, each of one sign and largest in the last coordinates."""
    active = torch.rand(MANY + 500, 40, generator=gen(0)) < 0.08
    features = torch.randn(40, D, generator=gen(3)) * torch.linspace(0.5, 2.0, D)
    return (active * (0.5 + torch.rand(active.shape, generator=gen(4)))) @ features


@pytest.fixture(scope="module")
def rows():
    """B is A in other coordinates, with noise; no map is fitted on the tokens measured."""
    plant = SignedPermutation.random(D, gen(1))
    a = streams()
    b = 2 * plant.act(a) + NOISE * torch.randn(a.shape, generator=gen(2))
    seen = []

    def retention(m):
        seen.append(m)
        return {"retention_native": float(m.direction(torch.ones(D)).sum())}

    found = head_to_head_rows(
        a[:MANY],
        b[:MANY],
        a[MANY:],
        b[MANY:],
        sae=train_dictionary(a[:MANY], SAE, 4, 0, "here"),
        retention=retention,
        tokens=[MANY, FEW],
        plants=[SignedPermutation.random(D, gen(s)) for s in (5, 6, 7)],
        k=K,
    )
    assert len(seen) == 3 + 4, "raw S_d once per plant, the others once"
    return found


def of(rows, metric, tokens=MANY):
    return {r["group"]: r["value"] for r in rows if r["metric"] == metric and r["tokens"] == tokens}


def test_fit_is_measured_on_held_out_tokens(rows):
    few, many = of(rows, "heldout_fit", FEW), of(rows, "heldout_fit")
    noise = NOISE**2 / (4 * float(streams().var(0).mean()) + NOISE**2)
    assert many["signed_permutation"] == pytest.approx(1 - noise, abs=0.02)
    assert many["affine"] == pytest.approx(many["signed_permutation"], abs=0.02)
    assert few["affine"] < few["signed_permutation"] - 0.02, (
        "the affine map is ahead only on the rows it was fitted on"
    )
    assert many["permutation"] < 0.5 and many["identity"] < 0.5


def test_shrinking_never_hurts_and_changes_no_good_fit(rows):
    fit, shrunk = of(rows, "heldout_fit"), of(rows, "heldout_fit_shrunk")
    assert (
        set(fit) == set(shrunk) == {"identity", "permutation", "signed_permutation", "orthogonal", "affine"}
    )
    assert all(shrunk[g] > fit[g] - 0.01 for g in fit)
    assert shrunk["signed_permutation"] == pytest.approx(fit["signed_permutation"], abs=0.01)
    assert fit["identity"] < 0 and shrunk["identity"] > -0.05
    assert of(rows, "heldout_fit_shrunk", FEW)["affine"] == of(rows, "heldout_fit", FEW)["affine"]


def test_sae_needs_the_right_map_and_indices_need_a_permutation(rows):
    nmse, native = of(rows, "sae_nmse"), of(rows, "sae_nmse_native", 0)["none"]
    assert abs(nmse["signed_permutation"] - native) < 0.1 < nmse["permutation"] - native
    assert of(rows, "index_refused") == {"orthogonal": 1.0, "affine": 1.0}
    precision = of(rows, "index_precision")
    assert precision["signed_permutation"] == 1 and set(precision) == {
        "identity",
        "permutation",
        "signed_permutation",
    }
    assert precision["permutation"] < 1 and precision["identity"] < 1
    trip = of(rows, "round_trip_nmse")
    assert trip["orthogonal"] < 1e-6 < trip["affine"]


def test_too_many_fitting_tokens_are_refused():
    x = torch.zeros(10, D)
    for tokens in ([], [11], [1]):
        with pytest.raises(ValueError, match="of 10 rows to fit on; allowed: 2 to 10"):
            head_to_head_rows(x, x, x, x, sae=None, retention=dict, tokens=tokens, plants=[], k=1)
