"""Build the three steering vectors of a Dyck-3 model and measure what they do (paper B, section 8.6).

A vector is the difference of the mean streams at one site between two classes of brackets. Its effect is
measured under one output head, at certain brackets of held-out strings. The unit is a string: its value is
the mean over the brackets measured. ``accuracy`` is that of the same head at the same brackets.

The paper gives the vectors' names and nothing else. Our definitions:

- ``depth_shift``: brackets of depth above 4 minus those of depth below 4. Effect: the expected depth, in
  levels, at all brackets.
- ``invalid_suppression``: valid minus invalid brackets. Effect: the log-odds of valid, at invalid brackets.
- ``closer_signal``: closers minus openers. Effect: the log-odds of closers over openers under the token head,
  at openers (that head predicts the token itself, section 4.2).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gaugeport.models.dyck import HEADS, MAX_DEPTH, DyckModel, by_head
from gaugeport.pipeline.rotation.features.regimes import Measure
from gaugeport.pipeline.rotation.toy import strings
from gaugeport.pipeline.rotation.toy.components import STRINGS_PER_PASS, run_graph
from gaugeport.pipeline.rotation.toy.sites import run_from_site, value_at
from gaugeport.utils.precision import at_least_float32

MIDDLE_DEPTH = MAX_DEPTH // 2
"""The depth that belongs to neither class of ``depth_shift``."""
MEANINGFUL_TOKENS = 9
"""Ids of the token head that stand for something; no string contains the others."""

OPENERS = range(strings.OPEN, strings.OPEN + strings.FAMILIES)
CLOSERS = range(strings.CLOSE, strings.CLOSE + strings.FAMILIES)
DEPTHS = range(MAX_DEPTH + 1)


@dataclass(frozen=True)
class DyckVector:
    """Declare a steering vector: two classes of brackets, and how its effect is measured."""

    name: str
    head: str
    """The output head whose labels define the classes, and under which the effect is measured."""
    classes: tuple[Sequence[int], Sequence[int]]
    """Labels of the brackets that the vector points to, and of those that it points away from."""
    measured: Sequence[int]
    """Labels of the brackets at which the effect is measured."""
    effect: Callable[[Tensor], Tensor]
    """From the head's logits, float[..., classes], to the quantity that the vector is to raise,
    float[...]."""


def _expected_depth(logits: Tensor) -> Tensor:
    """Return the mean of the depth under the predicted distribution."""
    return logits.softmax(-1) @ torch.arange(len(DEPTHS), dtype=logits.dtype)


def _log_odds_of_valid(logits: Tensor) -> Tensor:
    """Return the log-odds of valid over invalid."""
    return logits[..., 0] - logits[..., 1]


def _log_odds_of_closers(logits: Tensor) -> Tensor:
    """Return the log-odds of any closer over any opener."""
    return logits[..., list(CLOSERS)].logsumexp(-1) - logits[..., list(OPENERS)].logsumexp(-1)


VECTORS = (
    DyckVector(
        "depth_shift", "depth", (DEPTHS[MIDDLE_DEPTH + 1 :], DEPTHS[:MIDDLE_DEPTH]), DEPTHS, _expected_depth
    ),
    DyckVector("invalid_suppression", "valid", ((0,), (1,)), (1,), _log_odds_of_valid),
    DyckVector("closer_signal", "token", (CLOSERS, OPENERS), OPENERS, _log_odds_of_closers),
)


def steering_sites(model: DyckModel) -> list[str]:
    """List the sites of the stream after the first component.

    ``resid_pre_0`` is left out: the models of cohort A share what enters layer 0 (section 4.3).
    """
    return [f"resid_{place}_{n}" for n in range(model.config.num_hidden_layers) for place in ("mid", "post")]


def brackets_labelled(rows: Mapping[str, Tensor], head: str, labels: Sequence[int]) -> Tensor:
    """Find the brackets whose label of one head is among ``labels``.

    Args:
        rows: Labelled strings (:func:`.strings.label_rows`).
        head: One of :data:`gaugeport.models.dyck.HEADS`.
        labels: Labels of that head.

    Returns:
        bool[b, t].
    """
    ids, head_labels = rows["input_ids"], rows["labels"][..., HEADS.index(head)]
    is_bracket = strings.is_open(ids) | strings.is_close(ids)
    return is_bracket & torch.isin(head_labels, torch.tensor(list(labels)))


@torch.no_grad()
def vectors_at(
    model: DyckModel, rows: Mapping[str, Tensor], sites: Sequence[str]
) -> dict[str, tuple[dict[str, Tensor], float]]:
    """Build the vectors at several sites, and measure the length of the stream there.

    Args:
        model: A Dyck-3 model.
        rows: Labelled strings (:func:`.strings.label_rows`).
        sites: Sites of the stream.

    Returns:
        Site -> vector name -> difference of class means, float32[d]; and the mean norm of the stream over all
        tokens that are not padding.

    Raises:
        ValueError: If ``rows`` hold no bracket of one class of a vector.
    """
    masks = [[brackets_labelled(rows, v.head, labels) for labels in v.classes] for v in VECTORS]
    for v, both in zip(VECTORS, masks, strict=True):
        if not all(bool(m.any()) for m in both):
            raise ValueError(
                f"{len(masks[0][0])} strings do not hold brackets of both classes of {v.name}; draw more"
            )
    # 1) sums over classes and mean norms, batch by batch
    kept = rows["input_ids"] != strings.PAD
    width = model.config.hidden_size
    class_means = {site: torch.zeros(len(VECTORS), 2, width, dtype=torch.float64) for site in sites}
    norms = dict.fromkeys(sites, 0.0)
    for part in torch.arange(len(kept)).split(STRINGS_PER_PASS):
        written = run_graph(model, rows["input_ids"][part]).written
        for site in sites:
            x = value_at(model, written, site)
            norms[site] += float(x.norm(dim=-1)[kept[part]].double().sum()) / int(kept.sum())
            for k, both in enumerate(masks):
                for side, mask in enumerate(both):
                    class_means[site][k, side] += x[mask[part]].double().sum(0) / int(mask.sum())
    # 2) differences
    result = {}
    for site in sites:
        differences = (class_means[site][:, 0] - class_means[site][:, 1]).float()
        result[site] = {v.name: d for v, d in zip(VECTORS, differences, strict=True)}, norms[site]
    return result


@torch.no_grad()
def steering_measures(
    model: DyckModel, rows: Mapping[str, Tensor], sites: Sequence[str]
) -> Iterator[tuple[str, str, Measure]]:
    """Yield, for every site and vector, a function that adds a direction there and measures what it does.

    Args:
        model: A Dyck-3 model.
        rows: Labelled strings. Units are those that have a bracket to measure at.
        sites: Sites of the stream.

    Yields:
        Site, vector name, and a function from what is added, float32[d], to ``effect`` and ``accuracy``,
        float64[units].
    """
    written = run_graph(model, rows["input_ids"]).written
    for site in sites:
        x = value_at(model, written, site)
        for v in VECTORS:
            mask = brackets_labelled(rows, v.head, v.measured)
            units = mask.any(1)
            yield site, v.name, _measure(model, site, v, x[units], rows["labels"][units], mask[units])


def output_readers(model: Any) -> list[Tensor]:
    """Return the rows that read the final stream, float64[rows, d] of each head, the norm's gains folded in.

    Of the token head, the rows of :data:`MEANINGFUL_TOKENS`.
    """
    gain = model.model.norm.weight.detach().double()
    weights = (model.lm_head.weight[:MEANINGFUL_TOKENS], model.depth_head.weight, model.valid_head.weight)
    return [w.detach().double() * gain for w in weights]


def _measure(model: DyckModel, site: str, v: DyckVector, x: Tensor, labels: Tensor, mask: Tensor) -> Measure:
    """Make the function that adds a direction to ``x`` at ``site`` and measures the vector's effect."""
    k, brackets_of_unit = HEADS.index(v.head), mask.sum(1)
    target = labels[..., k]

    def mean_over_brackets(values: Tensor) -> Tensor:
        return (values.double() * mask).sum(1) / brackets_of_unit

    @torch.no_grad()
    def measured(added: Tensor) -> dict[str, Tensor]:
        logits = at_least_float32(by_head(run_from_site(model, site, x + added))[k])
        right = logits.argmax(-1) == target
        return {"effect": mean_over_brackets(v.effect(logits)), "accuracy": mean_over_brackets(right)}

    return measured
