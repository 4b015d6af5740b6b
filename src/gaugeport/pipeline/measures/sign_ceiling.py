"""Measure the sign ceiling: accuracy of raw matching by share of positive signs in the gauge (table a2).

With decorrelated coordinates, the raw correlation with the true partner is positive only on the share p of
positive signs; on the rest, a wrong partner scores higher. Matching on absolute correlations ignores signs
(paper A, abstract).
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
"""The first two are synthetic; the others are of the base and run A's first checkpoint, at block L/2."""


def plant_with_positive_share(d: int, p: float, gen: torch.Generator) -> SignedPermutation:
    """Draw a random signed permutation with exactly ``round(p·d)`` positive signs, at random places.

    Args:
        d: width.
        p: share of positive signs, from 0 to 1.
        gen: random generator.
    """
    sign = torch.full((d,), -1)
    sign[torch.randperm(d, generator=gen)[: round(p * d)]] = 1
    return SignedPermutation(torch.randperm(d, generator=gen), sign)


def synthetic_activations(
    d: int, tokens: int, correlated: bool, noise: float, gen: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Draw paired activations: one signal with independent noise on each of the two copies.

    Decorrelated coordinates are independent. Correlated ones are random mixtures of d independent sources
    whose weights decay as 1/rank, so a few directions are shared by all coordinates.

    Args:
        d: width.
        tokens: number of tokens.
        correlated: whether coordinates are correlated.
        noise: standard deviation of the noise; the signal has 1 per coordinate.
        gen: random generator.

    Returns:
        Two tensors, float32[tokens, d].
    """
    signal = torch.randn(tokens, d, generator=gen)
    if correlated:
        decay = torch.arange(1, d + 1, dtype=torch.float32).reciprocal()
        signal = (signal * decay) @ torch.linalg.qr(torch.randn(d, d, generator=gen)).Q
        signal = signal / signal.std(0)
    return tuple(signal + noise * torch.randn(tokens, d, generator=gen) for _ in range(2))  # type: ignore[return-value]


def whiten(x: Tensor) -> Tensor:
    """Return ZCA-whitened rows: decorrelated coordinates, as near as possible to those of ``x`` [tokens, d].

    Computed in float64, returned in float32.
    """
    x = x.to(torch.float64) - x.to(torch.float64).mean(0)
    values, vectors = torch.linalg.eigh(x.T @ x / len(x))
    scale = values.clamp_min(values.max() * 1e-10).rsqrt()
    return (x @ (vectors * scale) @ vectors.T).to(torch.float32)


def sign_ceiling_rows(a: Tensor, b: Tensor, shares: Sequence[float], seed: int) -> list[Row]:
    """Plant gauges with given shares of positive signs on B, and match them.

    Args:
        a: float[tokens, d], activations of A.
        b: float[tokens, d], activations of B on the same tokens, in shared coordinates.
        shares: shares p of positive signs.
        seed: seed of the plants.

    Returns:
        Rows ``{p, group, matcher, metric, value}`` with ``index_accuracy`` and ``signed_accuracy`` of
        ``hungarian_raw`` (S_d) and of ``hungarian_abs`` (B_d).
    """
    stream = MomentStream()
    stream.update(a, b)
    c = stream.result().correlation()
    rows: list[Row] = []
    for p in shares:
        plant = plant_with_positive_share(a.shape[1], p, generator(seed, "ceiling", p))
        planted = plant.act(c, axis=0)
        for group, matcher in (("permutation", "hungarian_raw"), ("signed_permutation", "hungarian_abs")):
            accuracy = gauge_accuracy(match(planted, group, matcher).gauge, plant)
            for metric in ("index_accuracy", "signed_accuracy"):
                value = accuracy[metric]
                rows.append({"p": p, "group": group, "matcher": matcher, "metric": metric, "value": value})
    return rows
