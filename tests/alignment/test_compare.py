"""Explained variance of gauges on held-out text, by moments and by hand; affine fits; groups compared."""

import pytest
import torch

import gaugeport as gp
from gaugeport.alignment.align import align
from gaugeport.alignment.moments import MomentStream
from gaugeport.alignment.variance import explained_variance, with_scale_and_shift
from gaugeport.charts import chart_of, fold_gains
from gaugeport.groups import (
    AffineGauge,
    GlobalSignPermutation,
    MeanPreservingOrthogonal,
    Orthogonal,
    Permutation,
    SignedPermutation,
)
from gaugeport.pipeline.measures.gauge_groups import tiny_model
from gaugeport.streams.activations import all_sites, streams_at
from gaugeport.transport import transport_model
from tiny_models import batches_of, gen

D = 32
ROUNDING = 1e-5
"""Of float32 streams, summed in float64."""


def moments_of(a, b):
    stream = MomentStream()
    stream.update(a.float(), b.float())
    return stream.result()


def by_hand(gauge, x, y):
    """R² from the rows themselves: linear gauges between centred streams, affine ones as they are."""
    x, y = x.double(), y.double()
    spread = (y - y.mean(0)).square().sum()
    if isinstance(gauge, AffineGauge):
        return float(1 - (y - gauge.act(x)).square().sum() / spread)
    return float(1 - (y - y.mean(0) - gauge.act(x - x.mean(0))).square().sum() / spread)


def shrunk(model, factor):
    """Make a model with streams ``factor`` times as long: norms hide it from every reader."""
    with torch.no_grad():
        for name, role, _ in chart_of(model).matrices():
            if role in ("embed", "write"):
                model.get_parameter(name).mul_(factor)
    return model


LINEAR = [Permutation, GlobalSignPermutation, SignedPermutation, MeanPreservingOrthogonal, Orthogonal]


@pytest.mark.parametrize("family", ["llama", "gpt_neox"])
@pytest.mark.parametrize("cls", [*LINEAR, AffineGauge])
def test_explained_variance_is_that_of_the_rows(family, cls):
    a, b = (tiny_model(family, gen(k)) for k in (0, 1))
    gauge, other = (cls.random(D, gen(seed)) for seed in (2, 3))
    if cls is AffineGauge:
        # on LayerNorm models no reader sees the mean over coordinates, so the shift has none here
        shift = gauge.shift - gauge.shift.mean()
        gauge = AffineGauge(MeanPreservingOrthogonal.random(D, gen(2)), shift, 0.4)
    held_out = batches_of(seed=100)
    found, off = gp.explained(a, b, gauge, held_out), []
    assert list(found) == all_sites(2)
    for site, share in found.items():
        x, y = (
            torch.cat([streams_at(m, chart_of(m), batch, [site])[site] for batch in held_out]) for m in (a, b)
        )
        assert share == pytest.approx(by_hand(gauge, x, y), abs=ROUNDING)
        off.append(abs(share - by_hand(other, x, y)))
    assert max(off) > 100 * ROUNDING, "another gauge explains another share"
    ev = gp.evidence(a, b, held_out)
    assert ev.explained(gauge) == found and ev.explained(gauge, "block1") == {"block1": found["block1"]}
    some = gp.explained(lambda: a, lambda: b, gauge, held_out, sites=["blocks.1.hook_resid_post"])
    assert some == {"block1": found["block1"]}


def test_mean_over_coordinates_of_a_shift_counts_on_rmsnorm_models_only():
    for family, counts in (("llama", True), ("gpt_neox", False)):
        a, g = tiny_model(family, gen(0)), Permutation.identity(D)
        ev = gp.evidence(a, a, batches_of(seed=100))
        lifted, plain = (
            ev.explained(AffineGauge(g, shift))["block0"] for shift in (torch.ones(D), torch.zeros(D))
        )
        assert plain == pytest.approx(1, abs=ROUNDING) and (plain - lifted > 1e-2) is counts


