"""Regimes of steering vectors between two models (paper B, sections 8.6 and 9.2): effects, transfer ratios, predictors.

A vector of the *anchor* is added to the stream of the anchor (arm ``within``) and of another model (``cross``): unchanged
(group ``identity``), or moved by a fitted map. ``native`` is the other model's own vector by the same recipe.

The *transfer ratio* at a strength α > 0 is the cross effect over the within effect, sums over the same prompts or strings;
by slope it is that of [f(+α) − f(−α)] / 2α. The paper calls a vector *inverted* where this ratio is large (8.43, 1.8–10),
not where its sign changes; both are counted here, under names of their own (:data:`REGIMES`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from scipy import stats
from torch import Tensor

from gaugeport.pipeline.measures.steering_effects import MIN_STANDARD_ERRORS, fieller_interval
from gaugeport.utils.seeds import generator

Row = dict[str, Any]
Measure = Callable[[Tensor], dict[str, Tensor]]
"""From what is added to the stream, float32[d], to quantities of every unit (prompt, string): name -> float64[n]. The same
names and units for both models; ``effect`` is what the vector is to raise."""
Changes = dict[float, dict[str, Tensor]]
"""Strength -> quantity -> its change in every unit, float64[n], against nothing added."""

UNCHANGED = "identity"
LENGTH_MATCHED_GROUPS = (UNCHANGED, "orthogonal")
"""Groups that are also tried at a length in units of the other model's own stream."""
CLEAN_RATIOS = (0.8, 1.25)
"""Transfer ratios that count as clean, ends included."""
REGIMES = ("clean", "partial", "reversed", "large", "lost", "other", "no_effect")
"""See :func:`regimes_of`."""
LEAST_OVER_RANDOM = 3.0
"""An effect below so many root mean squares of random directions' effects is none. Of a linear effect no direction has more
than √d of them, 8 in the toy, so that paper A's 5 would ask for a cosine of .6 with the gradient; one random direction in
several hundred has 3."""
FEWEST_POINTS = 3
"""Points that a rank correlation wants."""


@dataclass(frozen=True)
class Point:
    """One transfer at one strength: the ratio of effects, and by slope with its 95 % interval; None where the within effect
    is none. ``over_random``: the size of the cross effect over that of random directions there.
    """

    condition: str
    group: str
    strength: float
    ratio: float | None
    by_slope: tuple[float, float, float] | None
    over_random: float


def changes(measure: Measure, rest: dict[str, Tensor], v: Tensor, strengths: Iterable[float]) -> Changes:
    """What ``v`` [d] does at every strength, ``rest`` being what :func:`at_rest` says of the same ``measure``."""
    found: Changes = {}
    for a in strengths:
        moved = measure(a * v)
        found[a] = {name: moved[name] - rest[name] for name in rest}
    return found


def at_rest(measure: Measure, width: int) -> dict[str, Tensor]:
    """The quantities where nothing is added. Raises ``ValueError`` for fewer than two units."""
    rest = measure(torch.zeros(width))
    if len(rest["effect"]) < 2:
        raise ValueError(f"{len(rest['effect'])} units (prompts, strings) to steer; at least 2 are wanted")
    return rest


def slope(found: Changes, strength: float) -> Tensor:
    """[f(+α) − f(−α)] / 2α of the effect in every unit, float64[n]."""
    return (found[strength]["effect"] - found[-strength]["effect"]) / (2 * strength)


