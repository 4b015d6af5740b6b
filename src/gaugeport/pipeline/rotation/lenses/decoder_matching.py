"""Match the decoder rows of two dictionaries one to one (paper B, section 7.1)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from gaugeport.alignment.assignment import solve


@dataclass(frozen=True)
class Match:
    """Decoder rows of one dictionary and their counterparts in another."""

    columns: Tensor
    """int64[latents]: the row of the other dictionary in the one-to-one matching of greatest total cosine."""
    matched: Tensor
    """float32[latents]: the cosine to that row."""
    best: Tensor
    """float32[latents]: the greatest cosine to any row, which several rows may share."""

    def values(self, threshold: float) -> dict[str, float]:
        """Shares of rows whose cosine, matched and best, is above ``threshold``, and the mean cosines.

        Raises ``ValueError`` for a threshold that is no cosine.
        """
        if not 0 < threshold < 1:
            raise ValueError(f"threshold={threshold} of a cosine; allowed: between 0 and 1")
        found = {}
        for name, cosine in (("matched", self.matched), ("max", self.best)):
            found[f"{name}_above"] = float((cosine > threshold).double().mean())
            found[f"mean_{name}_cosine"] = float(cosine.double().mean())
        return found


def match_decoders(a: Tensor, b: Tensor) -> Match:
    """Which decoder row of ``b`` [latents, width] is which of ``a``, by signed cosine: ReLU latents have a direction.

    Rows of zero norm have cosine 0 with all. Raises ``ValueError`` for shapes that differ. Source: section 7.1.
    """
    if a.dim() != 2 or a.shape != b.shape:
        raise ValueError(
            f"decoders of shapes {tuple(a.shape)} and {tuple(b.shape)}; wanted: the same [latents, width]"
        )
    cosine = (
        functional.normalize(a.detach().float(), dim=1) @ functional.normalize(b.detach().float(), dim=1).T
    )
    columns = torch.from_numpy(solve(cosine).columns).long()
    return Match(columns, cosine.gather(1, columns[:, None])[:, 0], cosine.max(1).values)
