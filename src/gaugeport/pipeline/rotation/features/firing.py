"""Whether the latents of one model's SAE fire on the same tokens of another model (section 8.5)."""

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
    """Firing magnitudes of every latent on tokens ``x`` [tokens, d]: float32[tokens, latents] on the CPU."""
    return torch.cat([sae.encode(part.to(sae.device)).float().cpu() for part in x.split(SAE_CHUNK_TOKENS)])


def pearson_by_latent(a: Tensor, b: Tensor) -> Tensor:
    """Correlation over tokens of each latent's magnitudes ``a``, ``b`` [tokens, latents]: float64[latents].

    A latent that never changes on one side says nothing of the other: 0. Rounding takes none out of [-1, 1].
    """
    a, b = (x.double() - x.double().mean(0) for x in (a, b))
    norms = a.norm(dim=0) * b.norm(dim=0)
    r = (a * b).sum(0) / norms.clamp_min(torch.finfo(norms.dtype).tiny)
    return torch.where(norms > 0, r.clamp(-1, 1), 0.0)


def firing_rows(
    sae: Any, test_a: Tensor, test_b: Tensor, maps: Mapping[str, Map], recovered: float
) -> Iterator[Row]:
    """Mean correlation per latent of A's SAE on A with itself on B, through every map, and the share above ``recovered``.

    ``test_a``, ``test_b`` [tokens, d] are streams of the same tokens. All latents count, those that never fire on A as 0:
    the correlation of A with itself (``self``) is then the share of latents that are alive, the paper's 0.96–1.00.
    """
    here = latents(sae, test_a)
    carried = {"self": here} | {group: latents(sae, m.backward(test_b)) for group, m in maps.items()}
    for group, there in carried.items():
        r = pearson_by_latent(here, there)
        yield {"metric": "firing_pearson", "group": group, "value": float(r.mean())}
        yield {"metric": "recovered_share", "group": group, "value": float((r > recovered).double().mean())}
