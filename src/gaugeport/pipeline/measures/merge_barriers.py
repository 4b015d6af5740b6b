"""Table a7: merging two models that were written in different coordinates; the loss along the line between them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import fmean, stdev
from typing import Any

import torch
from torch import Tensor

from gaugeport.groups import Element
from gaugeport.pipeline.measures.losses import heldout_loss
from gaugeport.transport.heads import HeadGauge, match_heads
from gaugeport.transport.merge import Merged, merge
from gaugeport.transport.model import transport_model
from gaugeport.transport.neurons import NeuronGauge, match_neurons
from gaugeport.utils.seeds import generator

Row = dict[str, Any]
Batches = Sequence[dict[str, Tensor]]
Reordering = NeuronGauge | HeadGauge
PLANTED_REORDERINGS = ("none", "neurons", "both")
MATCHED_REORDERINGS = ("none", "neurons", "heads", "both")


def merge_barrier_rows(
    a: Any,
    b: Any,
    residuals: Iterable[Element],
    batches: Batches,
    *,
    points: int = 11,
    planted: str = "none",
    matched: str = "none",
    seed: int = 0,
    base: Any = None,
    base_residuals: Iterable[Element] = (),
    scalings: Sequence[float] = (),
) -> list[Row]:
    """Loss over α of (1−α)·A' + α·B, its barrier, and the losses of merges, each a mean over the arm's ``residuals``.

    A' is ``a`` moved by a residual, an element of the models' exact group (raises ``ValueError`` for others), after a
    random reordering of its neurons (and heads) where ``planted``, and brought back by what is ``matched`` to ``b``.
    ``a``, ``b`` and ``base`` are in shared coordinates and left unchanged; ``points`` α's are spaced evenly on [0, 1].

    Metrics, in nats per token on ``batches``: ``loss`` (with ``alpha``); ``barrier``, the largest excess over the line
    between the losses of both ends (0 at least: the ends are on it); ``loss_average``, of their mean;
    ``loss_unaligned``, of that mean carried to A's coordinates; ``loss_task_arithmetic`` (with ``scaling``) of
    base + scaling · (A' − base + B − base), the base moved by its own residual; where neurons or heads are matched,
    ``neurons_matched`` and ``heads_matched``, the share of them that comes out in the place it has in ``a``. With
    several residuals ``barrier_plants_sd`` too. Source: PAPER_CLAIMS, "Merge barrier", and issue 3.
    """
    check_points(points)
    a, plants = reorder_at_random(a, planted, seed)
    alphas = [k / (points - 1) for k in range(points)]
    found: list[dict[tuple[str, float | None], float]] = []
    moving_base = iter(base_residuals)
    for r in residuals:
        here: dict[tuple[str, float | None], float] = {}
        a_here, put_back = rematch(a, b, r, matched)
        here |= {
            (f"{kind}_matched", None): share_in_same_place(g, plants[kind].inverse())
            for kind, g in put_back.items()
        }
        moved = transport_model(a_here, r)
        curve = [heldout_loss(merge([b, moved], [None, None], (x, 1 - x)).model, batches) for x in alphas]
        here |= {("loss", x): loss for x, loss in zip(alphas, curve, strict=True)}
        here["barrier", None] = barrier(alphas, curve)
        here["loss_average", None] = curve[points // 2]
        unaligned = merge([b, a_here], [None, r]).in_coordinates_of(1)
        here["loss_unaligned", None] = heldout_loss(unaligned, batches)
        if base is not None:
            to_b = next(moving_base)
            for scaling in scalings:
                summed = task_arithmetic(a_here, b, base, r, to_b, scaling)
                here["loss_task_arithmetic", scaling] = heldout_loss(summed.model, batches)
        found.append(here)
    rows = [_row(metric, at, fmean(h[metric, at] for h in found)) for metric, at in found[0]]
    if len(found) > 1:
        rows.append({"metric": "barrier_plants_sd", "value": stdev(h["barrier", None] for h in found)})
    return rows


def check_points(points: Any) -> None:
    """Raise ``ValueError`` unless there are both ends and a middle: an odd number from 3."""
    if type(points) is not int or points < 3 or points % 2 == 0:
        raise ValueError(f"points={points!r} on the line; allowed: an odd whole number from 3")


def barrier(alphas: Sequence[float], losses: Sequence[float]) -> float:
    """The largest excess of the losses over the straight line between the first and the last."""
    first, last = losses[0], losses[-1]
    # first + α·(last − first), so that equal ends give exactly their loss
    return max(loss - (first + x * (last - first)) for x, loss in zip(alphas, losses, strict=True))


def task_arithmetic(a: Any, b: Any, base: Any, r: Element, base_r: Element, scaling: float) -> Merged:
    """base + scaling · (A' − base + B − base) in B's coordinates, A and the base moved there by ``r`` and ``base_r``."""
    return merge([b, a], [None, r], method="task_arithmetic", base=base, base_gauge=base_r, scaling=scaling)


def reorder_at_random(a: Any, planted: str, seed: int) -> tuple[Any, dict[str, Reordering]]:
    """``a`` with its neurons (and heads) reordered at random, the same function, and what did it: identities if nothing."""
    if planted not in PLANTED_REORDERINGS:
        raise ValueError(f"planted={planted!r}; allowed: {', '.join(PLANTED_REORDERINGS)}")
    plants: dict[str, Reordering] = {"neurons": NeuronGauge.identity(a), "heads": HeadGauge.identity(a)}
    if planted != "none":
        plants["neurons"] = NeuronGauge.random(a, generator(seed, "merge", "neurons"))
        a = plants["neurons"].apply(a)
    if planted == "both":
        plants["heads"] = HeadGauge.random(a, generator(seed, "merge", "heads"))
        a = plants["heads"].apply(a)
    return a, plants


def rematch(a: Any, b: Any, r: Element, matched: str) -> tuple[Any, dict[str, Reordering]]:
    """``a`` with its neurons and heads in the order of those of ``b`` they match once ``a`` is moved by ``r``."""
    if matched not in MATCHED_REORDERINGS:
        raise ValueError(f"matched={matched!r}; allowed: {', '.join(MATCHED_REORDERINGS)}")
    found: dict[str, Reordering] = {}
    if matched != "none":
        moved = transport_model(a, r)  # neurons and heads can only be compared in shared coordinates
        if matched in ("neurons", "both"):
            found["neurons"] = match_neurons(moved, b)
        if matched in ("heads", "both"):
            found["heads"] = match_heads(moved, b)
        for gauge in found.values():  # which commute with r: they act on other axes
            a = gauge.apply(a)
    return a, found


def share_in_same_place(found: Reordering, truth: Reordering) -> float:
    """The share of neurons or heads, over all blocks, that two gauges take from the same place."""
    pairs = zip(found.blocks, truth.blocks, strict=True)
    return float(torch.cat([(g.perm == h.perm) for g, h in pairs]).double().mean())


def _row(metric: str, at: float | None, value: float) -> Row:
    row: Row = {"metric": metric, "value": value}
    if at is not None:
        row["scaling" if metric == "loss_task_arithmetic" else "alpha"] = at
    return row
