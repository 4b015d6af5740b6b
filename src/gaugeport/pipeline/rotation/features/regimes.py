"""Measure how steering vectors transfer between two models, and name the regimes (paper B, section 8.6).

A vector of the *anchor* is added to the stream of the anchor (condition ``within``) and of another model
(``cross``): unchanged (group ``identity``), or moved by a fitted map. ``native`` is the other model's own
vector by the same recipe.

The *transfer ratio* at a strength α > 0 is the cross effect over the within effect, sums over the same
prompts or strings; by slope it is that of [f(+α) − f(−α)] / 2α. The paper calls a vector *inverted* where
this ratio is large (8.43, 1.8–10), not where its sign changes; both are counted here under names of their own
(:data:`REGIMES`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gaugeport.pipeline.measures.steering_effects import MIN_STANDARD_ERRORS, fieller_interval

Row = dict[str, Any]
Measure = Callable[[Tensor], dict[str, Tensor]]
"""From what is added to the stream, float32[d], to quantities: name -> float64[n].

A quantity has one value for every unit (prompt, string). Names and units are the same for both models.
``effect`` is the quantity that the vector is meant to raise.
"""
Changes = dict[float, dict[str, Tensor]]
"""Strength -> quantity -> its change in every unit, float64[n], against nothing added."""

UNCHANGED = "identity"
"""The group of a vector that is not moved."""
LENGTH_MATCHED_GROUPS = (UNCHANGED, "orthogonal")
"""Groups that are also tried at a length in units of the other model's own stream."""
CLEAN_RATIOS = (0.8, 1.25)
"""Transfer ratios that count as clean, ends included."""
REGIMES = ("clean", "partial", "reversed", "large", "lost", "other", "no_effect")
"""See :func:`regimes_of`."""
LEAST_OVER_RANDOM = 3.0
"""Effects below so many root mean squares of random directions' effects count as none.

Where an effect is linear no direction has more than √d of them, 8 in the toy, so that paper A's 5 would ask
for a cosine of .6 with the gradient; one random direction in several hundred has 3.
"""
TINY = 1e-12
"""Least scale that an effect is divided by."""


@dataclass(frozen=True)
class Point:
    """One transfer at one strength.

    Attributes:
        condition: ``cross``, or ``matched`` at a length in units of the other model's stream.
        group: The group of the map that moved the vector.
        strength: α.
        ratio: Cross effect over within effect; None where the within effect is none.
        by_slope: The ratio of slopes with its 95 % interval; None where the within slope is none.
        over_random: Size of the cross effect over that of random directions there.
    """

    condition: str
    group: str
    strength: float
    ratio: float | None
    by_slope: tuple[float, float, float] | None
    over_random: float


def at_rest(measure: Measure, width: int) -> dict[str, Tensor]:
    """Return the quantities where nothing is added; raise ``ValueError`` for fewer than two units."""
    rest = measure(torch.zeros(width))
    if len(rest["effect"]) < 2:
        raise ValueError(f"{len(rest['effect'])} units (prompts, strings) to steer; allowed: 2 or more")
    return rest


def changes(measure: Measure, rest: dict[str, Tensor], v: Tensor, strengths: Iterable[float]) -> Changes:
    """Return what a vector changes at every strength.

    Args:
        measure: What to measure.
        rest: What :func:`at_rest` returns for it.
        v: The vector, float32[d].
        strengths: Factors of the vector, of either sign.
    """
    by_strength: Changes = {}
    for a in strengths:
        steered = measure(a * v)
        by_strength[a] = {name: steered[name] - rest[name] for name in rest}
    return by_strength


def slope(changed: Changes, strength: float) -> Tensor:
    """Return [f(+α) − f(−α)] / 2α of the effect in every unit, float64[n]."""
    return (changed[strength]["effect"] - changed[-strength]["effect"]) / (2 * strength)


