"""Measure how much of a model's stream another model's SAE explains, by map (paper B, sections 7.1 and 8.1).

``A`` is the model whose SAE it is. A map ``x_B ≈ mean_B + M (x_A − mean_A)`` is fitted on one set of tokens.
B's stream on other tokens goes back through it, through the SAE, and forth again. The paper's rotation is
centred Procrustes without a scale; the maps of the other groups are fitted and carry means in the same way.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from gaugeport.pipeline.measures.maps import MATCHER_OF_GROUP, Map, fit_map, round_trip_explained_variance
from gaugeport.pipeline.measures.sae_transfer import nmse, reconstruct
from gaugeport.pipeline.rotation.lenses.decoder_matching import match_decoders
from gaugeport.utils.linalg import svd
from gaugeport.utils.seeds import generator

Row = dict[str, Any]

RAW = "identity"
"""No map at all: the paper's raw transfer."""
TRANSLATION = "translation"
"""A map that carries the means alone."""
SCALED = "orthogonal_scaled"
"""The paper's rotation with a scale: RMSNorm forgets the length of a stream, so seeds may differ in it."""

UNPAIRED_CONTROL = "principal_axes"
"""A control that pairs no tokens: :func:`principal_axes`."""
SIGN_DRAWS = 8
"""Draws of the control's signs that it is averaged over."""


def fit_maps(a: Tensor, b: Tensor, groups: Sequence[str] = tuple(MATCHER_OF_GROUP)) -> dict[str, Map]:
    """Fit a map from A to B for every group, and add :data:`RAW` and :data:`TRANSLATION`.

    No map has a scale of its own but the affine one and :data:`SCALED`, which comes with the rotation.

    Args:
        a: A's stream, float[tokens, d].
        b: B's stream on the same tokens, float[tokens, d].
        groups: Groups to fit.

    Raises:
        ValueError: As :func:`~gaugeport.pipeline.measures.maps.fit_map`.
    """
    same = torch.eye(a.shape[1], dtype=torch.float64)
    zero, means = torch.zeros(a.shape[1], dtype=torch.float64), (a.double().mean(0), b.double().mean(0))
    maps = {RAW: Map(same, same, zero, zero, None), TRANSLATION: Map(same, same, *means, None)}
    fitted = {group: fit_map(group, a, b) for group in groups}
    maps |= {group: replace(m, scale=1.0) for group, m in fitted.items()}
    if "orthogonal" in fitted:
        maps[SCALED] = fitted["orthogonal"]
    return maps


def principal_axes(a: Tensor, b: Tensor, seed: int) -> list[Map]:
    """Return rotations that take the principal axes of A's stream to those of B's, in order of variance.

    The explained variance of an SAE depends only on what the stream looks like when it arrives, never on
    which token it belongs to. This control makes the second moments alike and pairs nothing, so what a fitted
    rotation explains beyond it comes from the pairing. It is not in the papers.

    Args:
        a: A's stream, float[tokens, d].
        b: B's stream, float[tokens, d].
        seed: Seed of the axes' signs.

    Returns:
        :data:`SIGN_DRAWS` maps, one for each draw of the signs.
    """
    means, axes = [], []
    for x in (a.double(), b.double()):
        means.append(x.mean(0))
        axes.append(torch.linalg.eigh((x - means[-1]).T @ (x - means[-1]))[1])
    maps = []
    for n in range(SIGN_DRAWS):
        bits = torch.randint(2, (len(means[0]),), generator=generator(seed, UNPAIRED_CONTROL, n))
        r = (axes[1] * (bits.double() * 2 - 1)) @ axes[0].T
        maps.append(Map(r, r.T, means[0], means[1], None))
    return maps


def explained_variance(sae: Any, x: Tensor, through: Map | None = None) -> float:
    """Return the explained variance (1 − NMSE) of a stream by an SAE of A.

    Args:
        sae: An SAE of A.
        x: A's own stream, or B's ``through`` a map, float[tokens, d]. Errors are measured in its coordinates.
        through: A map from A to B.

    Raises:
        ValueError: All tokens are alike.
    """
    if through is None:
        return 1 - nmse(x, reconstruct(sae, x[None])[0][0])
    return 1 - nmse(x, through.forward(reconstruct(sae, through.backward(x)[None])[0][0]))


