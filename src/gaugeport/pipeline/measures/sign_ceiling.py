"""The sign ceiling: raw matching's index accuracy against the share p of positive signs in the true gauge (a2).

With decorrelated coordinates the true partner's raw correlation is positive only on the share p of positive signs; on
the rest the raw objective does better with a wrong partner. |C| does not see the signs (paper A, abstract).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from gaugeport.alignment.matchers import match
from gaugeport.alignment.moments import MomentStream
from gaugeport.groups import SignedPermutation
from gaugeport.pipeline.measures.conditions import gauge_accuracy
from gaugeport.utils.seeds import generator

Row = dict[str, Any]

ACTIVATIONS = ("decorrelated", "correlated", "real", "real_whitened")
"""Synthetic, or the base model's against those of run A's first checkpoint at block L/2; as they are or whitened."""


def plant_with_positive_share(d: int, p: float, gen: torch.Generator) -> SignedPermutation:
    """A random permutation with exactly ``round(p·d)`` positive signs, at random places."""
    sign = torch.full((d,), -1)
    sign[torch.randperm(d, generator=gen)[: round(p * d)]] = 1
    return SignedPermutation(torch.randperm(d, generator=gen), sign)


def synthetic_activations(
    d: int, tokens: int, correlated: bool, noise: float, gen: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Paired activations float32[tokens, d]: one signal, independent noise of ``noise`` standard deviations on each.

    Decorrelated coordinates are independent; correlated ones are random mixtures of d independent sources with
    weights decaying as 1/rank, so that a handful of directions is shared by all coordinates.
    """
    signal = torch.randn(tokens, d, generator=gen)
    if correlated:
        decay = torch.arange(1, d + 1, dtype=torch.float32).reciprocal()
        signal = (signal * decay) @ torch.linalg.qr(torch.randn(d, d, generator=gen)).Q
        signal = signal / signal.std(0)
    return tuple(signal + noise * torch.randn(tokens, d, generator=gen) for _ in range(2))  # type: ignore[return-value]


def whiten(x: Tensor) -> Tensor:
    """ZCA-whitened rows: decorrelated coordinates that stay as near the original ones as they can (float64 inside)."""
    x = x.to(torch.float64) - x.to(torch.float64).mean(0)
    values, vectors = torch.linalg.eigh(x.T @ x / len(x))
    scale = values.clamp_min(values.max() * 1e-10).rsqrt()
    return (x @ (vectors * scale) @ vectors.T).to(torch.float32)


def sign_ceiling_rows(a: Tensor, b: Tensor, shares: Sequence[float], seed: int) -> list[Row]:
    """Rows ``{p, matcher, metric, value}``: B is given a planted gauge with each share p of positive signs.

    ``a``, ``b`` float[tokens, d] are paired activations in common coordinates. Metrics: ``index_accuracy`` of
    ``hungarian_raw`` (S_d) and ``hungarian_abs`` (B_d), and ``signed_accuracy`` of the latter.
    """
    stream = MomentStream()
    stream.update(a, b)
    c = stream.result().correlation()
    rows: list[Row] = []
    for p in shares:
        plant = plant_with_positive_share(a.shape[1], p, generator(seed, "ceiling", p))
        planted = plant.act(c, axis=0)
        for group, matcher in (("permutation", "hungarian_raw"), ("signed_permutation", "hungarian_abs")):
            found = gauge_accuracy(match(planted, group, matcher).gauge, plant)
            rows += [
                {"p": p, "group": group, "matcher": matcher, "metric": metric, "value": value}
                for metric, value in found.items()
                if metric in ("index_accuracy", "signed_accuracy")
            ]
    return rows