def test_the_true_gauge_explains_everything_and_another_does_not():
    a, g = tiny_model("llama", gen(0)), SignedPermutation.random(D, gen(1))
    b = transport_model(a, g)
    assert all(
        share == pytest.approx(1, abs=ROUNDING)
        for share in gp.explained(a, b, g, batches_of(seed=100)).values()
    )
    signs = SignedPermutation(g.perm, -g.sign)
    assert all(
        share == pytest.approx(-3, abs=ROUNDING)
        for share in gp.explained(a, b, signs, batches_of(seed=100)).values()
    )
    assert max(gp.explained(a, b, SignedPermutation.identity(D), batches_of(seed=100)).values()) < 0.5


def test_correlated_rows_are_explained_as_theory_says():
    """B is ρ parts A's rotation and the rest noise: the rotation explains 2ρ - 1, with a scale ρ²."""
    generator, n, rho = gen(5), 100_000, 0.6
    q = Orthogonal.random(8, generator)
    a, noise = (torch.randn(n, 8, generator=generator, dtype=torch.float64) for _ in range(2))
    b = rho * q.act(a) + (1 - rho**2) ** 0.5 * noise + 3
    m = moments_of(a, b)
    error = 6 / (n * 8) ** 0.5  # six standard deviations, at least, of a mean over all entries
    assert explained_variance(q, m, False) == pytest.approx(2 * rho - 1, abs=2 * error)
    best = with_scale_and_shift(q, m)
    assert best.scale == pytest.approx(rho, abs=error)
    assert explained_variance(best, m, False) == pytest.approx(rho**2, abs=2 * error)
    for factor in (0.9, 1.1):  # no other scale is better
        other = AffineGauge(q, m.mean_b - best.scale * factor * q.act(m.mean_a), best.scale * factor)
        assert explained_variance(other, m, False) < explained_variance(best, m, False)


@pytest.mark.parametrize("family", ["llama", "gpt_neox"])
@pytest.mark.parametrize("factor", [0.25, 4.0])
def test_affine_fit_takes_an_independent_pair_from_below_zero_to_above(family, factor):
    """B's streams are of another length than A's; a rotation keeps A's, and overshoots or falls short."""
    a, b = tiny_model(family, gen(0)), shrunk(tiny_model(family, gen(1)), factor)
    fit_on, held_out = (gp.evidence(a, b, batches_of(seed=100 * s), sites=["embed"]) for s in (0, 1))
    group = "mean_preserving_orthogonal" if family == "gpt_neox" else "orthogonal"
    rotation = align(fit_on, group=group, allow_larger=True)
    affine = align(fit_on, group="affine", allow_larger=True)
    assert affine.group == affine.gauge.group == "affine" and affine.gauge.linear == rotation.gauge
    assert torch.equal(affine.margin, rotation.margin)
    linear, scaled = (held_out.explained(found.gauge)["embed"] for found in (rotation, affine))
    assert 0.2 < scaled < 1
    assert linear < (-1 if factor < 1 else scaled)


def test_affine_fit_of_a_planted_map_is_exact():
    """Streams that are rotated, three times as long and shifted are predicted to rounding."""
    a, q = fold_gains(tiny_model("llama", gen(0))), Orthogonal.random(D, gen(1))
    b = shrunk(transport_model(a, q), 3.0)
    found = align(a, b, batches_of(), group="affine", sites="block0", allow_larger=True).gauge
    assert found.scale == pytest.approx(3, rel=1e-4)
    assert float((found.linear.matrix - q.matrix).abs().max()) < 1e-3
    held_out = gp.explained(a, b, found, batches_of(seed=100), sites="block0")["block0"]
    assert held_out == pytest.approx(1, abs=1e-4)


def test_affine_gauges_are_of_one_site_and_need_activations():
    a, b = (tiny_model("llama", gen(k)) for k in (0, 1))
    ev = gp.evidence(a, b, batches_of(), weights=True)
    one_site = r"belong to one site, got 3 sites; allowed: one of embed, block0, block1"
    for call in (
        lambda: align(ev, group="affine", allow_larger=True),
        lambda: align(a, b, batches_of(), group="affine", allow_larger=True),
    ):
        with pytest.raises(ValueError, match=one_site):
            call()
    with pytest.raises(ValueError, match="weights have no means to shift"):
        align(ev, group="affine", evidence="weights", allow_larger=True)
    with pytest.raises(ValueError, match="affine is larger than this chart's exact gauge group signed_perm"):
        align(ev, group="affine", sites="block1")
    with pytest.raises(ValueError, match="'hungarian_abs' does not recover an element of 'orthogonal'"):
        align(ev, group="affine", sites="block1", matcher="hungarian_abs", allow_larger=True)
    both = align(ev, group="affine", sites="block1", evidence="both", allow_larger=True)
    rotation = align(ev, group="orthogonal", sites="block1", evidence="both", allow_larger=True)
    assert both.gauge.linear == rotation.gauge