def transfer(
    within: Measure,
    cross: Measure,
    v: Tensor,
    moved: Mapping[str, Tensor],
    native: Tensor,
    controls: Sequence[Tensor],
    strengths: Sequence[float],
    length_ratio: float,
) -> tuple[list[Row], list[Point]]:
    """Measure one vector on both models.

    Rows are ``{arm, group, strength, metric, value}`` with the condition as ``arm``. Every quantity's mean
    change at ±α is a row under its name. At α > 0 there are further rows: ``slope``; ``ratio`` and
    ``ratio_slope`` with their 95 % Fieller intervals; ``<quantity>_ratio`` of the other quantities;
    ``effect_se_ratio`` and ``effect_control_ratio``, the within effect in standard errors over units and in
    root mean squares of the controls' effects; and these root mean squares themselves, as the conditions
    ``random_within`` and ``random_cross``.

    A ratio needs a within change of at least
    :data:`~gaugeport.pipeline.measures.steering_effects.MIN_STANDARD_ERRORS` standard errors and
    :data:`LEAST_OVER_RANDOM` times what the controls do; the first alone calls almost any direction
    effective, because all units answer alike. The effect has to be positive, other quantities may have either
    sign.

    In the condition ``matched`` the vector is taken ``length_ratio`` times as long where it is moved
    unchanged or by a rotation: norms make a model respond to what is added in units of its own stream.

    Args:
        within: Measure of the anchor.
        cross: Measure of the other model.
        v: The anchor's vector, float32[d].
        moved: Group -> what is added to the other model, float32[d].
        native: The other model's own vector, float32[d].
        controls: Random directions of the length of ``v``.
        strengths: Positive α; each is tried with both signs.
        length_ratio: Length of the other model's stream over that of the anchor's.

    Returns:
        The rows, and one point for every condition but ``native``, group and strength.

    Raises:
        ValueError: A measure has fewer than two units.
    """
    # 1) measure every vector at every strength, on the models that it is for
    signed = sorted({sign * a for a in strengths for sign in (-1.0, 1.0)})
    rest, rest_cross = (at_rest(measure, len(v)) for measure in (within, cross))
    added = {("cross", group): x for group, x in moved.items()}
    added |= {
        ("matched", group): length_ratio * moved[group] for group in LENGTH_MATCHED_GROUPS if group in moved
    }
    added["native", ""] = native
    on_anchor = changes(within, rest, v, signed)
    on_other = {key: changes(cross, rest_cross, x, signed) for key, x in added.items()}
    random_on_anchor = [changes(within, rest, c, signed) for c in controls]
    random_on_other = [changes(cross, rest_cross, c, strengths) for c in controls]

    # 2) the mean changes of all quantities
    rows = list(_mean_rows("within", "", on_anchor))
    for (condition, group), changed in on_other.items():
        rows += _mean_rows(condition, group, changed)

    # 3) at every strength the sizes of random effects, the ratios, and a point for each transfer
    points = []
    for a in strengths:
        effect = on_anchor[a]["effect"]
        random_within, random_cross = (
            _root_mean_square([c[a]["effect"] for c in random])
            for random in (random_on_anchor, random_on_other)
        )
        for condition, metric, value in (
            ("within", "effect_se_ratio", in_standard_errors(effect)),
            ("within", "effect_control_ratio", float(effect.mean()) / random_within),
            ("random_within", "effect", random_within),
            ("random_cross", "effect", random_cross),
        ):
            rows.append({"arm": condition, "group": "", "strength": a, "metric": metric, "value": value})
        for (condition, group), changed in on_other.items():
            ratios = _ratios(changed, on_anchor, random_on_anchor, a)
            for name, ratio in ratios.items():
                at = {"arm": condition, "group": group, "strength": a, "metric": name}
                rows.append({**at, **_with_bounded_ends(*ratio)})
            if condition != "native":
                # what a random direction does grows with its length, to first order
                random_here = random_cross * (length_ratio if condition == "matched" else 1.0)
                over_random = abs(float(changed[a]["effect"].mean())) / random_here
                ratio_of_effects = ratios["ratio"][0] if "ratio" in ratios else None
                by_slope = ratios.get("ratio_slope")
                points.append(Point(condition, group, a, ratio_of_effects, by_slope, over_random))
    return rows, points


