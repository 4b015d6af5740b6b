"""Steering with a vector moved from A to B: its effect, the share of it that is kept, how often it reverses (a5).

The vector is the difference of means, between two classes of prompts, of A's stream at the last token of each, which
predicts the slot; it is added at every position of B's stream at one site. Source: paper A, abstract; definitions in
PAPER_CLAIMS, "Steering effect" and "Sign statistics".
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
"""From a vector float32[d] to its effect on every prompt, float64[n]."""

MIN_STANDARD_ERRORS = 5.0
"""An effect below so many standard errors is no effect to transport (PAPER_CLAIMS)."""
RANDOM_CONTROLS = 20
"""Random directions: how large is the effect of one that means nothing?"""
MAX_SWEEP_PLANTS = 10
"""Plants that a strength sweep is averaged over, at most."""


def difference_of_means(positive: Tensor, negative: Tensor, length: float) -> Tensor:
    """The mean of ``positive`` [n, d] minus that of ``negative`` [m, d], scaled to ``length``: float32[d].

    Raises ``ValueError`` where the means are equal: there is no direction.
    """
    v = (positive.double().mean(0) - negative.double().mean(0)).float()
    if not bool(v.norm() > 0):
        raise ValueError(
            "both classes have the same mean stream; a difference of means wants two that differ"
        )
    return v / v.norm() * length


def random_directions(n: int, like: Tensor, generator: torch.Generator) -> list[Tensor]:
    """``n`` directions drawn uniformly from the sphere, of the length of ``like`` [d]."""
    drawn = torch.randn(n, len(like), generator=generator)
    return list(drawn / drawn.norm(dim=1, keepdim=True) * like.norm())


def steering_effect(slot: Slot, strength: float) -> Effect:
    """The steering effect of a vector v, [f(+αv) − f(−αv)] / 2α at α = ``strength``: nats per unit of v."""
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
    """What became of an effect on B when the vector was moved: rows ``{metric, value}``, names with ``prefix``.

    ``moved`` are A's vector as the arm moves it, one a plant; ``oracle`` as the true gauge does; ``native`` is B's own
    by the same recipe; ``controls`` are random directions of its length. Vectors that are equal are measured once.

    ``effect`` is the mean over prompts and plants, ``effect_plants_sd`` its spread over plants, ``effect_oracle`` and
    ``effect_native`` are those of the two references. The standard errors of the native effect are over prompts
    (``effect_se_ratio``) and in root mean squares of the effects of directions that mean nothing
    (``effect_control_ratio``: the first alone would call almost any direction effective, for all prompts answer alike;
    it is at most √d where f is linear, and 1 where all directions do the same).
    ``no_effect_to_transport`` is 1 where either ratio is below 5; then nothing else is said.

    ``retention_native``: Σ moved effects / Σ native effects over prompts, gauge error and drift together.
    ``retention``: / Σ oracle effects, gauge error alone (1 for the oracle by definition); the two agree where B is A.
    Each has its 95 % Fieller interval over prompts as ``_low`` and ``_high``, where it is bounded.
    ``retention_plants_sd``: spread of the retention over plants. ``reversal_probability``: the share of plants whose
    effect has the opposite sign of the oracle's, beside that of the random directions (½ where the effect is odd in v:
    what a gauge that knows nothing gives). What refers to the oracle's effect needs that to pass the same test.

    ``even`` marks an effect that is the same for v and −v: it has no reversal probability. ``silent`` says that the
    direction is known, from another effect, to have none.
    """
    effect = measured_once(effect)
    effects = torch.stack([effect(v) for v in moved])
    best, own = effect(oracle), effect(native)
    random = torch.stack([effect(v) for v in controls]).mean(1)
    noise = random.square().mean().sqrt()
    means = effects.mean(1)
    ratios = _standard_errors(own, noise)
    found = {
        "effect": float(means.mean()),
        "effect_plants_sd": _spread(means),
        "effect_oracle": float(best.mean()),
        "effect_native": float(own.mean()),
        "effect_se_ratio": ratios[0],
        "effect_control_ratio": ratios[1],
        "no_effect_to_transport": float(silent or min(ratios) < MIN_STANDARD_ERRORS),
    }
    if not found["no_effect_to_transport"]:
        found |= _retention("retention_native", effects.mean(0), own)
        if min(_standard_errors(best, noise)) >= MIN_STANDARD_ERRORS:
            found |= _retention("retention", effects.mean(0), best)
            found["retention_plants_sd"] = _spread(means / best.mean())
            if not even:
                found["reversal_probability"] = _reversed(means, best)
                found["reversal_probability_random"] = _reversed(random, best)
    return [{"metric": prefix + name, "value": value} for name, value in found.items()]


def strength_sweep_rows(slot: Slot, moved: Sequence[Tensor], strengths: Sequence[float]) -> list[Row]:
    """The mean of f(αv) − f(0) over prompts and the first plants, in nats, for every α of ``strengths``."""
    at_rest, rows = slot.log_odds(), []
    for a in strengths:
        shift = measured_once(lambda v, a=a: slot.log_odds(adding(a * v)) - at_rest)  # type: ignore[misc]
        value = float(torch.stack([shift(v) for v in moved[:MAX_SWEEP_PLANTS]]).mean())
        rows.append({"metric": "shift", "strength": a, "value": value})
    return rows


def fieller_interval(x: Tensor, y: Tensor, level: float = 0.95) -> tuple[float, float, float]:
    """The ratio Σx / Σy of paired values [n], and the ends of its Fieller interval; NaN where that is unbounded.

    The interval holds every R for which mean(x − R·y) is within t of 0; it is bounded when mean(y) itself is not.
    Raises ``ValueError`` for fewer than two pairs. Source: Fieller (1954).
    """
    if x.shape != y.shape or x.dim() != 1 or len(x) < 2:
        raise ValueError(f"at least two pairs are wanted, found {tuple(x.shape)} and {tuple(y.shape)}")
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
    named = zip((name, f"{name}_low", f"{name}_high"), fieller_interval(x, y), strict=True)
    return {k: v for k, v in named if math.isfinite(v)}


def _standard_errors(effects: Tensor, noise: Tensor) -> tuple[float, float]:
    """The mean effect in standard errors over prompts, and in the size of what means nothing; signed."""
    over_prompts = effects.std() / len(effects) ** 0.5
    return tuple(float(effects.mean() / se.clamp_min(1e-12)) for se in (over_prompts, noise))  # type: ignore[return-value]


def _reversed(effects: Tensor, oracle: Tensor) -> float:
    return float((effects * oracle.mean() < 0).double().mean())


def _spread(values: Tensor) -> float:
    """0 for a single plant: arms that need only one do not vary over plants."""
    return float(values.std()) if len(values) > 1 else 0.0


def measured_once(effect: Effect) -> Effect:
    """``effect``, measured once for vectors that are equal."""
    known: dict[bytes, Tensor] = {}

    def measured(v: Tensor) -> Tensor:
        key = _key(v)
        if key not in known:
            known[key] = effect(v)
        return known[key]

    return measured


def _key(v: Tensor) -> bytes:
    return v.detach().cpu().contiguous().numpy().tobytes()
