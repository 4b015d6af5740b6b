"""Match the decoder rows of two dictionaries one to one (paper B, sections 3.2 and 7.1)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from gaugeport.alignment.assignment import solve


@dataclass(frozen=True)
class DecoderMatch:
    """Hold which decoder row of one dictionary is which of another."""

    columns: Tensor
    """int64[latents]: the other dictionary's row, in the one-to-one matching of greatest total cosine."""
    matched: Tensor
    """float32[latents]: the cosine to that row."""
    best: Tensor
    """float32[latents]: the greatest cosine to any row; several rows may share one."""

    def values(self, threshold: float) -> dict[str, float]:
        """Summarise the cosines.

        Args:
            threshold: Cosine above which a row counts, between 0 and 1.

        Returns:
            ``matched_above`` and ``max_above``, the shares of rows above the threshold;
            ``mean_matched_cosine`` and ``mean_max_cosine``.

        Raises:
            ValueError: If the threshold is not between 0 and 1.
        """
        if not 0 < threshold < 1:
            raise ValueError(f"threshold={threshold} of a cosine; allowed: between 0 and 1")
        summary = {}
        for name, cosine in (("matched", self.matched), ("max", self.best)):
            summary[f"{name}_above"] = float((cosine > threshold).double().mean())
            summary[f"mean_{name}_cosine"] = float(cosine.double().mean())
        return summary


def match_decoders(a: Tensor, b: Tensor) -> DecoderMatch:
    """Match decoder rows by signed cosine: the latents are ReLUs, so that a direction has a sign.

    Args:
        a: Decoder rows, float[latents, width]. A row of norm zero has cosine 0 with every other.
        b: Decoder rows of the other dictionary, of the same shape.

    Returns:
        For every row of ``a``, its counterpart in ``b``.

    Raises:
        ValueError: If the shapes differ or are not two-dimensional.
    """
    if a.dim() != 2 or a.shape != b.shape:
        shapes = f"{tuple(a.shape)} and {tuple(b.shape)}"
        raise ValueError(f"decoders have the shapes {shapes}; expected the same [latents, width]")
    unit_a, unit_b = (functional.normalize(x.detach().float(), dim=1) for x in (a, b))
    cosine = unit_a @ unit_b.T
    columns = torch.from_numpy(solve(cosine).columns).long()
    return DecoderMatch(columns, cosine.gather(1, columns[:, None])[:, 0], cosine.max(1).values)
