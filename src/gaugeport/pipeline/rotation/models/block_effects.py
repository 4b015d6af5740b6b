"""Measure what mean-ablating a block of a language model costs, and predict it (b3; paper B, appendix D).

Two things are called a block's ablation, and the tables have both:

- ``stream``: the whole residual stream behind the block is clamped to its mean, so that nothing of the text
  gets past it;
- ``update``: what the block adds to the stream, attention and MLP together, is clamped to its mean. This is
  the analogue of the toy's components (:mod:`gaugeport.pipeline.rotation.toy.effects`).

The paper does not say which it means. Its effects, 5.1 to 6.0 nats at every one of six layers, are what
losing all of the text costs, wherever it is lost; behind the first block, one update of many costs little. So
the paper is taken to mean ``stream``.

Means are over positions and sequences, with the first token, with massive tokens where there are any (none in
the models of the tables) and without padding. Only the ablated block is
put on the path from its mean to its clean value; what is before it runs clean, what is behind it responds.
The loss is next-token cross-entropy in nats, in float32 or wider whatever the model runs in.
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
from gaugeport.streams.interventions import Edit, edited
from gaugeport.utils.precision import at_least_float32

ABLATED = ("stream", "update")
"""What of a block is clamped to its mean; the first is taken to be the paper's."""

TOKENS_PER_PASS = 2048
"""A pass stacks points of a path up to so many tokens; one point is never split."""

Batch = Mapping[str, Tensor]
"""``input_ids`` and, where there is padding, ``attention_mask``: int64[b, t] each."""


@torch.no_grad()
def mean_streams(model: nn.Module, chart: Chart, batches: Sequence[Batch]) -> dict[str, Tensor]:
    """Return the mean stream at every site, float64[d], over all tokens but padding.

    Args:
        model: A language model in evaluation mode.
        chart: Its chart.
        batches: Rows of token ids.

    Raises:
        ValueError: The model is in training mode, or there are no tokens.
    """
    _check(model)
    sites = all_sites(len(chart.blocks(model)))
    sums: dict[str, Tensor] = {}
    tokens = 0
    for batch in batches:
        ids, mask = _inputs(model, batch)
        streams, _ = _run_clean(model, chart, ids, mask)
        for site in sites:
            total = streams[site][mask > 0].double().sum(0)
            sums[site] = sums[site] + total if site in sums else total
        tokens += int((mask > 0).sum())
    if not tokens:
        raise ValueError("no tokens to take means over; allowed: batches with tokens that are not padding")
    return {site: total / tokens for site, total in sums.items()}


@torch.no_grad()
def cross_entropy(model: nn.Module, batches: Sequence[Batch]) -> float:
    """Return the mean next-token loss in nats over the targets of ``batches`` that are not padding.

    Raises:
        ValueError: The model is in training mode, or there are no targets.
    """
    _check(model)
    total, targets = 0.0, 0
    for batch in batches:
        ids, mask = _inputs(model, batch)
        total += float(_summed_loss(model, ids, mask))
        targets += _count_targets(mask)
    return total / _at_least_one(targets)


@torch.no_grad()
def measure_effects(
    model: nn.Module,
    chart: Chart,
    batches: Sequence[Batch],
    mean: Mapping[str, Tensor],
    ablated: str = "stream",
) -> dict[str, float]:
    """Measure the rise of the mean loss in nats when one block at a time is ablated.

    Args:
        model: A language model in evaluation mode.
        chart: Its chart.
        batches: Rows of token ids.
        mean: Site -> mean stream, as :func:`mean_streams` returns it.
        ablated: What is clamped to its mean, one of :data:`ABLATED`.

    Returns:
        Block (``block0`` …) -> rise.

    Raises:
        ValueError: ``ablated`` is unknown, the model is in training mode, or there are no targets.
    """
    _check(model, ablated)
    rises, targets = dict.fromkeys(_blocks(model, chart), 0.0), 0
    for batch in batches:
        ids, mask = _inputs(model, batch)
        streams, before = _run_clean(model, chart, ids, mask)
        for block in rises:
            value = _ablated_stream(streams, mask, mean, block, ablated).to(streams[block].dtype)
            with edited(model, chart, block, _replace_by(value)):
                rises[block] += float(_summed_loss(model, ids, mask) - before)
        targets += _count_targets(mask)
    return {block: rise / _at_least_one(targets) for block, rise in rises.items()}


def attribution_patching(
    model: nn.Module,
    chart: Chart,
    batches: Sequence[Batch],
    mean: Mapping[str, Tensor],
    ablated: str = "stream",
) -> dict[str, float]:
    """Predict :func:`measure_effects`, of the same arguments, from the gradient of the clean run alone."""
    return _predict(model, chart, batches, mean, ablated, positions=[1.0])


