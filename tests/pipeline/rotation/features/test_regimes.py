"""Transfer ratios of steering vectors and the regimes that they fall in, on measures in closed form."""

import pytest
import torch

from gaugeport.pipeline.rotation.features.regimes import Point, at_rest, regime_rows, regimes_of, transfer

V = torch.tensor([1.0, 0.0, 0.0])


def measure_of(w, gain=1.0, bend=0.0, noise=1e-3):
    """Return a measure of 20 units that answer x = w·v almost alike, by gain·x + bend·x²."""
    generator = torch.Generator().manual_seed(0)
    units = 1 + noise * torch.randn(20, generator=generator, dtype=torch.float64)

    def measure(v):
        x = float(w @ v)
        return {"effect": (gain * x + bend * x * x) * units + 3, "accuracy": 1 - 0.1 * gain * abs(x) * units}

    return measure


def transferred(cross, within=None):
    """Return the rows and points of ``V``, which the rotation's map turns to −V."""
    controls = [torch.tensor([0.06, 0.8, 0.0]), torch.tensor([0.0, 0.0, 1.0])]
    moved = {"identity": V, "orthogonal": -V}
    within = within or measure_of(V)
    rows, points = transfer(within, cross, V, moved, V, controls, (0.5, 1.0), length_ratio=3.0)
    return rows, {(p.condition, p.group, p.strength): p for p in points}


def value(rows, metric, **where):
    """Return the value of the one row with a metric and further columns."""
    (row,) = [r for r in rows if r["metric"] == metric and all(r.get(k) == v for k, v in where.items())]
    return row["value"]


@pytest.mark.parametrize(
    ("gain", "names"),
    [
        (1.02, {"clean"}),
        (0.8001, {"clean"}),
        (0.5, {"partial"}),
        (-0.5, {"reversed"}),
        (8.43, {"large"}),
        (-2.0, {"reversed", "large"}),
    ],
)
def test_ratio_decides_regime_at_every_strength(gain, names):
    rows, points = transferred(measure_of(V, gain))
    for strength in (0.5, 1.0):
        at = {"arm": "cross", "group": "identity", "strength": strength}
        assert value(rows, "ratio", **at) == pytest.approx(gain)
        assert value(rows, "ratio_slope", **at) == pytest.approx(gain)
        assert value(rows, "accuracy_ratio", **at) == pytest.approx(gain)
        assert regimes_of(points["cross", "identity", strength]) == names
        turned = points["cross", "orthogonal", strength]
        assert turned.ratio == pytest.approx(-gain) and ("reversed" in regimes_of(turned)) == (gain > 0)
        assert points["matched", "identity", strength].ratio == pytest.approx(3 * gain)
    counts = [r for r in regime_rows(points.values()) if r["arm"] == "cross" and r["group"] == "identity"]
    assert {r["metric"] for r in counts if r["value"] == 2} == {f"regime_{name}" for name in names}
    assert {r["value"] for r in counts} == {0.0, 2.0}


def test_bent_effect_is_not_called_reversed():
    rows, points = transferred(measure_of(V, gain=0.1, bend=-0.5))
    point = points["cross", "identity", 1.0]
    assert point.ratio == pytest.approx(-0.4) and point.by_slope[0] == pytest.approx(0.1)
    assert regimes_of(point) == {"other"}
    effect = value(rows, "effect", arm="cross", group="identity", strength=-1.0)
    assert effect == pytest.approx(-0.6, rel=1e-2)


def test_effect_below_five_standard_errors_or_of_wrong_sign_has_no_ratio():
    for within in (measure_of(V, noise=100.0), measure_of(V, gain=-1.0)):
        rows, points = transferred(measure_of(V), within)
        assert all(p.ratio is None and regimes_of(p) == {"no_effect"} for p in points.values())
        assert not [r for r in rows if r["metric"] in ("ratio", "ratio_slope")]
    assert value(rows, "effect_se_ratio", arm="within", strength=1.0) < -5


def test_control_effects_are_their_root_mean_square():
    rows, _ = transferred(measure_of(V, 2.0))
    for condition, gain in (("random_within", 1), ("random_cross", 2)):
        for strength in (0.5, 1.0):
            expected = gain * strength * (0.0036 / 2) ** 0.5
            size = value(rows, "effect", arm=condition, strength=strength)
            assert size == pytest.approx(expected, rel=1e-2)


def test_effect_is_measured_in_units_of_control_effects():
    rows, _ = transferred(measure_of(V, 2.0))
    ratio = value(rows, "effect_control_ratio", arm="within", strength=0.5)
    assert ratio == pytest.approx((2 / 0.0036) ** 0.5)


def test_effect_that_every_direction_has_counts_as_none():
    """It is thousands of standard errors, but 2.5 times what random directions do; three are required."""
    anywhere = measure_of(torch.tensor([1.0, 0.2, 0.2]))
    controls = [torch.tensor([0.0, 1.0, 1.0])]
    rows, points = transfer(anywhere, anywhere, V, {"identity": V}, V, controls, (0.5, 1.0), length_ratio=1.0)
    assert value(rows, "effect_se_ratio", arm="within", strength=1.0) > 1000
    assert value(rows, "effect_control_ratio", arm="within", strength=1.0) == pytest.approx(2.5)
    assert all(p.ratio is None and regimes_of(p) == {"no_effect"} for p in points)


@pytest.mark.parametrize("gain", [0.02, -0.02])
def test_effect_no_larger_than_that_of_random_directions_is_lost(gain):
    cross = measure_of(torch.tensor([gain, 0.5, 0.5]))
    controls = [torch.tensor([0.0, 1.0, 0.0]), torch.tensor([0.06, 0.0, 0.0])]
    _, points = transfer(measure_of(V), cross, V, {"identity": V}, V, controls, (1.0,), length_ratio=1.0)
    assert all(p.ratio == pytest.approx(gain) and regimes_of(p) == {"lost"} for p in points)


def test_ratio_whose_interval_contains_zero_is_lost_not_reversed():
    unsure = Point("cross", "identity", 1.0, -0.3, (-0.3, -0.7, 0.1), over_random=9.0)
    assert regimes_of(unsure) == {"lost"}
    sure = Point("cross", "identity", 1.0, -0.3, (-0.3, -0.5, -0.1), over_random=9.0)
    assert regimes_of(sure) == {"reversed"}


def test_one_unit_is_refused():
    with pytest.raises(ValueError, match=r"1 units .*; allowed: 2 or more"):
        at_rest(lambda v: {"effect": torch.zeros(1)}, 3)
