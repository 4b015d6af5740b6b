"""Recover the gauge of two models from their weights alone, whatever the order of their neurons and heads.

``align(evidence="weights")`` compares matrices row by row, so it requires that head and neuron axes
correspond. Here nothing is taken for granted but the order of the vocabulary. The residual gauge comes first,
from what no order of neurons or heads touches; then neurons and heads are matched in its coordinates, the
gauge is matched again on all matrices, and so on until nothing changes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gaugeport.alignment.comparable import check_both_tied, check_comparable
from gaugeport.alignment.evidence import weight_evidence
from gaugeport.alignment.matchers import MATCHERS, Match, default_matchers, match
from gaugeport.charts.chart import Chart
from gaugeport.groups import GROUPS, Element, Orthogonal, SignedPermutation, contains
from gaugeport.transport.heads import HEADS, HeadGauge, match_heads
from gaugeport.transport.model import transport_model
from gaugeport.transport.neurons import NeuronGauge, match_neurons
from gaugeport.utils.progress import Progress

MOST_ROUNDS = 20
"""Rounds after which the search ends, settled or not. Models of one base settle in two or three."""


@dataclass(frozen=True, eq=False)
class WeightAlignment:
    """A residual gauge with the order of neurons and heads that it was found with.

    Attributes:
        gauge: The element g with ``g·A ≈ B``.
        neurons: The gauge of A's neurons; apply it to A before or after ``gauge``, which commute.
        heads: The gauge of A's heads; None for a family whose head axes are not declared.
        margin: float64[d], one margin per coordinate of B, in units of the evidence.
        objectives: The objective of the matcher, round by round: the sum of the matched evidence.
        settled: Whether the last round changed nothing.
    """

    gauge: Element
    neurons: NeuronGauge
    heads: HeadGauge | None
    margin: Tensor
    objectives: tuple[float, ...]
    settled: bool


def align_weights(
    model_a: nn.Module,
    model_b: nn.Module,
    token_ids: Tensor | None = None,
    group: str | None = None,
    most_rounds: int = MOST_ROUNDS,
    progress: Progress | None = None,
) -> WeightAlignment:
    """Recover the residual gauge, the order of neurons and the order of heads from weights.

    The models must come from one base; their neurons and heads may then have been reordered, and gated
    neurons may have changed sign. The inner coordinates of heads must be shared.

    Args:
        model_a: Causal language model A.
        model_b: Causal language model B, of the same architecture and width.
        token_ids: int64[n], the vocabulary rows that count as evidence; default all.
        group: Name of the gauge group. Default: the charts' exact group, the smaller one if they differ.
        most_rounds: The search ends after so many rounds.
        progress: Called as ``progress(done, total, what)`` after each matrix, and after each block whose
            neurons or heads are matched, round after round (:mod:`gaugeport.utils.progress`).

    Returns:
        The gauges, with margins and the objective of every round.

    Raises:
        ValueError: If the models cannot be compared, or the group is unknown or has no matcher.
    """
    chart_a, chart_b = check_comparable(model_a, model_b, vocabulary=token_ids is None)
    check_both_tied(chart_a, chart_b, instead=None)
    exact = chart_a.group if contains(chart_b.group, GROUPS[chart_a.group]) else chart_b.group
    group = group or exact
    if group not in default_matchers():
        raise ValueError(f"unknown gauge group {group!r}; allowed: {', '.join(default_matchers())}")
    matcher = default_matchers()[group]
    cross = MATCHERS[matcher].reads_cross_moments

    def matched(evidence: Tensor) -> Match:
        return match(evidence, group, matcher)

    # 1) the residual gauge, from what no order touches
    found = _without_order(model_a, model_b, chart_a, token_ids, cross, matched, most_rounds, progress)
    # 2) neurons and heads in its coordinates, then the gauge from all matrices, until nothing changes
    neurons, heads, objectives, settled = NeuronGauge.identity(model_a), None, [], False
    for _ in range(most_rounds):
        moved = transport_model(model_a, found.gauge, strict=False)
        new_neurons = match_neurons(moved, model_b, progress)
        new_heads = match_heads(moved, model_b, progress) if chart_a.family.name in HEADS else None
        ordered = new_neurons.apply(model_a)
        if new_heads is not None:
            ordered = new_heads.apply(ordered, inplace=True)
        new = matched(weight_evidence(ordered, model_b, token_ids, cross, progress))
        objectives.append(new.objective)
        settled = new.gauge == found.gauge and new_neurons == neurons and _same(new_heads, heads)
        found, neurons, heads = new, new_neurons, new_heads
        if settled:
            break
    return WeightAlignment(found.gauge, neurons, heads, found.margin, tuple(objectives), settled)


def _without_order(
    model_a: nn.Module,
    model_b: nn.Module,
    chart: Chart,
    token_ids: Tensor | None,
    cross: bool,
    matched: Callable[[Tensor], Match],
    most_rounds: int,
    progress: Progress | None,
) -> Match:
    """Match the columns of embedding and unembedding, then these and the Gram matrices of all others.

    The Gram matrix ``WᵀW`` over the hidden axis does not change when rows of W are reordered or change sign.
    A gauge acts on both of its axes, so its rows can be compared once its columns are in shared coordinates:
    in those of the gauge found so far.
    """
    weights_a, weights_b = dict(model_a.named_parameters()), dict(model_b.named_parameters())
    columns, grams, matrices = [], [], list(chart.matrices())
    for done, (name, role, axis) in enumerate(matrices, 1):
        a, b = (w[name].detach().movedim(axis, -1).to(torch.float32) for w in (weights_a, weights_b))
        if role in ("embed", "unembed"):
            if token_ids is not None:
                a, b = a[token_ids], b[token_ids]
            columns.append(_normalised(b, 0, cross).T @ _normalised(a, 0, cross))
        else:
            grams.append((_off_diagonal(a), _off_diagonal(b)))
        if progress is not None:
            progress(done, len(matrices), "reading weights")
    fixed = torch.stack(columns).mean(0).double()
    found = matched(fixed)
    for _ in range(most_rounds):
        g = found.gauge
        assert isinstance(g, SignedPermutation | Orthogonal)
        total = torch.zeros_like(fixed)
        for gram_a, gram_b in grams:
            total += _normalised(gram_b, 1, cross) @ _normalised(g.act(gram_a, 1), 1, cross).T
        new = matched(fixed * len(columns) + total)
        settled, found = new.gauge == found.gauge, new
        if settled:
            break
    return found


def _off_diagonal(w: Tensor) -> Tensor:
    """Return the Gram matrix of the columns of w without its diagonal.

    The diagonal lies where the gauge so far puts it, and would only confirm that gauge.
    """
    gram = w.T @ w
    return gram - torch.diag(gram.diagonal())


def _normalised(w: Tensor, axis: int, cross: bool) -> Tensor:
    return w / w.norm() if cross else torch.nn.functional.normalize(w, dim=axis)


def _same(a: HeadGauge | None, b: HeadGauge | None) -> bool:
    return a is b or (a is not None and b is not None and a == b)
