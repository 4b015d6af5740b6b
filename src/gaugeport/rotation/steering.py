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

from gaugeport.tasks.steering import STANDARD_ERRORS, fieller

Row = dict[str, Any]
Measure = Callable[[Tensor], dict[str, Tensor]]
"""From what is added to the stream, float32[d], to quantities of every unit (prompt, string): name -> float64[n]. The same
names and units for both models; ``effect`` is what the vector is to raise."""
Changes = dict[float, dict[str, Tensor]]
"""Strength -> quantity -> its change in every unit, float64[n], against nothing added."""

UNCHANGED = "identity"
MATCHED = (UNCHANGED, "orthogonal")
"""Groups that are also tried at a length in units of the other model's own stream."""
CLEAN = (0.8, 1.25)
"""Transfer ratios that count as clean, ends included."""
REGIMES = ("clean", "partial", "reversed", "large", "other", "no_effect")
"""See :func:`regimes`."""
FEWEST = 3
"""Points that a rank correlation wants."""


@dataclass(frozen=True)
class Point:
    """One transfer at one strength: the ratio of effects, and by slope; None where the within effect is none."""

    arm: str
    group: str
    strength: float
    ratio: float | None
    by_slope: float | None


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
    is at least :data:`~gaugeport.tasks.steering.STANDARD_ERRORS` standard errors over units in the direction wanted (of
    other quantities: in either). Of the within effect also ``effect_se_ratio``, how many it is, and
    ``effect_control_ratio``, how many times the controls' effects; the root mean squares of those are the arms
    ``random_within`` and ``random_cross``.
    """
    signed = sorted({sign * a for a in strengths for sign in (-1.0, 1.0)})
    rest, their_rest = (at_rest(m, len(v)) for m in (within, cross))
    own = changes(within, rest, v, signed)
    added = {("cross", group): x for group, x in moved.items()}
    added |= {("matched", group): matched * moved[group] for group in MATCHED if group in moved}
    added["native", ""] = native
    arms = {arm: changes(cross, their_rest, x, signed) for arm, x in added.items()}
    rows = [row for (arm, group), c in {("within", ""): own, **arms}.items() for row in _means(arm, group, c)]
    for a in strengths:
        where = {"arm": "within", "group": "", "strength": a}
        rows.append({**where, "metric": "effect_se_ratio", "value": errors(own[a]["effect"])})
    points = []
    for (arm, group), found in arms.items():
        for a in strengths:
            ratios = _ratios(found, own, a)
            rows += [
                {"arm": arm, "group": group, "strength": a, "metric": name, **ratio} for name, ratio in ratios.items()
            ]
            if arm != "native":
                ratio, by_slope = (ratios.get(name, {}).get("value") for name in ("ratio", "ratio_slope"))
                points.append(Point(arm, group, a, ratio, by_slope))
    for arm, measure, nothing in (("random_within", within, rest), ("random_cross", cross, their_rest)):
        drawn = [changes(measure, nothing, c, strengths) for c in controls]
        for a in strengths:
            squares = [float(c[a]["effect"].mean()) ** 2 for c in drawn]
            size = math.sqrt(sum(squares) / len(squares))
            rows.append({"arm": arm, "group": "", "strength": a, "metric": "effect", "value": size})
            if arm == "random_within":
                over = float(own[a]["effect"].mean()) / max(size, 1e-12)
                where = {"arm": "within", "group": "", "strength": a}
                rows.append({**where, "metric": "effect_control_ratio", "value": over})
    return rows, points


def errors(x: Tensor) -> float:
    """The mean of ``x`` [n] in its standard errors, signed."""
    return float(x.mean() / (x.std() / len(x) ** 0.5).clamp_min(1e-12))


def regimes(point: Point) -> set[str]:
    """The names of :data:`REGIMES` that a point has; only ``reversed`` and ``large`` can be had together.

    ``no_effect``: the within effect is none, so there is no ratio. ``reversed``: the cross slope has the other sign.
    ``large``: the ratio is beyond 1.25, in either direction; the paper's "inverted". ``clean``: not reversed, the ratio in
    [0.8, 1.25]. ``partial``: not reversed, positive but smaller. ``other``: what is left, an effect at α that has another
    sign than the slope.
    """
    if point.ratio is None:
        return {"no_effect"}
    found = set()
    if point.by_slope is not None and point.by_slope < 0:
        found.add("reversed")
    if abs(point.ratio) > CLEAN[1]:
        found.add("large")
    if not found and point.ratio > 0:
        found.add("clean" if point.ratio >= CLEAN[0] else "partial")
    return found or {"other"}


def regime_rows(points: Iterable[Point]) -> Iterator[Row]:
    """``regime_<name>``: of every arm and group, the number of strengths in each regime."""
    by_arm: dict[tuple[str, str], list[set[str]]] = {}
    for point in points:
        by_arm.setdefault((point.arm, point.group), []).append(regimes(point))
    for (arm, group), found in by_arm.items():
        for name in REGIMES:
            value = float(sum(name in regime for regime in found))
            yield {"arm": arm, "group": group, "metric": f"regime_{name}", "value": value}


def span(readers: Sequence[Tensor]) -> Tensor:
    """An orthonormal basis float64[d, rank] of what output heads tell apart: differences of rows of one reader.

    ``readers`` are float[rows, d], a head's weights with the gain of the norm that they read behind. A softmax does not
    see what is common to all rows, so each is centred over its rows.
    """
    stacked = torch.cat([w.double() - w.double().mean(0) for w in readers])
    _, s, vh = torch.linalg.svd(stacked, full_matrices=False)
    return vh[s > s.max() * 1e-8].T


def share(v: Tensor, basis: Tensor) -> float:
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
        if len(kept) >= FEWEST and len(set(x)) > 1 and len(set(y)) > 1:
            value = float(stats.spearmanr(x, y).statistic)
            yield {"metric": f"{name}_{side}_correlation", "value": value}


def _means(arm: str, group: str, found: Changes) -> Iterator[Row]:
    for a, quantities in found.items():
        where = {"arm": arm, "group": group, "strength": a}
        for name, x in quantities.items():
            yield {**where, "metric": name, "value": float(x.mean())}
        if a > 0:
            yield {**where, "metric": "slope", "value": float(slope(found, a).mean())}


def _ratios(found: Changes, own: Changes, a: float) -> dict[str, dict[str, float]]:
    """Every ratio at one strength that has a within effect below it."""
    sides = {"ratio": (found[a]["effect"], own[a]["effect"]), "ratio_slope": (slope(found, a), slope(own, a))}
    kept = {name: pair for name, pair in sides.items() if errors(pair[1]) >= STANDARD_ERRORS}
    others = {f"{name}_ratio": (found[a][name], own[a][name]) for name in own[a] if name != "effect"}
    kept |= {name: pair for name, pair in others.items() if abs(errors(pair[1])) >= STANDARD_ERRORS}
    return {name: _ratio(*pair) for name, pair in kept.items()}


def _ratio(x: Tensor, y: Tensor) -> dict[str, float]:
    """The ratio of sums over units, with the ends of its interval where that is bounded."""
    found = dict(zip(("value", "ci_low", "ci_high"), fieller(x, y), strict=True))
    return {k: v for k, v in found.items() if math.isfinite(v)}
