"""What mean-ablating a block of a language model costs: measured, and predicted from gradients (paper B, appendix D).

Two things are called a block's ablation, and the tables have both. ``stream``: the whole residual stream behind the
block is clamped to its mean, so that nothing of the text gets past it. ``update``: what the block adds to the stream,
attention and MLP together, is clamped to its mean: the analogue of the toy's components
(:mod:`gaugeport.pipeline.rotation.toy.effects`). The paper does not say which it means. Its effects, 5.1 to 6.0 nats at every one of
six layers, are what losing all of the text costs, wherever it is lost; behind the first block, one update of many costs
little. ``stream`` is taken to be what it did.

Means are over positions and sequences, the first token included, padding not. Only the ablated block is put on the path
from its mean to its clean value; what is before it runs clean, what is behind it responds. The loss is next-token
cross-entropy in nats, in float32 or wider whatever the model runs in.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional

from gaugeport.charts import Chart
from gaugeport.pipeline.rotation.toy.effects import PATH_POINTS, midpoints
from gaugeport.streams.activations import all_sites, record_streams
from gaugeport.streams.interventions import edited
from gaugeport.utils.precision import at_least_float32

ABLATED = ("stream", "update")
"""What of a block is clamped to its mean; the first is the paper's."""

TOKENS_AT_ONCE = 2048
"""Of one pass, which stacks that many points of a path; one point is never split."""

Batch = Mapping[str, Tensor]
"""``input_ids`` and, where there is padding, ``attention_mask``: int64 [b, t] each."""


@torch.no_grad()
def mean_streams(model: nn.Module, chart: Chart, batches: Sequence[Batch]) -> dict[str, Tensor]:
    """Site -> the mean stream there, float64[d], over all tokens of ``batches`` but padding.

    Raises ``ValueError`` for a model in training mode, and where there are no tokens.
    """
    _check(model)
    sites = all_sites(len(chart.blocks(model)))
    sums: dict[str, Tensor] = {}
    tokens = 0
    for batch in batches:
        ids, mask = _inputs(model, batch)
        streams, _ = _clean(model, chart, ids, mask)
        for site in sites:
            total = streams[site][mask > 0].double().sum(0)
            sums[site] = sums[site] + total if site in sums else total
        tokens += int((mask > 0).sum())
    if not tokens:
        raise ValueError(
            "no tokens to take means over; allowed: batches of one token or more that is no padding"
        )
    return {site: total / tokens for site, total in sums.items()}


@torch.no_grad()
def cross_entropy(model: nn.Module, batches: Sequence[Batch]) -> float:
    """Mean next-token loss in nats over the targets of ``batches`` that are no padding."""
    _check(model)
    total, targets = 0.0, 0
    for batch in batches:
        ids, mask = _inputs(model, batch)
        total += float(_loss(model, ids, mask))
        targets += _targets(mask)
    return total / _some(targets)


@torch.no_grad()
def measured_effects(
    model: nn.Module,
    chart: Chart,
    batches: Sequence[Batch],
    mean: Mapping[str, Tensor],
    ablated: str = "stream",
) -> dict[str, float]:
    """Block (``block0`` …) -> rise of the mean loss in nats when it is ablated (:data:`ABLATED`) to ``mean``.

    ``mean`` is of :func:`mean_streams`. Raises ``ValueError`` on an unknown ``ablated``, and where nothing is predicted.
    """
    _check(model, ablated)
    rises, targets = dict.fromkeys(all_sites(len(chart.blocks(model)))[1:], 0.0), 0
    for batch in batches:
        ids, mask = _inputs(model, batch)
        streams, before = _clean(model, chart, ids, mask)
        for block in rises:
            clamped = _clamped(streams, mask, mean, block, ablated).to(streams[block].dtype)
            with edited(model, chart, block, lambda _, value=clamped: value):  # type: ignore[misc]
                rises[block] += float(_loss(model, ids, mask) - before)
        targets += _targets(mask)
    return {block: rise / _some(targets) for block, rise in rises.items()}


def attribution_patching(
    model: nn.Module,
    chart: Chart,
    batches: Sequence[Batch],
    mean: Mapping[str, Tensor],
    ablated: str = "stream",
) -> dict[str, float]:
    """The effects of :func:`measured_effects` by the gradient of the clean run alone."""
    return _along(model, chart, batches, mean, ablated, [1.0])


