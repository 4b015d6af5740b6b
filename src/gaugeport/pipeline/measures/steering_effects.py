"""Measure steering with a vector moved from A to B: its effect, the share kept, how often it reverses (a5).

The vector is the difference of means, between two classes of prompts, of A's stream at the last token of each
prompt, which predicts the slot. It is added at every position of B's stream at one site. Source: paper A,
abstract.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from scipy import stats
from torch import Tensor

from gaugeport.pipeline.measures.answer_slot import Slot
from gaugeport.streams.interventions import adding

Row = dict[str, Any]
Effect = Callable[[Tensor], Tensor]
"""Maps a vector float32[d] to its effect on every prompt, float64[n]."""

MIN_STANDARD_ERRORS = 5.0
"""An effect below this many standard errors is no effect to transport."""
RANDOM_CONTROLS = 20
"""Number of random directions; their effects are the size of an effect without meaning."""
MAX_SWEEP_PLANTS = 10
"""The most plants to average a strength sweep over."""


def difference_of_means(positive: Tensor, negative: Tensor, length: float) -> Tensor:
    """Return the difference of the means of two classes, scaled to a given length.

    Args:
        positive: float[n, d], streams of the positive class.
        negative: float[m, d], streams of the negative class.
        length: norm of the result.

    Returns:
        float32[d].

    Raises:
        ValueError: the means are equal, so there is no direction.
    """
    v = (positive.double().mean(0) - negative.double().mean(0)).float()
    if not bool(v.norm() > 0):
        raise ValueError(
            "both classes have the same mean stream, so there is no direction; allowed: means that differ"
        )
    return v / v.norm() * length


def random_directions(n: int, like: Tensor, generator: torch.Generator) -> list[Tensor]:
    """Draw ``n`` directions uniformly from the sphere, with the length of ``like`` [d]."""
    drawn = torch.randn(n, len(like), generator=generator)
    return list(drawn / drawn.norm(dim=1, keepdim=True) * like.norm())


def steering_effect(slot: Slot, strength: float) -> Effect:
    """Return the steering effect [f(+αv) − f(−αv)] / 2α at α = ``strength``, in nats per unit of v."""
    return lambda v: (
        (slot.log_odds(adding(strength * v)) - slot.log_odds(adding(-strength * v))) / (2 * strength)
    )


def transported_effect_rows(
    effect: Effect,
    moved: Iterable[Tensor],
    oracle: Tensor,
    native: Tensor,
    controls: Sequence[Tensor],
    prefix: str = "",
    *,
    even: bool = False,
    silent: bool = False,
) -> list[Row]:
    """Measure what is left of an effect on B after the vector was moved there.

    Metrics, with ``prefix`` before each name:
        ``effect``: mean over prompts and plants; ``effect_plants_sd``: its standard deviation over plants.
        ``effect_oracle``, ``effect_native``: mean effects of the two references.
        ``effect_se_ratio``: the native effect in standard errors over prompts.
        ``effect_control_ratio``: the native effect over the root mean square effect of random directions. It
            is needed because all prompts answer alike: by the first ratio almost any direction has an effect.
            It is at most √d where f is linear, and 1 where all directions have the same effect.
        ``no_effect_to_transport``: 1 where either ratio is below ``MIN_STANDARD_ERRORS``. Then there are no
            further metrics.
        ``retention_native``: Σ moved effects / Σ native effects over prompts; gauge error and drift together.
        ``retention``: Σ moved effects / Σ oracle effects; gauge error alone (1 for the oracle by definition).
            It equals ``retention_native`` where B is A.
        ``…_low``, ``…_high``: ends of the 95 % Fieller interval of either retention, where it is bounded.
        ``retention_plants_sd``: standard deviation of the retention over plants.
        ``reversal_probability``: share of plants whose effect has the opposite sign of the oracle's effect.
        ``reversal_probability_random``: the same of the random directions, ½ where the effect is odd in the
            vector.
    Metrics relative to the oracle are given only where its effect passes the same test as the native one.

    Args:
        effect: the effect to measure; equal vectors are measured once.
        moved: A's vector moved by the condition's gauges, one per plant.
        oracle: A's vector moved by the true gauge.
        native: B's own vector, made by the same recipe.
        controls: random directions of the length of ``native``.
        prefix: put before the name of every metric.
        even: the effect is equal for v and −v, so it has no reversal probability.
        silent: another effect has shown that the direction has no effect.

    Returns:
        Rows ``{metric, value}``.
    """
    effect = measured_once(effect)
    effects = torch.stack([effect(v) for v in moved])
    best, own = effect(oracle), effect(native)
    random = torch.stack([effect(v) for v in controls]).mean(1)
    noise = random.square().mean().sqrt()
    means = effects.mean(1)
    ratios = _standard_errors(own, noise)
    metrics = {
        "effect": float(means.mean()),
        "effect_plants_sd": _spread(means),
        "effect_oracle": float(best.mean()),
        "effect_native": float(own.mean()),
        "effect_se_ratio": ratios[0],
        "effect_control_ratio": ratios[1],
        "no_effect_to_transport": float(silent or min(ratios) < MIN_STANDARD_ERRORS),
    }
    if not metrics["no_effect_to_transport"]:
        metrics |= _retention("retention_native", effects.mean(0), own)
        if min(_standard_errors(best, noise)) >= MIN_STANDARD_ERRORS:
            metrics |= _retention("retention", effects.mean(0), best)
            metrics["retention_plants_sd"] = _spread(means / best.mean())
            if not even:
                metrics["reversal_probability"] = _reversed(means, best)
                metrics["reversal_probability_random"] = _reversed(random, best)
    return [{"metric": prefix + name, "value": value} for name, value in metrics.items()]


def class_gap_rows(positive: Tensor, negative: Tensor) -> list[Row]:
    """Measure how well a model tells two classes of prompts apart, before anything is added to its stream.

    Metrics: ``class_gap``, the difference of the mean log-odds of the classes, in nats; ``class_right``, the
    share of prompts on their class's side of the midpoint between the means.

    Args:
        positive: float64[n], log-odds at the slot of held-out prompts of the positive class.
        negative: float64[m], the same of the negative class.
    """
    high, low = positive.mean(), negative.mean()
    middle = (high + low) / 2
    right = torch.cat([(positive - middle) * (high - low) > 0, (negative - middle) * (high - low) < 0])
    metrics = {"class_gap": float(high - low), "class_right": float(right.double().mean())}
    return [{"metric": name, "value": value} for name, value in metrics.items()]


def strength_sweep_rows(slot: Slot, moved: Sequence[Tensor], strengths: Sequence[float]) -> list[Row]:
    """Measure the shift f(αv) − f(0) for a range of strengths α.

    Args:
        slot: the slot of the prompts.
        moved: A's vector moved by the condition's gauges, one per plant; at most ``MAX_SWEEP_PLANTS`` are
            used.
        strengths: the factors α.

    Returns:
        Rows ``{metric: "shift", strength, value}``: means over prompts and plants, in nats.
    """
    at_rest, rows = slot.log_odds(), []
    for a in strengths:
        shift = measured_once(lambda v, a=a: slot.log_odds(adding(a * v)) - at_rest)  # type: ignore[misc]
        value = float(torch.stack([shift(v) for v in moved[:MAX_SWEEP_PLANTS]]).mean())
        rows.append({"metric": "shift", "strength": a, "value": value})
    return rows


def fieller_interval(x: Tensor, y: Tensor, level: float = 0.95) -> tuple[float, float, float]:
    """Return a ratio of means and its Fieller interval.

    The interval holds every R for which mean(x − R·y) is within t standard errors of 0. It is bounded where
    mean(y) is more than t standard errors from 0. Source: Fieller (1954).

    Args:
        x: float[n], numerators.
        y: float[n], denominators, paired with ``x``.
        level: confidence level.

    Returns:
        Σx / Σy and the two ends of the interval; the ends are NaN where it is unbounded.

    Raises:
        ValueError: fewer than two pairs.
    """
    if x.shape != y.shape or x.dim() != 1 or len(x) < 2:
        raise ValueError(f"expected two pairs or more, got shapes {tuple(x.shape)} and {tuple(y.shape)}")
    n = len(x)
    t2 = float(stats.t.ppf(0.5 + level / 2, n - 1)) ** 2 / n
    cov = torch.cov(torch.stack([x, y]))
    mx, my, (vx, vxy, vy) = (
        float(x.mean()),
        float(y.mean()),
        (float(cov[i, j]) for i, j in ((0, 0), (0, 1), (1, 1))),
    )
    a, b, c = my * my - t2 * vy, mx * my - t2 * vxy, mx * mx - t2 * vx
    ratio = mx / my if my else float("nan")
    if a <= 0:
        return ratio, float("nan"), float("nan")
    half = max(b * b - a * c, 0.0) ** 0.5
    return ratio, (b - half) / a, (b + half) / a


def _retention(name: str, x: Tensor, y: Tensor) -> dict[str, float]:
    """Return the ratio Σx / Σy and the finite ends of its interval."""
    named = zip((name, f"{name}_low", f"{name}_high"), fieller_interval(x, y), strict=True)
    return {k: v for k, v in named if math.isfinite(v)}


def _standard_errors(effects: Tensor, noise: Tensor) -> tuple[float, float]:
    """Return the mean effect in standard errors over prompts and in units of ``noise``, with its sign."""
    over_prompts = effects.std() / len(effects) ** 0.5
    return tuple(float(effects.mean() / se.clamp_min(1e-12)) for se in (over_prompts, noise))  # type: ignore[return-value]


def _reversed(effects: Tensor, oracle: Tensor) -> float:
    """Return the share of effects whose sign is opposite to the oracle's mean effect."""
    return float((effects * oracle.mean() < 0).double().mean())


def _spread(values: Tensor) -> float:
    """Return the standard deviation over plants, 0 for one plant: the result does not depend on it."""
    return float(values.std()) if len(values) > 1 else 0.0


def measured_once(effect: Effect, vectors: Sequence[Tensor] = (), effects: Sequence[Tensor] = ()) -> Effect:
    """Return ``effect`` with a cache, so that equal vectors are measured once.

    Args:
        effect: the effect.
        vectors: vectors whose ``effects`` are known.
        effects: their effects, in the same order.
    """
    known = {_key(v): e for v, e in zip(vectors, effects, strict=True)}

    def measured(v: Tensor) -> Tensor:
        key = _key(v)
        if key not in known:
            known[key] = effect(v)
        return known[key]

    return measured


def _key(v: Tensor) -> bytes:
    return v.detach().cpu().contiguous().numpy().tobytes()
