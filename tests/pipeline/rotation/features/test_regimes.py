"""Steering regimes: ratios and their names, the pinned subspace, a planted rotation."""

import pytest
import torch

from dyck_models import generic
from gaugeport.groups import Orthogonal, SignedPermutation
from gaugeport.pipeline.config.compose import compose_config, from_config
from gaugeport.pipeline.rotation.features import regimes as s
from gaugeport.pipeline.rotation.toy import steering_vectors, strings
from gaugeport.pipeline.stages import pairs
from gaugeport.pipeline.tasks import regimes
from gaugeport.transport import transport_model

WIDER = {"scale": 0.4, "max_position_embeddings": 64, "hidden_size": 32, "intermediate_size": 48}
TOY = ("model=dyck3", "data=dyck3", "training=dyck3", "data.length=64")


def job(*overrides):
    chosen = ["experiment=steering_regimes", "profile=smoke", "seed=1", *overrides]
    return from_config(compose_config(chosen), chosen).job


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


def linear(w, gain=1.0, bend=0.0, noise=1e-3):
    """A measure of 20 units that answer x = w·v all but alike, by gain·x + bend·x²."""
    units = 1 + noise * torch.randn(20, generator=gen(), dtype=torch.float64)

    def measure(v):
        x = float(w @ v)
        return {"effect": (gain * x + bend * x * x) * units + 3, "accuracy": 1 - 0.1 * gain * abs(x) * units}

    return measure


def moved(cross, within=None, strengths=(0.5, 1.0)):
    w = torch.tensor([1.0, 0.0, 0.0])
    controls = [torch.tensor([0.06, 0.8, 0.0]), torch.tensor([0.0, 0.0, 1.0])]
    rows, points = s.transfer(
        within or linear(w),
        cross(w),
        w,
        {"identity": w, "orthogonal": -w},
        w,
        controls,
        strengths,
        matched=3.0,
    )
    return rows, {(p.condition, p.group, p.strength): p for p in points}


def the(rows, metric, **where):
    (found,) = [r for r in rows if r["metric"] == metric and all(r.get(k) == v for k, v in where.items())]
    return found["value"]


@pytest.mark.parametrize(
    ("gain", "names"),
    [(1.02, {"clean"}), (0.8001, {"clean"}), (0.5, {"partial"}), (-0.5, {"reversed"}), (8.43, {"large"}),
     (-2.0, {"reversed", "large"})],
)  # fmt: skip
def test_a_ratio_has_a_name_at_every_strength(gain, names):
    rows, points = moved(lambda w: linear(w, gain))
    for strength in (0.5, 1.0):
        where = {"arm": "cross", "group": "identity", "strength": strength}
        assert the(rows, "ratio", **where) == pytest.approx(gain)
        assert the(rows, "ratio_slope", **where) == pytest.approx(gain)
        assert the(rows, "accuracy_ratio", **where) == pytest.approx(abs(gain) * (1 if gain > 0 else -1))
        assert s.regimes_of(points["cross", "identity", strength]) == names
        turned = points["cross", "orthogonal", strength]
        assert turned.ratio == pytest.approx(-gain) and ("reversed" in s.regimes_of(turned)) == (gain > 0)
        assert points["matched", "identity", strength].ratio == pytest.approx(3 * gain)
    counted = [r for r in s.regime_rows(points.values()) if r["arm"] == "cross" and r["group"] == "identity"]
    assert {r["metric"] for r in counted if r["value"] == 2} == {f"regime_{name}" for name in names}
    assert {r["value"] for r in counted} == {0.0, 2.0}


def test_an_effect_that_bends_is_told_from_one_that_reverses():
    rows, points = moved(lambda w: linear(w, gain=0.1, bend=-0.5))
    point = points["cross", "identity", 1.0]
    assert point.ratio == pytest.approx(-0.4) and point.by_slope[0] == pytest.approx(0.1)
    assert s.regimes_of(point) == {"other"}
    assert the(rows, "effect", arm="cross", group="identity", strength=-1.0) == pytest.approx(-0.6, rel=1e-2)


def test_no_ratio_to_an_effect_below_five_standard_errors_or_of_the_wrong_sign():
    w = torch.tensor([1.0, 0.0, 0.0])
    for within in (linear(w, noise=100.0), linear(w, gain=-1.0)):
        rows, points = moved(linear, within=within)
        assert all(p.ratio is None and s.regimes_of(p) == {"no_effect"} for p in points.values())
        assert not [r for r in rows if r["metric"] in ("ratio", "ratio_slope")]
    assert the(rows, "effect_se_ratio", arm="within", strength=1.0) < -5


def test_controls_are_summed_up_by_their_root_mean_square():
    rows, _ = moved(lambda w: linear(w, 2.0))
    for arm, gain in (("random_within", 1), ("random_cross", 2)):
        for strength in (0.5, 1.0):
            assert the(rows, "effect", arm=arm, strength=strength) == pytest.approx(
                gain * strength * (0.0036 / 2) ** 0.5, rel=1e-2
            )


