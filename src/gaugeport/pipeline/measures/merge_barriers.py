"""Measure merges of two models in different coordinates: the loss on the line between them (table a7)."""

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
"""What to reorder at random in A."""
MATCHED_REORDERINGS = ("none", "neurons", "heads", "both")
"""What to match between A and B, and bring back."""


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
    """Measure the loss on the line (1−α)·A' + α·B, its barrier, and the losses of merges.

    A' is ``a`` after a random reordering of its neurons and heads (``planted``), brought back by matching
    them with those of ``b`` (``matched``) and moved by a residual gauge. Metrics, in nats per token on
    ``batches`` and as means over residuals:
        ``loss`` (with ``alpha``): the loss at α.
        ``barrier``: the largest excess over the line between the losses of the two ends, at least 0. With
            several residuals also ``barrier_plants_sd``, its standard deviation.
        ``loss_average``: the loss of the mean of A' and B.
        ``loss_unaligned``: the loss of this mean in A's coordinates.
        ``loss_task_arithmetic`` (with ``scaling``): the loss of base + scaling · (A' − base + B − base).
        ``neurons_matched``, ``heads_matched``: where these are matched, the share put in its place in
            ``a``.
    Source: paper A, the merge barrier.

    Args:
        a: model A; the models are in shared coordinates and are left unchanged.
        b: model B.
        residuals: the errors of the condition's gauges in shared coordinates, one per plant.
        batches: held-out batches of full rows.
        points: number of evenly spaced α on [0, 1], odd and at least 3.
        planted: what to reorder at random, one of ``PLANTED_REORDERINGS``.
        matched: what to match, one of ``MATCHED_REORDERINGS``.
        seed: seed of the reorderings.
        base: the common base of A and B; needed for task arithmetic only.
        base_residuals: the errors of the base's gauges, one per plant.
        scalings: factors of task arithmetic.

    Returns:
        Rows ``{metric, value}``, some with ``alpha`` or ``scaling``.

    Raises:
        ValueError: ``points``, ``planted`` or ``matched`` is not allowed, or a residual is not in the models'
            exact group.
    """
    check_points(points)
    a, plants = reorder_at_random(a, planted, seed)
    alphas = [k / (points - 1) for k in range(points)]
    by_plant: list[dict[tuple[str, float | None], float]] = []
    moving_base = iter(base_residuals)
    for r in residuals:
        metrics: dict[tuple[str, float | None], float] = {}
        # 1) bring neurons and heads back
        a_here, put_back = rematch(a, b, r, matched)
        for kind, reordering in put_back.items():
            metrics[f"{kind}_matched", None] = share_in_same_place(reordering, plants[kind].inverse())
        # 2) walk along the line
        moved = transport_model(a_here, r)
        curve = [heldout_loss(merge([b, moved], [None, None], (x, 1 - x)).model, batches) for x in alphas]
        metrics |= {("loss", x): loss for x, loss in zip(alphas, curve, strict=True)}
        metrics["barrier", None] = barrier(alphas, curve)
        metrics["loss_average", None] = curve[points // 2]
        # 3) merge
        unaligned = merge([b, a_here], [None, r]).in_coordinates_of(1)
        metrics["loss_unaligned", None] = heldout_loss(unaligned, batches)
        if base is not None:
            to_b = next(moving_base)
            for scaling in scalings:
                summed = task_arithmetic(a_here, b, base, r, to_b, scaling)
                metrics["loss_task_arithmetic", scaling] = heldout_loss(summed.model, batches)
        by_plant.append(metrics)
    rows = [_row(metric, at, fmean(m[metric, at] for m in by_plant)) for metric, at in by_plant[0]]
    if len(by_plant) > 1:
        spread = stdev(metrics["barrier", None] for metrics in by_plant)
        rows.append({"metric": "barrier_plants_sd", "value": spread})
    return rows


def check_points(points: Any) -> None:
    """Check that ``points`` is odd and at least 3, so that both ends and the middle are among them.

    Raises:
        ValueError: it is not.
    """
    if type(points) is not int or points < 3 or points % 2 == 0:
        raise ValueError(f"points={points!r} on the line; allowed: an odd whole number from 3")


def barrier(alphas: Sequence[float], losses: Sequence[float]) -> float:
    """Return the largest excess of ``losses`` over the straight line between the first and the last."""
    first, last = losses[0], losses[-1]
    # written as first + α·(last − first): where the ends are equal, this is exactly their loss
    return max(loss - (first + x * (last - first)) for x, loss in zip(alphas, losses, strict=True))


def task_arithmetic(a: Any, b: Any, base: Any, r: Element, base_r: Element, scaling: float) -> Merged:
    """Return base + scaling · (A' − base + B − base) in B's coordinates.

    Args:
        a: model A.
        b: model B.
        base: their common base.
        r: gauge from A to B.
        base_r: gauge from the base to B.
        scaling: factor of the summed task vectors.
    """
    return merge([b, a], [None, r], method="task_arithmetic", base=base, base_gauge=base_r, scaling=scaling)


def reorder_at_random(a: Any, planted: str, seed: int) -> tuple[Any, dict[str, Reordering]]:
    """Reorder the neurons (and heads) of a model at random, which keeps its function.

    Args:
        a: the model.
        planted: one of ``PLANTED_REORDERINGS``.
        seed: seed of the reorderings.

    Returns:
        The reordered model, and the reorderings of ``neurons`` and ``heads`` (identities where nothing is
        planted).

    Raises:
        ValueError: unknown ``planted``.
    """
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
    """Put the neurons and heads of A in the order of those of B that they match.

    Args:
        a: model A.
        b: model B.
        r: gauge from A to B; neurons and heads are compared after this move.
        matched: one of ``MATCHED_REORDERINGS``.

    Returns:
        The reordered A, still in its own coordinates, and the reorderings by kind.

    Raises:
        ValueError: unknown ``matched``.
    """
    if matched not in MATCHED_REORDERINGS:
        raise ValueError(f"matched={matched!r}; allowed: {', '.join(MATCHED_REORDERINGS)}")
    reorderings: dict[str, Reordering] = {}
    if matched != "none":
        moved = transport_model(a, r)
        if matched in ("neurons", "both"):
            reorderings["neurons"] = match_neurons(moved, b)
        if matched in ("heads", "both"):
            reorderings["heads"] = match_heads(moved, b)
        for reordering in reorderings.values():  # they commute with r, because they act on other axes
            a = reordering.apply(a)
    return a, reorderings


def share_in_same_place(recovered: Reordering, truth: Reordering) -> float:
    """Return the share of neurons or heads, over all blocks, that both reorderings take from one place."""
    pairs = zip(recovered.blocks, truth.blocks, strict=True)
    return float(torch.cat([(g.perm == h.perm) for g, h in pairs]).double().mean())


def _row(metric: str, at: float | None, value: float) -> Row:
    row: Row = {"metric": metric, "value": value}
    if at is not None:
        row["scaling" if metric == "loss_task_arithmetic" else "alpha"] = at
    return row