def integrated_gradients(
    model: nn.Module,
    chart: Chart,
    batches: Sequence[Batch],
    mean: Mapping[str, Tensor],
    ablated: str = "stream",
    points: int = PATH_POINTS,
) -> dict[str, float]:
    """The effects of :func:`measured_effects` by the gradients at ``points`` midpoints of the path.

    Tends to them as the points grow (completeness), down to the rounding of the model's precision.

    Raises ``ValueError`` for fewer than one point.
    """
    return _along(model, chart, batches, mean, ablated, midpoints(points))


def _along(
    model: nn.Module,
    chart: Chart,
    batches: Sequence[Batch],
    mean: Mapping[str, Tensor],
    ablated: str,
    points: Sequence[float],
) -> dict[str, float]:
    """Mean over ``points`` (0 the mean, 1 the clean value) of the loss's slope towards the mean, by block."""
    _check(model, ablated)
    slopes, targets = dict.fromkeys(all_sites(len(chart.blocks(model)))[1:], 0.0), 0
    for batch in batches:
        ids, mask = _inputs(model, batch)
        with torch.no_grad():
            streams, _ = _clean(model, chart, ids, mask)
        at_once = max(1, TOKENS_AT_ONCE // ids.numel())
        for block in slopes:
            clean, clamped = at_least_float32(streams[block]), _clamped(streams, mask, mean, block, ablated)
            towards = clamped - clean
            for part in (
                torch.tensor(points).to(clean).split(at_once)
            ):  # several points of the path are one larger batch
                path = clamped - part.view(-1, 1, 1, 1) * towards
                value = path.flatten(0, 1).to(streams[block].dtype).requires_grad_(True)
                rows = (x.repeat(len(part), 1) for x in (ids, mask))
                with _constant(model), edited(model, chart, block, lambda _, value=value: value):  # type: ignore[misc]
                    (gradient,) = torch.autograd.grad(_loss(model, *rows), value)
                slopes[block] += float((gradient.double().view_as(path) * towards.double()).sum())
        targets += _targets(mask)
    return {block: slope / len(points) / _some(targets) for block, slope in slopes.items()}


def _clamped(
    streams: Mapping[str, Tensor], mask: Tensor, mean: Mapping[str, Tensor], block: str, ablated: str
) -> Tensor:
    """What ``block`` hands on when ablated, [b, t, d] in float32 or wider; padding as it was."""
    clean, sites = at_least_float32(streams[block]), list(streams)
    if ablated == "stream":
        value = mean[block].to(clean).expand_as(clean)
    else:
        before = sites[sites.index(block) - 1]
        value = at_least_float32(streams[before]) + (mean[block] - mean[before]).to(clean)
    return torch.where(mask.unsqueeze(-1) > 0, value, clean)


def _clean(model: nn.Module, chart: Chart, ids: Tensor, mask: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """Every site's stream in order of depth, and the summed loss."""
    sites = all_sites(len(chart.blocks(model)))
    with record_streams(model, chart, sites) as streams:
        loss = _loss(model, ids, mask)
    return {site: streams[site] for site in sites}, loss


def _loss(model: nn.Module, ids: Tensor, mask: Tensor) -> Tensor:
    """Next-token cross-entropy in nats, float64, summed over the targets that are no padding."""
    logits = at_least_float32(model(input_ids=ids, attention_mask=mask, use_cache=False).logits[:, :-1])
    losses = functional.cross_entropy(logits.transpose(1, 2), ids[:, 1:], reduction="none")
    return losses.double()[_predicted(mask)].sum()


def _predicted(mask: Tensor) -> Tensor:
    return (mask[:, 1:] > 0) & (mask[:, :-1] > 0)


def _targets(mask: Tensor) -> int:
    return int(_predicted(mask).sum())


def _some(targets: int) -> int:
    if not targets:
        raise ValueError(
            "nothing is predicted in these batches; allowed: rows of two tokens or more, padding not counted"
        )
    return targets


def _inputs(model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
    device = next(model.parameters()).device
    ids = batch["input_ids"].to(device)
    return ids, batch["attention_mask"].to(device) if "attention_mask" in batch else torch.ones_like(ids)


def _check(model: nn.Module, ablated: str = ABLATED[0]) -> None:
    if ablated not in ABLATED:
        raise ValueError(f"ablated={ablated!r}; allowed: {', '.join(ABLATED)}")
    if model.training:
        raise ValueError(
            "the model is in training mode, where dropout is an effect too; allowed: model.eval()"
        )


@contextmanager
def _constant(model: nn.Module) -> Iterator[None]:
    """While open, no parameter asks for a gradient: a pass keeps nothing from before the block that it is edited at."""
    learned = [p for p in model.parameters() if p.requires_grad]
    for p in learned:
        p.requires_grad_(False)
    try:
        yield
    finally:
        for p in learned:
            p.requires_grad_(True)
