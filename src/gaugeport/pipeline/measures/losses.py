"""Held-out language modelling loss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


@torch.no_grad()
def heldout_loss(model: Any, batches: Sequence[dict[str, Tensor]]) -> float:
    """Mean next-token loss of a causal language model over batches of full rows, nats per token."""
    total, tokens = 0.0, 0
    for batch in batches:
        ids = batch["input_ids"].to(model.device)
        n = ids.numel() - len(ids)
        total += float(model(input_ids=ids, labels=ids).loss) * n
        tokens += n
    return total / tokens