def test_an_effect_is_measured_in_that_of_the_controls():
    rows, _ = moved(lambda w: linear(w, 2.0))
    assert the(rows, "effect_control_ratio", arm="within", strength=0.5) == pytest.approx((2 / 0.0036) ** 0.5)


def test_an_effect_that_every_direction_has_is_none():
    """Thousands of standard errors, but 2.5 times what random directions do, under the three asked for: none."""
    anywhere = lambda w: linear(torch.tensor([1.0, 0.2, 0.2]))  # noqa: E731
    w = torch.tensor([1.0, 0.0, 0.0])
    rows, points = s.transfer(
        anywhere(w),
        anywhere(w),
        w,
        {"identity": w},
        w,
        [torch.tensor([0.0, 1.0, 1.0])],
        (0.5, 1.0),
        matched=1.0,
    )
    assert the(rows, "effect_se_ratio", arm="within", strength=1.0) > 1000
    assert the(rows, "effect_control_ratio", arm="within", strength=1.0) == pytest.approx(2.5)
    assert all(p.ratio is None and s.regimes_of(p) == {"no_effect"} for p in points)


@pytest.mark.parametrize("gain", [0.02, -0.02])
def test_what_does_no_more_than_random_directions_is_lost(gain):
    w = torch.tensor([1.0, 0.0, 0.0])
    busy = linear(torch.tensor([gain, 0.5, 0.5]))
    controls = [torch.tensor([0.0, 1.0, 0.0]), torch.tensor([0.06, 0.0, 0.0])]
    _, points = s.transfer(linear(w), busy, w, {"identity": w}, w, controls, (1.0,), matched=1.0)
    assert all(p.ratio == pytest.approx(gain) and s.regimes_of(p) == {"lost"} for p in points)


def test_a_ratio_whose_interval_has_zero_in_it_is_lost_not_reversed():
    point = s.Point("cross", "identity", 1.0, -0.3, (-0.3, -0.7, 0.1), over_random=9.0)
    assert s.regimes_of(point) == {"lost"}
    sure = s.Point("cross", "identity", 1.0, -0.3, (-0.3, -0.5, -0.1), over_random=9.0)
    assert s.regimes_of(sure) == {"reversed"}