def integrated_gradients(
    model: nn.Module,
    chart: Chart,
    batches: Sequence[Batch],
    mean: Mapping[str, Tensor],
    ablated: str = "stream",
    points: int = PATH_POINTS,
) -> dict[str, float]:
    """Predict :func:`measure_effects`, of the same arguments, from the gradients at midpoints of the path.

    The prediction tends to the effects as the points grow (completeness), down to the rounding of the model's
    precision.

    Args:
        model: A language model in evaluation mode.
        chart: Its chart.
        batches: Rows of token ids.
        mean: Site -> mean stream.
        ablated: One of :data:`ABLATED`.
        points: Number of midpoints.

    Raises:
        ValueError: ``points`` is below 1; or as :func:`measure_effects`.
    """
    return _predict(model, chart, batches, mean, ablated, midpoints(points))


def _predict(
    model: nn.Module,
    chart: Chart,
    batches: Sequence[Batch],
    mean: Mapping[str, Tensor],
    ablated: str,
    positions: Sequence[float],
) -> dict[str, float]:
    """Return the mean over ``positions`` (0: mean, 1: clean) of the loss's slope to the mean, by block."""
    _check(model, ablated)
    slopes, targets = dict.fromkeys(_blocks(model, chart), 0.0), 0
    for batch in batches:
        ids, mask = _inputs(model, batch)
        with torch.no_grad():
            streams, _ = _run_clean(model, chart, ids, mask)
        points_per_pass = max(1, TOKENS_PER_PASS // ids.numel())
        for block in slopes:
            # 1) the two ends of the path
            clean = at_least_float32(streams[block])
            end = _ablated_stream(streams, mask, mean, block, ablated)
            towards_end = end - clean
            # 2) the gradients on it; several points are stacked to one larger batch
            for part in torch.tensor(positions).to(clean).split(points_per_pass):
                path = end - part.view(-1, 1, 1, 1) * towards_end
                value = path.flatten(0, 1).to(streams[block].dtype).requires_grad_(True)
                rows = (x.repeat(len(part), 1) for x in (ids, mask))
                with (
                    _parameters_fixed(model),
                    edited(model, chart, block, _replace_by(value)),
                ):
                    (gradient,) = torch.autograd.grad(_summed_loss(model, *rows), value)
                slopes[block] += float((gradient.double().view_as(path) * towards_end.double()).sum())
        targets += _count_targets(mask)
    return {block: slope / len(positions) / _at_least_one(targets) for block, slope in slopes.items()}


def _replace_by(value: Tensor) -> Edit:
    return lambda _: value


def _blocks(model: nn.Module, chart: Chart) -> list[str]:
    """Return the sites behind each block, without the embedding."""
    return all_sites(len(chart.blocks(model)))[1:]


def _ablated_stream(
    streams: Mapping[str, Tensor], mask: Tensor, mean: Mapping[str, Tensor], block: str, ablated: str
) -> Tensor:
    """Return what ``block`` hands on when ablated, [b, t, d] in float32 or wider; padding as it was."""
    clean, sites = at_least_float32(streams[block]), list(streams)
    if ablated == "stream":
        value = mean[block].to(clean).expand_as(clean)
    else:
        before = sites[sites.index(block) - 1]
        value = at_least_float32(streams[before]) + (mean[block] - mean[before]).to(clean)
    return torch.where(mask.unsqueeze(-1) > 0, value, clean)


def _run_clean(model: nn.Module, chart: Chart, ids: Tensor, mask: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """Return every site's stream in order of depth, and the summed loss."""
    sites = all_sites(len(chart.blocks(model)))
    with record_streams(model, chart, sites) as streams:
        loss = _summed_loss(model, ids, mask)
    return {site: streams[site] for site in sites}, loss


def _summed_loss(model: nn.Module, ids: Tensor, mask: Tensor) -> Tensor:
    """Return next-token cross-entropy in nats, float64, summed over the targets that are not padding."""
    logits = at_least_float32(model(input_ids=ids, attention_mask=mask, use_cache=False).logits[:, :-1])
    losses = functional.cross_entropy(logits.transpose(1, 2), ids[:, 1:], reduction="none")
    return losses.double()[_is_target(mask)].sum()


def _is_target(mask: Tensor) -> Tensor:
    return (mask[:, 1:] > 0) & (mask[:, :-1] > 0)


def _count_targets(mask: Tensor) -> int:
    return int(_is_target(mask).sum())


def _at_least_one(targets: int) -> int:
    if not targets:
        raise ValueError("no tokens to predict; allowed: rows of two tokens or more, padding not counted")
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
            "the model is in training mode, where dropout changes the loss; allowed: model.eval()"
        )


@contextmanager
def _parameters_fixed(model: nn.Module) -> Iterator[None]:
    """Ask for no gradient of parameters, so that a pass keeps nothing from before the edited block."""
    learned = [p for p in model.parameters() if p.requires_grad]
    for p in learned:
        p.requires_grad_(False)
    try:
        yield
    finally:
        for p in learned:
            p.requires_grad_(True)