def in_standard_errors(x: Tensor) -> float:
    """Return the mean of ``x`` [n] in units of its standard error, signed."""
    return float(x.mean() / (x.std() / len(x) ** 0.5).clamp_min(TINY))


def regimes_of(point: Point) -> set[str]:
    """Return the names of :data:`REGIMES` that a point has; only ``reversed`` and ``large`` can go together.

    * ``no_effect``: the within effect is none, so there is no ratio;
    * ``lost``: the cross effect is no larger than that of random directions there, or the interval of the
      slope's ratio contains 0;
    * ``reversed``: that interval is below 0;
    * ``large``: the ratio is beyond 1.25 in either direction, the paper's "inverted";
    * ``clean``: not reversed, and the ratio is in [0.8, 1.25];
    * ``partial``: not reversed, positive but smaller;
    * ``other``: the rest, an effect at α with another sign than the slope, or a slope that is no effect
      within.
    """
    if point.ratio is None:
        return {"no_effect"}
    low, high = point.by_slope[1:] if point.by_slope else (math.nan, math.nan)
    if point.over_random <= 1 or low <= 0 <= high:
        return {"lost"}
    names = set()
    if high < 0:
        names.add("reversed")
    if abs(point.ratio) > CLEAN_RATIOS[1]:
        names.add("large")
    if not names and point.ratio > 0:
        names.add("clean" if point.ratio >= CLEAN_RATIOS[0] else "partial")
    return names or {"other"}


def regime_rows(points: Iterable[Point]) -> Iterator[Row]:
    """Yield ``regime_<name>``: the number of strengths in each regime, by condition and group."""
    regimes: dict[tuple[str, str], list[set[str]]] = {}
    for point in points:
        regimes.setdefault((point.condition, point.group), []).append(regimes_of(point))
    for (condition, group), by_strength in regimes.items():
        for name in REGIMES:
            value = float(sum(name in names for names in by_strength))
            yield {"arm": condition, "group": group, "metric": f"regime_{name}", "value": value}


def _root_mean_square(effects: Sequence[Tensor]) -> float:
    """Return the root mean square, over directions, of the mean change over units."""
    return max(math.sqrt(sum(float(x.mean()) ** 2 for x in effects) / len(effects)), TINY)


def _mean_rows(condition: str, group: str, changed: Changes) -> Iterator[Row]:
    for a, quantities in changed.items():
        at = {"arm": condition, "group": group, "strength": a}
        for name, x in quantities.items():
            yield {**at, "metric": name, "value": float(x.mean())}
        if a > 0:
            yield {**at, "metric": "slope", "value": float(slope(changed, a).mean())}


def _ratios(
    changed: Changes, on_anchor: Changes, random: Sequence[Changes], a: float
) -> dict[str, tuple[float, float, float]]:
    """Return every ratio at one strength whose within effect is large enough, with its Fieller interval."""
    quantities: dict[str, Callable[[Changes, float], Tensor]] = {"ratio_slope": slope}
    quantities |= {name: _change_of(name) for name in on_anchor[a]}
    ratios = {}
    for name, quantity in quantities.items():
        within = quantity(on_anchor, a)
        sizes = (
            in_standard_errors(within) / MIN_STANDARD_ERRORS,
            float(within.mean()) / _root_mean_square([quantity(c, a) for c in random]) / LEAST_OVER_RANDOM,
        )
        has_direction = name in ("effect", "ratio_slope")  # other quantities may have either sign
        if min(sizes if has_direction else map(abs, sizes)) >= 1:
            metric = {"effect": "ratio", "ratio_slope": name}.get(name, f"{name}_ratio")
            ratios[metric] = fieller_interval(quantity(changed, a), within)
    return ratios


def _change_of(name: str) -> Callable[[Changes, float], Tensor]:
    return lambda changed, a: changed[a][name]


def _with_bounded_ends(value: float, low: float, high: float) -> dict[str, float]:
    """Return the entries of a row, without the ends of an interval that is unbounded."""
    return {k: v for k, v in {"value": value, "ci_low": low, "ci_high": high}.items() if math.isfinite(v)}
