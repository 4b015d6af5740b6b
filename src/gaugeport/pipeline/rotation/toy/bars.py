"""Measure the four operational bars of paper B (section 2), and judge a value against its threshold.

Bar B (behaviour): nats per prediction. Bar P (parameters): the largest mean squared difference of a tensor.
Bars C and Pr (causal structure, importance): Pearson correlation of predicted with measured effects of
patches and of ablations.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gaugeport.models.dyck import HEADS, IGNORED, DyckModel, by_head, losses
from gaugeport.pipeline.rotation.toy import strings
from gaugeport.utils.precision import at_least_float32
from gaugeport.utils.seeds import derive

Row = dict[str, Any]
Batches = Iterator[tuple[str, dict[str, Tensor]]]
"""Batches of held-out strings, each with the name of its split."""

STRINGS_PER_BATCH = 256
"""Strings in one draw of held-out strings, and in one forward pass over them."""


@dataclass(frozen=True)
class Thresholds:
    """Hold the threshold of every bar.

    Paper B's numbers for them are lost from the text that we have. ``b`` follows from Appendix C, where
    1.74e-4 is called 1.74 times the threshold, and ``c`` from section 3.3, which names 0.99; ``p``, ``pr``
    and ``near`` are ours.

    Raises:
        ValueError: If a threshold has the wrong sign or size, or is not a finite number.
    """

    b: float = 1e-4
    """Nats, at most."""
    p: float = 1e-4
    """Mean squared error, at most."""
    c: float = 0.99
    """Correlation, at least."""
    pr: float = 0.99
    """Correlation, at least."""
    near: float = 10.0
    """Factor by which a bar may be missed and still be a near miss (for correlations, a factor of 1 − r)."""

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                raise ValueError(f"threshold {name}={value!r}; allowed: a finite number")
        for name in ("b", "p"):
            if not getattr(self, name) > 0:
                raise ValueError(f"threshold {name}={getattr(self, name)}; allowed: a positive number")
        for name in ("c", "pr"):
            if not 0 < getattr(self, name) < 1:
                raise ValueError(
                    f"threshold {name}={getattr(self, name)}; allowed: a correlation between 0 and 1"
                )
        if not self.near >= 1:
            raise ValueError(f"threshold near={self.near}; allowed: a factor of at least 1")

    def status(self, bar: str, value: float) -> str:
        """Judge a bar's value.

        Args:
            bar: ``b``, ``p``, ``c`` or ``pr``.
            value: In the unit of that threshold.

        Returns:
            ``PASS``, ``NEAR-MISS`` or ``FAIL``; NaN fails.
        """
        limit = float(getattr(self, bar))
        miss, allowed = (1 - value, 1 - limit) if bar in ("c", "pr") else (value, limit)
        if miss <= allowed:
            return "PASS"
        return "NEAR-MISS" if miss <= self.near * allowed else "FAIL"


def heldout_batches(
    samples: int, longest: int, length: int, seed: int, depth: str = strings.UNMATCHED
) -> Batches:
    """Yield batches of held-out strings, the splits in turn.

    Args:
        samples: Strings in all.
        longest: The longest string of training, in brackets.
        length: Tokens of a row.
        seed: Decides the strings; another seed shares none of the batches.
        depth: The depth label.

    Yields:
        ``(split, rows)``, rows as :func:`.strings.label_rows`.
    """
    remaining, k = samples, 0
    while remaining > 0:
        split, size = strings.SPLITS[k % len(strings.SPLITS)], min(STRINGS_PER_BATCH, remaining)
        yield split, strings.heldout(split, size, longest, length, derive(seed, "bar", k), depth)
        remaining, k = remaining - size, k + 1


@torch.no_grad()
def bar_b(models: Mapping[str, DyckModel], batches: Batches) -> list[Row]:
    """Measure Bar B of several models: −log p of the true label, averaged over strings, positions and heads.

    Padding is excluded. Models that share their stream, as a model and its decoy, run it once.

    Args:
        models: Name -> model. The column ``variant`` of a row is the name.
        batches: Held-out strings (:func:`heldout_batches`).

    Returns:
        Rows in nats: ``bar_b``; ``bar_b_head`` by ``head``; ``bar_b_split`` by ``split``; and ``bar_b_after``
        over the first ``samples`` strings, doubling, which shows whether the number has settled.
    """

    def losses_of_models(rows: dict[str, Tensor]) -> dict[str, Tensor]:
        stream_of: dict[int, Tensor] = {}  # by the identity of the module that computes the stream
        per_model = {}
        for name, model in models.items():
            trunk = id(model.model)
            if trunk not in stream_of:
                stream_of[trunk] = model.model(rows["input_ids"]).last_hidden_state
            per_model[name] = losses(model.unembed(stream_of[trunk]), rows["labels"])
        return per_model

    return _running_means(tuple(models), losses_of_models, batches)


@torch.no_grad()
def divergence(first: DyckModel, second: DyckModel, batches: Batches) -> list[Row]:
    """Measure the cross-seed form of Bar B (section 7): KL(first ‖ second) of what two models predict.

    The divergence is forward: unbounded where ``second`` gives no probability to what ``first`` prefers
    (section 2.1).

    Args:
        first: The specification.
        second: The model compared with it.
        batches: Held-out strings (:func:`heldout_batches`).

    Returns:
        The rows of :func:`bar_b` in nats, with ``real`` as ``variant``.
    """

    def kl_by_head(rows: dict[str, Tensor]) -> dict[str, Tensor]:
        logits = [by_head(model(rows["input_ids"]).logits) for model in (first, second)]
        parts = []
        for p, q in zip(*logits, strict=True):
            log_p = at_least_float32(p).log_softmax(-1)
            parts.append((log_p.exp() * (log_p - at_least_float32(q).log_softmax(-1))).sum(-1))
        return {"real": torch.stack(parts, -1).masked_fill(rows["labels"] == IGNORED, 0.0)}

    return _running_means(("real",), kl_by_head, batches)


def make_decoy(model: DyckModel) -> DyckModel:
    """Make the adversarial decoy of section 6.

    The rows of its depth unembedding are averaged in pairs: 0 with 1, 2 with 3, and so on. All other modules
    are shared with ``model``, not copied.
    """
    decoy = copy.copy(model)
    decoy._modules = {**model._modules, "depth_head": copy.deepcopy(model.depth_head)}
    with torch.no_grad():
        weight: Any = decoy.depth_head.weight
        paired = len(weight) // 2 * 2
        means = weight[:paired].unflatten(0, (-1, 2)).mean(1, keepdim=True)
        weight[:paired] = means.expand(-1, 2, -1).flatten(0, 1)
    return decoy


def pearson(predicted: Sequence[float], measured: Sequence[float]) -> float:
    """Return the correlation of two lists of effects, NaN where one of them is constant."""
    if np.ptp(predicted) == 0 or np.ptp(measured) == 0:
        return float("nan")
    return float(np.corrcoef(predicted, measured)[0, 1])


def _running_means(
    names: Sequence[str],
    measure: Callable[[dict[str, Tensor]], Mapping[str, Tensor]],
    batches: Batches,
) -> list[Row]:
    """Average ``measure(rows)[name]`` float[b, t, heads] over all batches; return rows as :func:`bar_b`."""
    zeros = torch.zeros(len(HEADS), dtype=torch.float64)
    sums = {(name, split): zeros.clone() for name in names for split in strings.SPLITS}
    positions = dict.fromkeys(strings.SPLITS, 0)
    result: list[Row] = []

    def mean_by_head(name: str) -> Tensor:
        return sum((sums[name, s] for s in strings.SPLITS), zeros) / sum(positions.values())

    # 1) add up every batch, with a row of the means so far whenever the number of strings has doubled
    seen, next_mark = 0, STRINGS_PER_BATCH * len(strings.SPLITS)
    for split, rows in batches:
        for name, values in measure(rows).items():
            sums[name, split] += values.double().sum((0, 1)).cpu()
        positions[split] += int((rows["labels"][..., 0] != IGNORED).sum())
        seen += len(rows["labels"])
        if seen >= next_mark:
            next_mark *= 2
            for name in names:
                value = float(mean_by_head(name).mean())
                result.append({"metric": "bar_b_after", "variant": name, "samples": seen, "value": value})
    # 2) the means over everything
    for name in names:
        by_head_mean = mean_by_head(name)
        value = float(by_head_mean.mean())
        result.append({"metric": "bar_b", "variant": name, "samples": seen, "value": value})
        for head, value in zip(HEADS, by_head_mean.tolist(), strict=True):
            result.append({"metric": "bar_b_head", "variant": name, "head": head, "value": value})
        for split in (s for s in strings.SPLITS if positions[s]):
            value = float((sums[name, split] / positions[split]).mean())
            result.append({"metric": "bar_b_split", "variant": name, "split": split, "value": value})
    return result
