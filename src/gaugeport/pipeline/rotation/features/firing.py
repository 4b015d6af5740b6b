"""Compare when an SAE's latents fire on one model and on another (paper B, section 8.5)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from gaugeport.pipeline.measures.maps import Map
from gaugeport.pipeline.measures.sae_transfer import SAE_CHUNK_TOKENS

Row = dict[str, Any]


@torch.no_grad()
def latents(sae: Any, x: Tensor) -> Tensor:
    """Return magnitudes of all latents on tokens ``x`` [tokens, d], float32[tokens, latents] on the CPU."""
    return torch.cat([sae.encode(part.to(sae.device)).float().cpu() for part in x.split(SAE_CHUNK_TOKENS)])


def pearson_by_latent(a: Tensor, b: Tensor) -> Tensor:
    """Return the correlation over tokens of each latent's magnitudes.

    Args:
        a: Magnitudes on one stream, float[tokens, latents].
        b: Magnitudes on another stream, float[tokens, latents].

    Returns:
        Correlations in [-1, 1], float64[latents]; 0 for a latent that is constant on one side.
    """
    a, b = (x.double() - x.double().mean(0) for x in (a, b))
    norms = a.norm(dim=0) * b.norm(dim=0)
    r = (a * b).sum(0) / norms.clamp_min(torch.finfo(norms.dtype).tiny)
    return torch.where(norms > 0, r.clamp(-1, 1), 0.0)


def firing_rows(
    sae: Any, test_a: Tensor, test_b: Tensor, maps: Mapping[str, Map], recovered: float
) -> Iterator[Row]:
    """Yield ``firing_pearson``, the mean correlation per latent, and ``recovered_share``, by map.

    All latents count, those that never fire on A as 0: the correlation of A with itself (group ``self``) is
    then the share of latents that are alive, the paper's 0.96–1.00.

    Args:
        sae: An SAE of model A.
        test_a: A's stream, float[tokens, d].
        test_b: B's stream on the same tokens, float[tokens, d].
        maps: Group -> the map from A to B.
        recovered: Latents with a larger correlation count as recovered.
    """
    on_a = latents(sae, test_a)
    carried = {"self": on_a} | {group: latents(sae, m.backward(test_b)) for group, m in maps.items()}
    for group, on_b in carried.items():
        r = pearson_by_latent(on_a, on_b)
        yield {"metric": "firing_pearson", "group": group, "value": float(r.mean())}
        yield {"metric": "recovered_share", "group": group, "value": float((r > recovered).double().mean())}