def test_the_share_s_test_permutes_within_sites_and_finds_what_is_planted():
    sites = [f"s{i // 6}" for i in range(24)]
    shares = [0.1 * (i % 6) + i // 6 for i in range(24)]
    rho, p = s.share_test(shares, shares, sites, 499)
    assert rho == pytest.approx(1) and p == pytest.approx(1 / 500)
    depth_only = [float(i // 6) for i in range(24)]  # goes with depth, and with no share at a depth
    rho, p = s.share_test(shares, depth_only, sites, 499)
    assert rho > 0.9 and p > 0.5
    found = []
    for seed in range(200):  # of nothing, it says so at its rate
        y = torch.randn(12, generator=gen(seed)).tolist()
        found.append(s.share_test(list(range(12)), y, ["a"] * 6 + ["b"] * 6, 99, seed)[1] <= 0.05)
    assert 0.01 <= sum(found) / 200 <= 0.10, "binomial: 5 % of 200 ± 3 standard errors"
    with pytest.raises(ValueError, match="2 vectors and sites; allowed: 3 or more"):
        s.share_test([1, 2], [1, 2], ["a", "a"], 9)


def test_one_unit_has_no_error():
    with pytest.raises(ValueError, match=r"1 units .* at least 2 are wanted"):
        s.at_rest(lambda v: {"effect": torch.zeros(1)}, 3)


def test_the_pinned_subspace_is_what_the_heads_tell_apart():
    model = generic(hidden_size=32, num_attention_heads=2)
    readers = steering_vectors.output_readers(model)
    basis = s.reader_span(readers)
    assert basis.shape == (32, 8 + 8 + 1)
    gain = model.model.norm.weight.detach()
    for head, k in ((model.lm_head, 9), (model.depth_head, 9), (model.valid_head, 2)):
        w = head.weight.detach()[:k] * gain
        assert s.share_in(w[0] - w[k - 1], basis) == pytest.approx(1, abs=1e-6)
    free = torch.randn(32, generator=gen()).double()
    free -= basis @ (basis.T @ free)
    assert s.share_in(free, basis) == pytest.approx(0, abs=1e-12)
    assert s.share_in(free + basis[:, 3] * free.norm(), basis) == pytest.approx(0.5)
    beyond = model.lm_head.weight.detach()[20] * gain
    assert s.share_in(beyond, basis) < 1, "rows of tokens that never occur are not among them"
    torch.testing.assert_close(
        steering_vectors.output_readers(generic(hidden_size=32, num_attention_heads=2, folded=True)), readers
    )
    assert s.share_in(free, torch.zeros(32, 0, dtype=torch.float64)) == 0


def test_rank_correlations_with_closeness_and_with_the_ratio():
    found = {
        r["metric"]: r["value"] for r in s.predictor_rows("x", [1, 2, 3, 9, 4], [9.0, 3.0, 1.5, None, 1.0])
    }
    assert found == {
        "x_points": 4,
        "x_transfer_correlation": pytest.approx(1),
        "x_ratio_correlation": pytest.approx(-1),
    }
    found = {r["metric"]: r["value"] for r in s.predictor_rows("x", [1, 2, 3], [-1.0, 0.2, 0.9])}
    assert found["x_transfer_correlation"] == found["x_ratio_correlation"] == pytest.approx(1)
    for shares, ratios in (([0, 0, 0], [1.0, 2.0, 3.0]), ([1, 2], [1.0, 2.0]), ([1, 2, 3], [None, 1.0, 2.0])):
        assert [r["metric"] for r in s.predictor_rows("x", shares, ratios)] == ["x_points"]


def heeding(model):
    """The model with heads that read what its own vectors at the last site write, so that these have an effect."""
    rows, site = strings.draw_strings(64, (2, 62), 64, gen()), "resid_post_1"
    unit = {
        name: v / v.norm() for name, v in steering_vectors.vectors_at(model, rows, [site])[site][0].items()
    }
    with torch.no_grad():
        model.lm_head.weight[list(steering_vectors.CLOSERS)] += 2 * unit["closer_signal"]
        model.lm_head.weight[list(steering_vectors.OPENERS)] -= 2 * unit["closer_signal"]
        model.valid_head.weight += 2 * torch.tensor([[1.0], [-1.0]]) * unit["invalid_suppression"]
        model.depth_head.weight += torch.linspace(-2, 2, 9)[:, None] * unit["depth_shift"]
    return model


@pytest.mark.parametrize(("group", "folded"), [("orthogonal", True), ("signed_permutation", False)])
def test_a_planted_gauge_is_undone_by_its_own_group(group, folded):
    """The other model is the anchor in other coordinates: moved by the fitted map the vector does what it did."""
    chosen = job("task.cohort=B", *TOY, "task.strengths=[0.5,1.0]")
    model = heeding(generic(folded=folded, **WIDER))
    element = {"orthogonal": Orthogonal, "signed_permutation": SignedPermutation}[group].random(32, gen(3))
    a, b = (pairs._toy(chosen, m) for m in (model, transport_model(model, element)))
    found = regimes._toy(chosen, a, b)
    assert [x.site for x in found[::3]] == ["resid_mid_0", "resid_post_0", "resid_mid_1", "resid_post_1"]
    rows = regimes.measured(chosen, found, *(m.streams("fit", 4096) for m in (a, b)), [])
    changed = 0
    for x in found:
        for strength in (-1.0, -0.5, 0.5, 1.0):
            where = {"vector": x.name, "site": x.site, "strength": strength}
            for metric in ("effect", "accuracy"):
                own = the(rows, metric, arm="within", **where)
                for arm in (
                    {"arm": "cross", "group": group},
                    {"arm": "cross", "group": "orthogonal"},
                    {"arm": "native"},
                ):
                    assert the(rows, metric, **arm, **where) == pytest.approx(own, rel=1e-2, abs=2e-3)
            other = the(rows, "effect", arm="cross", group="identity", **where)
            changed += abs(other - the(rows, "effect", arm="within", **where)) > 0.05
        at = {"vector": x.name, "site": x.site}
        assert (
            the(rows, "length_ratio", **at) == pytest.approx(1) and the(rows, "native_cosine", **at) > 0.999
        )
        assert the(rows, "pinned_share", **at) == 0
    assert changed > 30, "of 48, unchanged in other coordinates"
    ratios = [
        r["value"] for r in rows if r["metric"] == "ratio" and r.get("group") == group and r["arm"] == "cross"
    ]
    assert len(ratios) >= 2 and ratios == pytest.approx([1] * len(ratios), rel=1e-2)
    raw = [
        r["value"]
        for r in rows
        if r["metric"] == "ratio" and r.get("group") == "identity" and r["arm"] == "cross"
    ]
    assert max(abs(1 - r) for r in raw) > 0.5
    assert not [r for r in rows if r["metric"] == "share_transfer_correlation"], "nothing is shared"


def test_a_shared_boundary_is_where_the_share_is_taken():
    chosen = job("task.cohort=A", *TOY, "task.strengths=[1.0]", "task.controls=1")
    model = heeding(generic(**WIDER))
    a = pairs._toy(chosen, model)
    found, streams = regimes._toy(chosen, a, a), a.streams("fit", 1024)
    rows = regimes.measured(chosen, found, streams, streams, steering_vectors.output_readers(model))
    basis = s.reader_span(steering_vectors.output_readers(model))
    for x in found:
        at = {"vector": x.name, "site": x.site}
        assert the(rows, "pinned_share", **at) == pytest.approx(s.share_in(x.v, basis))
        assert the(rows, "rotation_cosine", **at) == pytest.approx(1, abs=1e-4)
    assert the(rows, "pinned_share_random") == 17 / 32
    ratios = [r["value"] for r in rows if r["metric"] == "ratio" and r.get("group") == "identity"]
    assert ratios and ratios == pytest.approx([1] * len(ratios))