def transfer(
    within: Measure,
    cross: Measure,
    v: Tensor,
    moved: Mapping[str, Tensor],
    native: Tensor,
    controls: Sequence[Tensor],
    strengths: Sequence[float],
    matched: float,
) -> tuple[list[Row], list[Point]]:
    """Rows ``{arm, group, strength, metric, value}`` of one vector ``v`` [d], and the points of the cross arms.

    ``moved`` gives what is added to the other model by group, ``native`` its own vector; ``controls`` are random
    directions of the same length. In the arm ``matched`` what is moved unchanged and by a rotation is taken ``matched``
    times as long, the ratio of the streams' lengths: norms make a model respond to what is added in units of its own
    stream. Every quantity's mean change at ±α is a row under its name; at α > 0 further: ``slope``; ``ratio`` and
    ``ratio_slope`` with their 95 % Fieller intervals, and ``<quantity>_ratio`` of the others, each where the within change
    is at least :data:`~gaugeport.pipeline.measures.steering_effects.MIN_STANDARD_ERRORS` standard errors over units and :data:`LEAST_OVER_RANDOM` times
    what the controls do (the first alone calls almost any direction effective, for all units answer alike), in the
    direction wanted (of other quantities: in either). Of the within effect ``effect_se_ratio`` and
    ``effect_control_ratio`` say how many times; the controls' root mean squares are the arms ``random_within`` and
    ``random_cross``.
    """
    signed = sorted({sign * a for a in strengths for sign in (-1.0, 1.0)})
    rest, their_rest = (at_rest(m, len(v)) for m in (within, cross))
    own = changes(within, rest, v, signed)
    added = {("cross", group): x for group, x in moved.items()}
    added |= {("matched", group): matched * moved[group] for group in LENGTH_MATCHED_GROUPS if group in moved}
    added["native", ""] = native
    arms = {arm: changes(cross, their_rest, x, signed) for arm, x in added.items()}
    random = [changes(within, rest, c, signed) for c in controls]
    theirs = [changes(cross, their_rest, c, strengths) for c in controls]
    rows = [row for (arm, group), c in {("within", ""): own, **arms}.items() for row in _means(arm, group, c)]
    points = []
    for a in strengths:
        at = {"group": "", "strength": a}
        size, cross_size = (_size([c[a]["effect"] for c in drawn]) for drawn in (random, theirs))
        rows += [
            {"arm": "within", **at, "metric": "effect_se_ratio", "value": errors(own[a]["effect"])},
            {
                "arm": "within",
                **at,
                "metric": "effect_control_ratio",
                "value": float(own[a]["effect"].mean()) / size,
            },
            {"arm": "random_within", **at, "metric": "effect", "value": size},
            {"arm": "random_cross", **at, "metric": "effect", "value": cross_size},
        ]
        for (arm, group), found in arms.items():
            ratios = _ratios(found, own, random, a)
            rows += [
                {"arm": arm, "group": group, "strength": a, "metric": name, **_named(*ratio)}
                for name, ratio in ratios.items()
            ]
            if arm != "native":
                # what a random direction does grows with its length, to first order
                size_here = cross_size * (matched if arm == "matched" else 1.0)
                over = abs(float(found[a]["effect"].mean())) / size_here
                points.append(
                    Point(arm, group, a, ratios.get("ratio", (None,))[0], ratios.get("ratio_slope"), over)
                )
    return rows, points


def errors(x: Tensor) -> float:
    """The mean of ``x`` [n] in its standard errors, signed."""
    return float(x.mean() / (x.std() / len(x) ** 0.5).clamp_min(1e-12))


def _size(changes: Sequence[Tensor]) -> float:
    """The root mean square, over directions, of the mean change over units."""
    return max(math.sqrt(sum(float(x.mean()) ** 2 for x in changes) / len(changes)), 1e-12)


def regimes_of(point: Point) -> set[str]:
    """The names of :data:`REGIMES` that a point has; only ``reversed`` and ``large`` can be had together.

    ``no_effect``: the within effect is none, so there is no ratio. ``lost``: the cross effect is no larger than that of
    random directions there, or the interval of the slope's ratio has 0 in it. ``reversed``: that interval is below 0.
    ``large``: the ratio is beyond 1.25, in either direction; the paper's "inverted". ``clean``: not reversed, the ratio in
    [0.8, 1.25]. ``partial``: not reversed, positive but smaller. ``other``: what is left, an effect at α that has another
    sign than the slope, or a slope that is no effect within.
    """
    if point.ratio is None:
        return {"no_effect"}
    low, high = point.by_slope[1:] if point.by_slope else (math.nan, math.nan)
    if point.over_random <= 1 or low <= 0 <= high:
        return {"lost"}
    found = set()
    if high < 0:
        found.add("reversed")
    if abs(point.ratio) > CLEAN_RATIOS[1]:
        found.add("large")
    if not found and point.ratio > 0:
        found.add("clean" if point.ratio >= CLEAN_RATIOS[0] else "partial")
    return found or {"other"}


def regime_rows(points: Iterable[Point]) -> Iterator[Row]:
    """``regime_<name>``: of every arm and group, the number of strengths in each regime."""
    by_arm: dict[tuple[str, str], list[set[str]]] = {}
    for point in points:
        by_arm.setdefault((point.condition, point.group), []).append(regimes_of(point))
    for (arm, group), found in by_arm.items():
        for name in REGIMES:
            value = float(sum(name in regime for regime in found))
            yield {"arm": arm, "group": group, "metric": f"regime_{name}", "value": value}


def reader_span(readers: Sequence[Tensor]) -> Tensor:
    """An orthonormal basis float64[d, rank] of what output heads tell apart: differences of rows of one reader.

    ``readers`` are float[rows, d], a head's weights with the gain of the norm that they read behind. A softmax does not
    see what is common to all rows, so each is centred over its rows.
    """
    stacked = torch.cat([w.double() - w.double().mean(0) for w in readers])
    _, s, vh = torch.linalg.svd(stacked, full_matrices=False)
    return vh[s > s.max() * 1e-8].T


