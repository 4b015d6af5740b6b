"""Choose the precision of intermediate results."""

from __future__ import annotations

import torch
from torch import Tensor


def at_least_float32(x: Tensor) -> Tensor:
    """Return ``x`` in float32, or in float64 if it is. Results are then rounded once, at the end."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