def gaussian_like(x: Tensor, seed: int) -> Tensor:
    """Draw Gaussian rows with the mean and covariance of ``x`` [tokens, d]: the paper's noise baseline."""
    rows = x.double()
    _, s, vh = svd(rows - rows.mean(0), full_matrices=False)
    noise = torch.randn(len(x), len(s), generator=generator(seed, "noise"), dtype=torch.float64)
    return (rows.mean(0) + noise * (s / len(x) ** 0.5) @ vh).to(x.dtype)


def transfer_rows(
    sae: Any, maps: Mapping[str, Map], unpaired: Sequence[Map], test_a: Tensor, test_b: Tensor, seed: int
) -> Iterator[Row]:
    """Yield ``explained_variance`` of A's SAE by group, and ``round_trip``: what a map keeps without an SAE.

    Groups are ``self`` (A's own stream), every map, :data:`UNPAIRED_CONTROL`, ``noise`` (Gaussian with the
    moments of A's stream) and ``noise_rotated`` (with those of B's, through the rotation).

    Args:
        sae: An SAE of A.
        maps: Group -> map from A to B, as :func:`fit_maps` returns them.
        unpaired: Maps of the control, whose mean counts.
        test_a: A's stream on tokens that no map was fitted on, float[tokens, d].
        test_b: B's stream on the same tokens, float[tokens, d].
        seed: Seed of the noise.
    """
    yield _ev("self", explained_variance(sae, test_a))
    yield _ev("noise", explained_variance(sae, gaussian_like(test_a, seed)))
    for group, m in maps.items():
        yield _ev(group, explained_variance(sae, test_b, m))
        yield {"metric": "round_trip", "group": group, "value": round_trip_explained_variance(m, test_b)}
    yield _ev(UNPAIRED_CONTROL, fmean(explained_variance(sae, test_b, m) for m in unpaired))
    yield _ev("noise_rotated", explained_variance(sae, gaussian_like(test_b, seed), maps["orthogonal"]))


def token_rows(
    sae: Any,
    fit_a: Tensor,
    fit_b: Tensor,
    test_b: Tensor,
    tokens: Sequence[int],
    groups: Sequence[str] = tuple(MATCHER_OF_GROUP),
) -> Iterator[Row]:
    """Yield ``explained_variance_by_tokens``: maps fitted on more and more tokens.

    Args:
        sae: An SAE of A.
        fit_a: A's stream on the tokens to fit on, float[tokens, d].
        fit_b: B's stream on the same tokens, float[tokens, d].
        test_b: B's stream on other tokens, float[tokens, d].
        tokens: Numbers of tokens to fit on; the first so many are used.
        groups: Groups to fit.

    Raises:
        ValueError: ``tokens`` is empty, or asks for fewer than two tokens or for more than there are.
    """
    if not tokens or min(tokens) < 2 or max(tokens) > len(fit_a):
        raise ValueError(f"tokens={list(tokens)} of {len(fit_a)} to fit on; allowed: 2 to {len(fit_a)}")
    for n in sorted(tokens):
        for group in groups:
            m = replace(fit_map(group, fit_a[:n], fit_b[:n]), scale=1.0)
            row = _ev(group, explained_variance(sae, test_b, m))
            yield {**row, "metric": "explained_variance_by_tokens", "tokens": n}


def decoder_rows(a: Tensor, b: Tensor, maps: Mapping[str, Map], threshold: float, init: str) -> Iterator[Row]:
    """Yield how alike two decoders look once B's is carried back by each map (the metric of section 7.1).

    Args:
        a: A's decoder, float[latents, d].
        b: B's decoder, float[latents, d].
        maps: Group -> map from A to B.
        threshold: Cosine above which decoder rows count as matched.
        init: Whether both were trained from one initialisation; a column of the rows.

    Raises:
        ValueError: The threshold is no cosine.
    """
    for group, m in maps.items():
        if group in (TRANSLATION, SCALED):  # neither changes a direction
            continue
        carried = (b.double() @ m.to_a.T).to(b.dtype)
        for metric, value in match_decoders(a, carried).values(threshold).items():
            yield {"metric": f"decoder_{metric}", "group": group, "init": init, "value": value}


def _ev(group: str, value: float) -> Row:
    return {"metric": "explained_variance", "group": group, "value": value}
