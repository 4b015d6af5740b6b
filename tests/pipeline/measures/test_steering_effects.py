"""Steering: planted models, statistics by an independent route, and what is no effect."""

import math

import pytest
import torch

from gaugeport.charts import chart_of
from gaugeport.charts.logit_change import YARDSTICK_FACTOR, permute_neurons
from gaugeport.groups import Permutation, SignedPermutation, compose
from gaugeport.pipeline.measures.answer_slot import (
    Slot,
    last_token_streams,
)
from gaugeport.pipeline.measures.gauge_groups import tiny_model
from gaugeport.pipeline.measures.steering_effects import (
    RANDOM_CONTROLS,
    class_gap_rows,
    difference_of_means,
    fieller_interval,
    random_directions,
    steering_effect,
    strength_sweep_rows,
    transported_effect_rows,
)
from gaugeport.streams.interventions import adding
from gaugeport.transport import transport_model
from gaugeport.transport.directions import transport_direction
from prompt_rows import WORDS, token_rows
from tiny_models import gen


def metrics(rows):
    return {r["metric"]: r["value"] for r in rows}


def planted(signs_only):
    """Effects on planted models of a vector moved by ĝ, and on plain models of one moved by the residual."""
    a, b = tiny_model("qwen2", gen(0)), tiny_model("qwen2", gen(1))
    chart, d = chart_of(a), 32
    q_a, q_b = (SignedPermutation.random(d, gen(s)) for s in (2, 3))
    recovered = compose(q_b, q_a.inverse())  # the truth, with a quarter of it wrong
    wrong = SignedPermutation(
        recovered.perm, torch.where(torch.arange(d) < 8, -1, 1).to(torch.int8) * recovered.sign
    )
    if signs_only:
        q_a, q_b = (SignedPermutation(torch.arange(d), q.sign) for q in (q_a, q_b))
        wrong = SignedPermutation(torch.arange(d), wrong.sign)
    residual = compose(q_b.inverse(), compose(wrong, q_a))
    classes, held = [token_rows(20, 8, gen(4)), token_rows(20, 8, gen(5))], [token_rows(6, 8, gen(6))]

    def vector(model):
        x, y = (last_token_streams(model, chart, "block0", [c]) for c in classes)
        return difference_of_means(x.streams, y.streams, (x.length + y.length) / 2)

    def effect(model, v):
        return steering_effect(Slot(model, chart, "block0", held, WORDS), 0.25)(v)

    there = effect(transport_model(b, q_b), transport_direction(vector(transport_model(a, q_a)), wrong))
    here = effect(b, transport_direction(vector(a), residual))
    untouched = effect(b, vector(a))
    reordered = tiny_model("qwen2", gen(1))
    permute_neurons(chart, reordered, gen(7))
    floor = (effect(reordered, transport_direction(vector(a), residual)) - here).abs().max()
    return there, here, untouched, YARDSTICK_FACTOR * floor


def test_effect_between_sign_planted_models_equals_the_residuals_exactly():
    there, here, untouched, _ = planted(signs_only=True)
    assert torch.equal(there, here)
    assert (untouched - here).abs().max() > 0.1, "the residual is not the identity"


def test_effect_between_planted_models_equals_the_residuals():
    there, here, untouched, yardstick = planted(signs_only=False)
    assert (there - here).abs().max() <= yardstick
    assert (untouched - here).abs().max() > 0.1 > yardstick


def linear(w, n=40, noise=0.3, seed=0):
    """An effect that is linear in v, with a slope that differs over prompts."""
    per_prompt = w + noise * torch.randn(n, len(w), generator=gen(seed)) / len(w) ** 0.5 * w.norm()
    return lambda v: per_prompt.double() @ v.double()


def test_fieller_interval_ends_where_the_t_test_is_critical():
    from scipy import stats

    x = 0.6 + 0.2 * torch.randn(30, generator=gen(0)).double()
    y = 1 + 0.3 * torch.randn(30, generator=gen(1)).double() + 0.5 * x
    ratio, low, high = fieller_interval(x, y)
    assert ratio == pytest.approx(float(x.sum() / y.sum()), rel=1e-12) and low < ratio < high
    for end in (low, high):
        z = x - end * y
        assert abs(z.mean() / (z.std() / 30**0.5)) == pytest.approx(stats.t.ppf(0.975, 29), rel=1e-9)
    assert fieller_interval(3 * y, y) == pytest.approx((3, 3, 3), rel=1e-7)
    lost = fieller_interval(x, y - y.mean() + 0.01)  # the denominator may be zero: no bounds
    assert math.isfinite(lost[0]) and math.isnan(lost[1]) and math.isnan(lost[2])
    with pytest.raises(ValueError, match="two pairs"):
        fieller_interval(x[:1], y[:1])


