"""Estimate Bars C and Pr from a sample of components, and its error against all of them.

Paper B, section 10, leaves open what to do where a model has too many components to ablate each. Predictions
come for all components from one path of gradients; only measured effects cost a pass each. So components may
be drawn with probabilities that rest on predictions, and weighted back.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from gaugeport.pipeline.rotation.toy.components import Edge

Row = dict[str, Any]

DESIGNS = ("uniform", "by_size")
"""``uniform``: every component is as likely. ``by_size``: half of the probability is uniform, half goes with
how far a prediction is from the mean prediction, because few components carry most of the correlation."""

DRAWS = 500
"""Samples that an error is measured over."""


def probabilities(predicted: Tensor, design: str) -> Tensor:
    """Return each component's probability in one draw, float64[components].

    Raises:
        ValueError: The design is unknown.
    """
    uniform = torch.full_like(predicted, 1 / len(predicted))
    if design == "uniform":
        return uniform
    if design != "by_size":
        raise ValueError(f"design {design!r}; allowed: {', '.join(DESIGNS)}")
    size = (predicted - predicted.mean()).abs()
    return uniform if not size.sum() else uniform / 2 + size / size.sum() / 2


def sampled_pearson(predicted: Tensor, measured: Tensor, drawn: Tensor, probability: Tensor) -> float:
    """Estimate the correlation over all components from some that were drawn with replacement.

    Moments are Hansen and Hurwitz's: a component that is drawn counts 1 / its probability.

    Args:
        predicted: Effects of all components, float64[components].
        measured: The same; only those of ``drawn`` are read.
        drawn: Indices that were drawn, int64[n].
        probability: Of each component in one draw, float64[components].

    Returns:
        The estimate, NaN where all that was drawn is alike on one side.
    """
    weight = 1 / probability[drawn]
    weight = weight / weight.sum()
    x, y = (v[drawn] - (weight * v[drawn]).sum() for v in (predicted, measured))
    scale = ((weight * x * x).sum() * (weight * y * y).sum()).sqrt()
    return float((weight * x * y).sum() / scale) if scale > 0 else float("nan")


def sampling_rows(
    predicted: Mapping[Edge, float], measured: Mapping[Edge, float], gen: torch.Generator
) -> Iterator[Row]:
    """Yield the root mean square error of a bar by design and sample size, against all components.

    Args:
        predicted: Effects by component or edge.
        measured: Effects of at least the same.
        gen: Source of the samples.

    Yields:
        Rows ``sampling_error`` and ``undefined_share`` (of samples that are alike on one side) with
        ``design`` and ``sample``, the number of draws: 8, 16, … up to the number of components.
    """
    x = torch.tensor(list(predicted.values()), dtype=torch.float64)
    y = torch.tensor([measured[edge] for edge in predicted], dtype=torch.float64)
    whole = sampled_pearson(x, y, torch.arange(len(x)), probabilities(x, "uniform"))
    for design in DESIGNS:
        p, n = probabilities(x, design), 8
        while n <= len(x):
            samples = torch.multinomial(p, DRAWS * n, replacement=True, generator=gen).view(DRAWS, n)
            errors = torch.tensor([sampled_pearson(x, y, drawn, p) - whole for drawn in samples])
            at = {"design": design, "sample": n}
            kept = errors[~errors.isnan()]
            if len(kept):
                yield {"metric": "sampling_error", "value": float(kept.square().mean().sqrt()), **at}
            yield {"metric": "undefined_share", "value": 1 - len(kept) / DRAWS, **at}
            n *= 2