NAMES = {
    "llama": ["identity", "permutation", "signed_permutation", "orthogonal", "affine"],
    "gpt_neox": [
        "identity", "permutation", "global_sign_permutation", "signed_permutation",
        "mean_preserving_orthogonal", "affine",
    ],
}  # fmt: skip


@pytest.mark.parametrize("family", NAMES)
def test_groups_are_scored_on_held_out_text(family):
    a, b = tiny_model(family, gen(0)), shrunk(tiny_model(family, gen(1)), 0.5)
    fit_on, held_out = (gp.evidence(a, b, batches_of(seed=100 * s)) for s in (0, 1))
    found = gp.compare_groups(fit_on, held_out)
    assert list(found) == NAMES[family]
    for group in NAMES[family][1:-1]:
        gauge = align(a, b, batches_of(), group=group, allow_larger=True).gauge
        shares = gp.explained(a, b, gauge, batches_of(seed=100)).values()
        assert found[group] == pytest.approx(sum(shares) / len(shares), abs=ROUNDING)
    one = gp.compare_groups(fit_on, held_out, sites="block1")
    gauge = align(fit_on, group="affine", sites="block1", allow_larger=True).gauge
    assert one["affine"] == held_out.explained(gauge, "block1")["block1"]
    largest = NAMES[family][-2]
    fitted = gp.compare_groups(fit_on, fit_on, sites="block1")
    assert fitted["affine"] > fitted[largest] > fitted["signed_permutation"], (
        "in the text they were fitted on"
    )
    assert found["affine"] > found[largest], "the streams differ in length"


def test_same_base_needs_no_more_than_signed_permutations():
    a, g = tiny_model("llama", gen(0)), SignedPermutation.random(D, gen(1))
    evidence = [gp.evidence(a, transport_model(a, g), batches_of(seed=100 * s)) for s in (0, 1)]
    found = gp.compare_groups(*evidence)
    for group in ("signed_permutation", "orthogonal", "affine"):
        assert found[group] == pytest.approx(1, abs=1e-4)
    assert found["permutation"] < 0.5 and found["identity"] < 0.5


def test_other_models_and_absent_sites_are_named():
    a = tiny_model("llama", gen(0))
    ev = gp.evidence(a, a, batches_of(), sites=["block1"])
    wide = tiny_model("llama", gen(0), width=40)
    with pytest.raises(ValueError, match="fit_on has llama of width 32, held_out llama of width 40"):
        gp.compare_groups(ev, gp.evidence(wide, wide, batches_of()))
    with pytest.raises(ValueError, match="no evidence was collected at embed, block0; allowed: all, block1"):
        gp.compare_groups(gp.evidence(a, a, batches_of()), ev)
    with pytest.raises(ValueError, match="the gauge has width 40; the streams have width 32"):
        ev.explained(SignedPermutation.identity(40))
    for gauge in (align(ev), "g.safetensors"):
        with pytest.raises(TypeError, match="expected a gauge element, got"):
            gp.explained(a, a, gauge, batches_of())


def test_streams_without_variance_are_refused():
    a = tiny_model("llama", gen(0))
    ev, varied = gp.evidence(a, a, [{"input_ids": torch.full((9, 8), 3)}]), gp.evidence(a, a, batches_of())
    for refused in (
        lambda: gp.align(ev, group="orthogonal", allow_larger=True),
        lambda: ev.explained(SignedPermutation.identity(D)),
        lambda: gp.compare_groups(ev, varied),
        lambda: gp.compare_groups(varied, ev),
    ):
        with pytest.raises(ValueError, match=r"A's stream does not vary at embed: .*more varied batches"):
            refused()
    a = torch.randn(20, 4, generator=gen(0))
    with pytest.raises(ValueError, match=r"best scale of an affine gauge is -1, not positive"):
        with_scale_and_shift(Permutation.identity(4), moments_of(a, -a))