def test_sign_statistics_agree_with_theory():
    d, plants = 64, 400
    w = torch.randn(d, generator=gen(1))
    effect, controls = linear(w), random_directions(RANDOM_CONTROLS, w, gen(2))
    g = gen(3)
    kept = {"dropped": [], "raw": [], "oracle": [w]}
    for _ in range(plants):
        q_a, q_b = SignedPermutation.random(d, g), SignedPermutation.random(d, g)
        true = compose(q_b, q_a.inverse())
        guess = true.perm.clone()  # raw matching: right where the sign is +, anything elsewhere
        lost = (true.sign < 0).nonzero().flatten()
        guess[lost] = guess[lost[torch.randperm(len(lost), generator=g)]]
        for name, found in (("dropped", true.without_signs()), ("raw", Permutation(guess))):
            r = compose(q_b.inverse(), compose(found, q_a))
            kept[name].append(transport_direction(w, r))
    found = {k: metrics(transported_effect_rows(effect, v, w, w, controls)) for k, v in kept.items()}
    assert found["oracle"]["retention"] == 1 and found["oracle"]["reversal_probability"] == 0
    assert found["oracle"]["effect_plants_sd"] == 0 and found["oracle"]["retention_low"] == pytest.approx(1)
    for name, p in (("dropped", 0.0), ("raw", 0.5)):
        spread = found[name]["retention_plants_sd"]
        assert found[name]["retention"] == pytest.approx(p, abs=4 * spread / plants**0.5)
        assert found[name]["retention_native"] == found[name]["retention"], "A's vector is B's own"
    sd = 0.5 / plants**0.5
    assert found["dropped"]["reversal_probability"] == pytest.approx(0.5, abs=4 * sd)
    assert found["raw"]["reversal_probability"] < 0.02
    chance = 4 * 0.5 / RANDOM_CONTROLS**0.5
    assert found["raw"]["reversal_probability_random"] == pytest.approx(0.5, abs=chance)


def test_an_effect_no_larger_than_that_of_random_directions_is_no_effect():
    d = 128
    w = torch.randn(d, generator=gen(1))
    effect, random = linear(w), torch.randn(d, generator=gen(5))
    controls = random_directions(RANDOM_CONTROLS, w, gen(2))
    v = random * (random @ w).sign() / random.norm() * w.norm()
    silent = metrics(transported_effect_rows(effect, [v], v, v, controls))
    assert silent["effect_se_ratio"] > 5 > silent["effect_control_ratio"], (
        "by the first ratio alone it would pass"
    )
    assert silent["no_effect_to_transport"] == 1
    assert not any(m.startswith(("retention", "reversal")) for m in silent)
    heard = metrics(transported_effect_rows(effect, [w], w, w, controls))
    assert heard["no_effect_to_transport"] == 0 and heard["reversal_probability"] == 0
    backwards = metrics(transported_effect_rows(effect, [w], w, -w, controls))
    assert backwards["no_effect_to_transport"] == 1, "B's own direction steers the wrong way"
    # B's own vector steers B, A's has no effect on it
    drifted = metrics(transported_effect_rows(effect, [v], v, w, controls))
    assert (
        "retention_native" in drifted and "retention" not in drifted and "reversal_probability" not in drifted
    )
    same = metrics(transported_effect_rows(lambda v: effect(w) + 1e-3 * effect(v), [v], w, w, controls))
    assert same["effect_se_ratio"] > 5 and same["no_effect_to_transport"] == 1, (
        "an effect that every direction has is no effect"
    )
    assert same["effect_control_ratio"] == pytest.approx(1, abs=0.1)
    known = metrics(transported_effect_rows(effect, [w], w, w, controls, "ablation_", even=True, silent=True))
    assert known["ablation_no_effect_to_transport"] == 1 and "ablation_retention" not in known


def test_equal_vectors_are_measured_once_and_controls_have_the_length_of_the_vector():
    w = torch.randn(16, generator=gen(1))
    calls = []

    def counted(v):
        calls.append(v)
        return linear(w)(v)

    controls = random_directions(3, w, gen(2))
    assert all(c.norm() == pytest.approx(float(w.norm()), rel=1e-5) for c in controls)
    transported_effect_rows(counted, [w.clone() for _ in range(50)], w.clone(), w, controls)
    assert len(calls) == 1 + 3


def test_sweep_measures_the_shift_of_log_odds():
    model = tiny_model("llama", gen())
    slot = Slot(model, chart_of(model), "block0", [token_rows(4, 6, gen(1))], WORDS)
    v = torch.randn(32, generator=gen(2))
    rows = strength_sweep_rows(slot, [v, -v], [-0.5, 0.5, 1.0])
    assert [r["strength"] for r in rows] == [-0.5, 0.5, 1.0]
    expected = [
        float((slot.log_odds(adding(a * s * v)) - slot.log_odds()).mean()) for a in (0.5, 1) for s in (1, -1)
    ]
    assert (
        rows[0]["value"] == pytest.approx(rows[1]["value"], rel=1e-6) == pytest.approx(sum(expected[:2]) / 2)
    )
    assert rows[2]["value"] == pytest.approx(sum(expected[2:]) / 2)
    with pytest.raises(ValueError, match="same mean"):
        difference_of_means(torch.ones(3, 4), torch.ones(2, 4), 1.0)


def test_class_gap_counts_prompts_on_their_side_of_the_midpoint():
    positive, negative = torch.tensor([3.0, 2.0, -1.0]).double(), torch.tensor([-1.0, -2.0, 1.0]).double()
    rows = {row["metric"]: row["value"] for row in class_gap_rows(positive, negative)}
    assert rows["class_gap"] == pytest.approx(4 / 3 + 2 / 3)
    assert rows["class_right"] == pytest.approx(4 / 6)  # the midpoint is 1/3: −1 and 1 are on the wrong side
    swapped = {row["metric"]: row["value"] for row in class_gap_rows(negative, positive)}
    assert swapped == {"class_gap": pytest.approx(-2), "class_right": pytest.approx(4 / 6)}
