"""The three steering vectors of a Dyck-3 model (paper B, section 8.6), and the model run on from any residual site.

A vector is the difference of mean streams at one site between two classes of brackets. Its effect is measured under the
output head that it concerns, at certain brackets of held-out strings; a string is a unit, its value the mean over its
brackets measured. ``accuracy`` is that of the same head at the same brackets.

The paper does not say more than the vectors' names. Ours: ``depth_shift``, brackets of depth above 4 minus below; effect: the
expected depth, in levels, at all brackets. ``invalid_suppression``, valid minus invalid brackets; effect: the log-odds of
valid, at invalid brackets. ``closer_signal``, closers minus openers; effect: the log-odds of closers over openers under
the token head, at openers (it predicts the token itself, section 4.2).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gaugeport.models.dyck import DyckModel, by_head, wide
from gaugeport.pipeline.rotation.features.regimes import Measure
from gaugeport.pipeline.rotation.lenses.dictionaries import value_at
from gaugeport.pipeline.rotation.lenses.rows import ROWS_AT_ONCE
from gaugeport.pipeline.rotation.toy import strings
from gaugeport.pipeline.rotation.toy.components import run

MIDDLE = strings.MAX_DEPTH // 2
MEANINGFUL = 9
"""Ids of the token head that have a meaning; its other rows are never right."""


@dataclass(frozen=True)
class ToyVector:
    """``classes`` are the labels of ``head`` moved towards and away from; ``measured`` those of the brackets steered.

    ``effect`` takes the head's logits [..., classes] to what the vector is to raise.
    """

    name: str
    head: str
    classes: tuple[Sequence[int], Sequence[int]]
    measured: Sequence[int]
    effect: Callable[[Tensor], Tensor]


OPENERS, CLOSERS = (range(first, first + strings.FAMILIES) for first in (strings.OPEN, strings.CLOSE))
DEPTHS = range(strings.MAX_DEPTH + 1)


def _expected_depth(z: Tensor) -> Tensor:
    return z.softmax(-1) @ torch.arange(len(DEPTHS), dtype=z.dtype)


def _closing(z: Tensor) -> Tensor:
    return z[..., list(CLOSERS)].logsumexp(-1) - z[..., list(OPENERS)].logsumexp(-1)


VECTORS = (
    ToyVector("depth_shift", "depth", (DEPTHS[MIDDLE + 1 :], DEPTHS[:MIDDLE]), DEPTHS, _expected_depth),
    ToyVector("invalid_suppression", "valid", ((0,), (1,)), (1,), lambda z: z[..., 0] - z[..., 1]),
    ToyVector("closer_signal", "token", (CLOSERS, OPENERS), OPENERS, _closing),
)


def sites(model: DyckModel) -> list[str]:
    """The residual sites behind the first component: what enters layer 0 is no model's own work in cohort A."""
    return [f"resid_{place}_{n}" for n in range(model.config.num_hidden_layers) for place in ("mid", "post")]


def onward(model: DyckModel, site: str, x: Tensor) -> Tensor:
    """The logits [b, t, 51] of ``model`` when its stream at ``site`` (``resid_pre_0`` … ``resid_post_1``) is ``x`` [b, t, d].

    Raises ``ValueError`` for a site that the model does not have.
    """
    place, _, number = site.rpartition("_")
    layers: Any = model.model.layers
    if place not in ("resid_pre", "resid_mid", "resid_post") or number not in map(str, range(len(layers))):
        raise ValueError(
            f"unknown site {site!r}; allowed: resid_pre, resid_mid or resid_post, then _0 to _{len(layers) - 1}"
        )
    n = int(number)
    if place == "resid_mid":
        x = x + layers[n].mlp(layers[n].post_attention_layernorm(x))
    for layer in layers[n if place == "resid_pre" else n + 1 :]:
        x = layer(x)
    return model.unembed(model.model.norm(x))


def brackets(rows: Mapping[str, Tensor], head: str, classes: Sequence[int]) -> Tensor:
    """Where in ``rows`` (:func:`strings.rows`) brackets stand whose label of ``head`` is one of ``classes``: bool[b, t]."""
    ids, labels = rows["input_ids"], rows["labels"][..., strings.HEADS.index(head)]
    return (strings.is_open(ids) | strings.is_close(ids)) & torch.isin(labels, torch.tensor(list(classes)))


@torch.no_grad()
def vectors_at(
    model: DyckModel, rows: Mapping[str, Tensor], at: Sequence[str]
) -> dict[str, tuple[dict[str, Tensor], float]]:
    """Site -> vector name -> difference of class means, float32[d], and the mean length of the stream there.

    That is taken over all tokens but padding. Raises ``ValueError`` naming a vector for which ``rows`` hold no bracket of
    one class.
    """
    masks = [[brackets(rows, v.head, c) for c in v.classes] for v in VECTORS]
    for v, both in zip(VECTORS, masks, strict=True):
        if not all(bool(m.any()) for m in both):
            raise ValueError(
                f"{len(masks[0][0])} strings have no two classes of brackets for {v.name}; draw more"
            )
    kept = rows["input_ids"] != strings.PAD
    width = model.config.hidden_size
    sums = {site: torch.zeros(len(VECTORS), 2, width, dtype=torch.float64) for site in at}
    lengths = dict.fromkeys(at, 0.0)
    for part in torch.arange(len(kept)).split(ROWS_AT_ONCE):
        wrote = run(model, rows["input_ids"][part]).wrote
        for site in at:
            x = value_at(model, wrote, site)
            lengths[site] += float(x.norm(dim=-1)[kept[part]].double().sum()) / int(kept.sum())
            for k, both in enumerate(masks):
                for side, mask in enumerate(both):
                    sums[site][k, side] += x[mask[part]].double().sum(0) / int(mask.sum())
    found = {}
    for site in at:
        differences = (sums[site][:, 0] - sums[site][:, 1]).float()
        found[site] = {v.name: d for v, d in zip(VECTORS, differences, strict=True)}, lengths[site]
    return found


@torch.no_grad()
def measures(
    model: DyckModel, rows: Mapping[str, Tensor], at: Sequence[str]
) -> Iterator[tuple[str, str, Measure]]:
    """Site, vector name, and what adding something there does to the vector's ``effect`` and to the head's ``accuracy``.

    Units are the strings of ``rows`` that have a bracket to measure at.
    """
    wrote = run(model, rows["input_ids"]).wrote
    for site in at:
        x = value_at(model, wrote, site)
        for v in VECTORS:
            mask = brackets(rows, v.head, v.measured)
            some = mask.any(1)
            yield site, v.name, _measure(model, site, v, x[some], rows["labels"][some], mask[some])


def readers(model: Any) -> list[Tensor]:
    """What every head reads the stream with, [rows, d], behind the final norm's gains; of tokens those with a meaning."""
    gain = model.model.norm.weight.detach().double()
    weights = (model.lm_head.weight[:MEANINGFUL], model.depth_head.weight, model.valid_head.weight)
    return [w.detach().double() * gain for w in weights]


def _measure(model: DyckModel, site: str, v: ToyVector, x: Tensor, labels: Tensor, mask: Tensor) -> Measure:
    k, count = strings.HEADS.index(v.head), mask.sum(1)
    target = labels[..., k]

    def mean(values: Tensor) -> Tensor:
        return (values.double() * mask).sum(1) / count

    @torch.no_grad()
    def measured(added: Tensor) -> dict[str, Tensor]:
        z = wide(by_head(onward(model, site, x + added))[k])
        return {"effect": mean(v.effect(z)), "accuracy": mean(z.argmax(-1) == target)}

    return measured
