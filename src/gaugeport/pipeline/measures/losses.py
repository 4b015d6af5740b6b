"""Measure the held-out loss of a language model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

MOST_LOGITS = 2**27
"""Logits to compute at a time, half a GiB in float32: a batch of a large vocabulary is run in parts."""


@torch.no_grad()
def heldout_loss(model: Any, batches: Sequence[dict[str, Tensor]]) -> float:
    """Return the mean next-token loss, in nats per token.

    Args:
        model: a causal language model.
        batches: batches of full rows; masks are not read.
    """
    total, tokens = 0.0, 0
    for batch in batches:
        rows = max(1, MOST_LOGITS // (batch["input_ids"].shape[1] * model.config.vocab_size))
        for part in batch["input_ids"].split(rows):
            ids = part.to(model.device)
            n = ids.numel() - len(ids)
            total += float(model(input_ids=ids, labels=ids).loss) * n
            tokens += n
    return total / tokens
