"""The four operational bars of paper B (section 2): what each measures, its threshold, and what a value is called.

B: behaviour, nats per prediction. P: parameters, largest mean squared difference of a tensor. C and Pr: Pearson correlation
of predicted with measured effects of patches and of ablations.
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

from gaugeport.models.dyck import DyckModel, by_head, losses, wide
from gaugeport.pipeline.rotation.toy import strings
from gaugeport.utils.seeds import derive

BATCH = 256
"""Rows of one forward pass, and of one draw of held-out strings."""


@dataclass(frozen=True)
class Thresholds:
    """What a bar has to clear: ``b`` nats and ``p`` mean squared error at most, ``c`` and ``pr`` correlation at least.

    ``near`` is the factor by which a bar may miss and still be called a near miss (of 1 − r for correlations). Raises
    ``ValueError`` naming a threshold of the wrong sign or size. The text lost most of them: PAPER_CLAIMS says which were
    inferred.
    """

    b: float = 1e-4
    p: float = 1e-4
    c: float = 0.99
    pr: float = 0.99
    near: float = 10.0

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                raise ValueError(f"threshold {name}={value!r}; allowed: a finite number")
        for name in ("b", "p"):
            if not getattr(self, name) > 0:
                raise ValueError(
                    f"threshold {name}={getattr(self, name)}; allowed: a positive number, a bar stays below it"
                )
        for name in ("c", "pr"):
            if not 0 < getattr(self, name) < 1:
                raise ValueError(
                    f"threshold {name}={getattr(self, name)}; allowed: a correlation between 0 and 1"
                )
        if not self.near >= 1:
            raise ValueError(f"threshold near={self.near}; allowed: a factor of at least 1")

    def status(self, bar: str, value: float) -> str:
        """``PASS``, ``NEAR-MISS`` or ``FAIL`` of a bar's value (NaN: ``FAIL``)."""
        limit = float(getattr(self, bar))
        miss, allowed = (1 - value, 1 - limit) if bar in ("c", "pr") else (value, limit)
        return "PASS" if miss <= allowed else "NEAR-MISS" if miss <= self.near * allowed else "FAIL"


def heldout_batches(
    samples: int, longest: int, rows: int, seed: int
) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """``samples`` held-out rows, the splits in turn, in batches ``(split, rows)`` that no other seed shares.

    No split gives more than one batch more than another.
    """
    left, k = samples, 0
    while left > 0:
        split, size = strings.SPLITS[k % len(strings.SPLITS)], min(BATCH, left)
        yield split, strings.heldout(split, size, longest, rows, derive(seed, "bar", k))
        left, k = left - size, k + 1


@torch.no_grad()
def bar_b(
    models: Mapping[str, DyckModel], batches: Iterator[tuple[str, dict[str, Tensor]]]
) -> list[dict[str, Any]]:
    """−log p of the true label in nats, mean over sample, position (padding excluded) and head, of each named model.

    Rows: ``bar_b``; by ``head`` (``bar_b_head``); by ``split`` (``bar_b_split``); over the first ``samples``, doubling
    (``bar_b_after``), which says whether the number has settled. Column ``variant`` is the model's name.
    """

    def per_position(rows: dict[str, Tensor]) -> dict[str, Tensor]:
        streams: dict[int, Tensor] = {}  # a decoy's stream is its model's: computed once
        found = {}
        for name, model in models.items():
            trunk = id(model.model)
            if trunk not in streams:
                streams[trunk] = model.model(rows["input_ids"]).last_hidden_state
            found[name] = losses(model.unembed(streams[trunk]), rows["labels"])
        return found

    return _running(tuple(models), per_position, batches)


@torch.no_grad()
def divergence(
    first: DyckModel, second: DyckModel, batches: Iterator[tuple[str, dict[str, Tensor]]]
) -> list[dict[str, Any]]:
    """KL(first ‖ second) in nats of what two models predict, in the rows of :func:`bar_b`: its cross-seed form.

    Forward: unbounded where the second gives no mass to what the first prefers (section 2.1).
    """

    def per_position(rows: dict[str, Tensor]) -> dict[str, Tensor]:
        pairs = zip(
            by_head(first(rows["input_ids"]).logits), by_head(second(rows["input_ids"]).logits), strict=True
        )
        parts = []
        for p, q in pairs:
            log_p = wide(p).log_softmax(-1)
            parts.append((log_p.exp() * (log_p - wide(q).log_softmax(-1))).sum(-1))
        return {"real": torch.stack(parts, -1).masked_fill(rows["labels"] == strings.IGNORED, 0.0)}

    return _running(("real",), per_position, batches)


def decoy(model: DyckModel) -> DyckModel:
    """``model`` with another depth unembedding, its rows averaged in pairs (0 with 1, 2 with 3, …): section 6.

    All else is shared with ``model``, not copied.
    """
    fake = copy.copy(model)
    fake._modules = {**model._modules, "depth_head": copy.deepcopy(model.depth_head)}
    with torch.no_grad():
        weight: Any = fake.depth_head.weight
        pairs = len(weight) // 2 * 2
        weight[:pairs] = (
            weight[:pairs].unflatten(0, (-1, 2)).mean(1, keepdim=True).expand(-1, 2, -1).flatten(0, 1)
        )
    return fake


def pearson(predicted: Sequence[float], measured: Sequence[float]) -> float:
    """Correlation of two lists of effects; NaN where one of them is constant."""
    if np.ptp(predicted) == 0 or np.ptp(measured) == 0:
        return float("nan")
    return float(np.corrcoef(predicted, measured)[0, 1])


def _running(
    names: Sequence[str],
    measure: Callable[[dict[str, Tensor]], Mapping[str, Tensor]],
    batches: Iterator[tuple[str, dict[str, Tensor]]],
) -> list[dict[str, Any]]:
    """Means of ``measure(rows)[name]`` [b, t, heads] over all batches, in the rows that :func:`bar_b` describes."""
    nothing = torch.zeros(len(strings.HEADS), dtype=torch.float64)
    sums = {(name, split): nothing.clone() for name in names for split in strings.SPLITS}
    counts = dict.fromkeys(strings.SPLITS, 0)
    found: list[dict[str, Any]] = []
    seen, next_mark = 0, BATCH * len(strings.SPLITS)
    for split, rows in batches:
        for name, values in measure(rows).items():
            sums[name, split] += values.double().sum((0, 1)).cpu()
        counts[split] += int((rows["labels"][..., 0] != strings.IGNORED).sum())
        seen += len(rows["labels"])
        if seen >= next_mark:
            next_mark *= 2
            for name in names:
                total = sum((sums[name, s] for s in strings.SPLITS), nothing) / sum(counts.values())
                found.append(
                    {"metric": "bar_b_after", "variant": name, "samples": seen, "value": float(total.mean())}
                )
    for name in names:
        total = sum((sums[name, s] for s in strings.SPLITS), nothing) / sum(counts.values())
        found.append({"metric": "bar_b", "variant": name, "samples": seen, "value": float(total.mean())})
        for head, value in zip(strings.HEADS, total.tolist(), strict=True):
            found.append({"metric": "bar_b_head", "variant": name, "head": head, "value": value})
        for split in (s for s in strings.SPLITS if counts[s]):
            value = float((sums[name, split] / counts[split]).mean())
            found.append({"metric": "bar_b_split", "variant": name, "split": split, "value": value})
    return found