def share_in(v: Tensor, basis: Tensor) -> float:
    """The share of ``‖v‖²`` in the span of an orthonormal ``basis`` [d, rank]: section 9.2's predictor."""
    wide = v.double()
    return float((wide @ basis).square().sum() / wide.square().sum())


def cosine(v: Tensor, w: Tensor) -> float:
    """The cosine of two vectors [d]; of v and R v it says how far the rotation R leaves v where it is."""
    return float(torch.nn.functional.cosine_similarity(v.double(), w.double(), dim=0))


def predictor_rows(name: str, values: Sequence[float], ratios: Sequence[float | None]) -> Iterator[Row]:
    """How a predictor goes with transfer: Spearman's rank correlations over points, effects that are none left out.

    ``<name>_transfer_correlation``, the claim's: with −|1 − ratio|, so that a vector transfers the better the nearer its
    cross effect is to its within effect, above or below. ``<name>_ratio_correlation``: with the signed ratio itself.
    No row where fewer than three points are left or one side is constant.
    """
    kept = [(x, r) for x, r in zip(values, ratios, strict=True) if r is not None]
    yield {"metric": f"{name}_points", "value": float(len(kept))}
    sides = {"transfer": lambda r: -abs(1 - r), "ratio": lambda r: r}
    for side, of in sides.items():
        x, y = [p for p, _ in kept], [of(r) for _, r in kept]
        if len(kept) >= FEWEST_POINTS and len(set(x)) > 1 and len(set(y)) > 1:
            value = float(stats.spearmanr(x, y).statistic)
            yield {"metric": f"{name}_{side}_correlation", "value": value}


def share_test(
    shares: Sequence[float], closeness: Sequence[float], sites: Sequence[str], draws: int, seed: int = 0
) -> tuple[float, float]:
    """Spearman's correlation over vectors at sites, and its one-sided p from ``draws`` permutations within sites.

    Vectors and sites are the unit: a share is the anchor's alone, so other seeds vary only the noise in ``closeness``, and
    an interval over them says nothing of the predictor. Depth goes with both, hence the permutations within sites.
    Raises ``ValueError`` for fewer than three.
    """
    if len(shares) < FEWEST_POINTS:
        raise ValueError(f"{len(shares)} vectors and sites; allowed: {FEWEST_POINTS} or more")
    x, y = (torch.tensor(stats.rankdata(v)) for v in (shares, closeness))
    strata = [torch.tensor([i for i, s in enumerate(sites) if s == site]) for site in dict.fromkeys(sites)]
    gen, reached = generator(seed, "share test"), 0
    own = float(torch.corrcoef(torch.stack([x, y]))[0, 1])
    for _ in range(draws):
        drawn = x.clone()
        for where in strata:
            drawn[where] = x[where[torch.randperm(len(where), generator=gen)]]
        reached += float(torch.corrcoef(torch.stack([drawn, y]))[0, 1]) >= own - 1e-12
    return own, (1 + reached) / (1 + draws)


def _means(arm: str, group: str, found: Changes) -> Iterator[Row]:
    for a, quantities in found.items():
        where = {"arm": arm, "group": group, "strength": a}
        for name, x in quantities.items():
            yield {**where, "metric": name, "value": float(x.mean())}
        if a > 0:
            yield {**where, "metric": "slope", "value": float(slope(found, a).mean())}


def _ratios(
    found: Changes, own: Changes, random: Sequence[Changes], a: float
) -> dict[str, tuple[float, float, float]]:
    """Every ratio at one strength that has a within effect below it, with the ends of its Fieller interval."""
    kept = {}
    for name, of in {"ratio_slope": slope, **{n: _change(n) for n in own[a]}}.items():
        within = of(own, a)
        times = (
            errors(within) / MIN_STANDARD_ERRORS,
            float(within.mean()) / _size([of(c, a) for c in random]) / LEAST_OVER_RANDOM,
        )
        wanted = name in ("effect", "ratio_slope")  # these have a direction, other quantities either
        if min(times if wanted else map(abs, times)) >= 1:
            known_as = {"effect": "ratio", "ratio_slope": name}.get(name, f"{name}_ratio")
            kept[known_as] = fieller_interval(of(found, a), within)
    return kept


def _change(name: str) -> Callable[[Changes, float], Tensor]:
    return lambda found, a: found[a][name]


def _named(value: float, low: float, high: float) -> dict[str, float]:
    """The entries of a row, without the ends of an interval that is unbounded."""
    return {k: v for k, v in {"value": value, "ci_low": low, "ci_high": high}.items() if math.isfinite(v)}
