"""How much of one model's stream another model's SAE explains, by the map that carries the stream over (sections 7.1, 8.1).

``A`` is the model whose SAE it is. A map ``x_B ≈ mean_B + M (x_A − mean_A)`` is fitted on one set of tokens, and B's stream
on others goes back through it, through the SAE, and forth again. The paper's rotation is centred Procrustes, without a
scale; the maps of the other groups are fitted and carry means likewise.
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
from gaugeport.utils.seeds import generator

Row = dict[str, Any]

RAW, TRANSLATION, SCALED = "identity", "translation", "orthogonal_scaled"
"""No map at all (the paper's raw transfer), one that carries the means alone, and the paper's rotation with a scale: what
RMSNorm forgets of a stream, its length, a seed may well have otherwise."""

UNPAIRED_CONTROL = "principal_axes"
"""The control that knows of no token's partner: :func:`principal_axes`."""
SIGN_DRAWS = 8
"""Draws of its signs that it is averaged over."""


def fit_maps(a: Tensor, b: Tensor, groups: Sequence[str] = tuple(MATCHER_OF_GROUP)) -> dict[str, Map]:
    """Group -> its map from A to B, fitted on streams ``a``, ``b`` [tokens, d] of the same tokens; RAW and TRANSLATION too.

    None has a scale of its own but the affine one and, with the rotation, :data:`SCALED`. Raises as
    :func:`~gaugeport.pipeline.measures.maps.fit_map`.
    """
    same = torch.eye(a.shape[1], dtype=torch.float64)
    zero, means = torch.zeros(a.shape[1], dtype=torch.float64), (a.double().mean(0), b.double().mean(0))
    found = {RAW: Map(same, same, zero, zero, None), TRANSLATION: Map(same, same, *means, None)}
    fitted = {group: fit_map(group, a, b) for group in groups}
    found |= {group: replace(m, scale=1.0) for group, m in fitted.items()}
    return found | ({SCALED: fitted["orthogonal"]} if "orthogonal" in fitted else {})


def principal_axes(a: Tensor, b: Tensor, seed: int) -> list[Map]:
    """Rotations that take the principal axes of ``a`` [tokens, d] to those of ``b`` in order of variance, signs at random.

    An SAE's explained variance asks only whether the stream looks like A's when it arrives, never which token it belongs
    to; this control makes the second moments alike and pairs nothing, so what a fitted rotation explains beyond it comes
    of the pairing. :data:`SIGN_DRAWS` maps, one a draw of the signs; no table of the papers has them.
    """
    means, axes = [], []
    for x in (a.double(), b.double()):
        means.append(x.mean(0))
        axes.append(torch.linalg.eigh((x - means[-1]).T @ (x - means[-1]))[1])
    maps = []
    for n in range(SIGN_DRAWS):
        signs = (
            torch.randint(2, (len(means[0]),), generator=generator(seed, UNPAIRED_CONTROL, n)).double() * 2
            - 1
        )
        r = (axes[1] * signs) @ axes[0].T
        maps.append(Map(r, r.T, means[0], means[1], None))
    return maps


def explained_variance(sae: Any, x: Tensor, through: Map | None = None) -> float:
    """Explained variance (1 − NMSE) of ``x`` [tokens, d] by an SAE of A: of A's own stream, or of B's ``through`` a map.

    Errors are measured in the coordinates of ``x``. Raises ``ValueError`` for tokens that are all alike.
    """
    if through is None:
        return 1 - nmse(x, reconstruct(sae, x[None], 0)[0][0])
    return 1 - nmse(x, through.forward(reconstruct(sae, through.backward(x)[None], 0)[0][0]))


def gaussian_like(x: Tensor, seed: int) -> Tensor:
    """As many draws from a Gaussian with the mean and covariance of ``x`` [tokens, d]: the paper's noise baseline."""
    wide = x.double()
    _, s, vh = torch.linalg.svd(wide - wide.mean(0), full_matrices=False)
    noise = torch.randn(len(x), len(s), generator=generator(seed, "noise"), dtype=torch.float64)
    return (wide.mean(0) + noise * (s / len(x) ** 0.5) @ vh).to(x.dtype)


def transfer_rows(
    sae: Any, maps: Mapping[str, Map], unpaired: Sequence[Map], test_a: Tensor, test_b: Tensor, seed: int
) -> Iterator[Row]:
    """``explained_variance`` of A's SAE on A (``self``), on B through every map and, as their mean, the ``unpaired`` ones,
    and on Gaussian noise with the moments of A's stream (``noise``) and of B's through the rotation (``noise_rotated``);
    ``round_trip``, what each map keeps without an SAE.
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
    """``explained_variance_by_tokens``: the same with maps fitted on the first so many tokens.

    Raises ``ValueError`` where ``tokens`` asks for more than there are, or for fewer than two.
    """
    if not tokens or min(tokens) < 2 or max(tokens) > len(fit_a):
        raise ValueError(f"tokens={list(tokens)} of {len(fit_a)} to fit on; allowed: 2 to {len(fit_a)}")
    for n in sorted(tokens):
        for group in groups:
            m = replace(fit_map(group, fit_a[:n], fit_b[:n]), scale=1.0)
            row = _ev(group, explained_variance(sae, test_b, m))
            yield {**row, "metric": "explained_variance_by_tokens", "tokens": n}


def decoder_rows(a: Tensor, b: Tensor, maps: Mapping[str, Map], threshold: float, init: str) -> Iterator[Row]:
    """How alike decoders ``a``, ``b`` [latents, d] look once B's is carried back by each map (section 7.1's metric).

    ``init`` says whether they were trained from one initialisation. Raises ``ValueError`` for a threshold that is no cosine.
    """
    for group, m in maps.items():
        if group in (TRANSLATION, SCALED):  # directions see neither
            continue
        carried = (b.double() @ m.to_a.T).to(b.dtype)
        for metric, value in match_decoders(a, carried).values(threshold).items():
            yield {"metric": f"decoder_{metric}", "group": group, "init": init, "value": value}


def _ev(group: str, value: float) -> Row:
    return {"metric": "explained_variance", "group": group, "value": value}
