"""Find massive activations: tokens whose stream is many times longer than that of the others.

A few tokens of a pretrained model, mostly the first of a text but also some delimiters, carry a stream that
is tens to hundreds of times longer than the rest, almost the same vector each time (Sun et al. 2024, "Massive
Activations in Large Language Models", arXiv 2402.17762). A handful of them decides a mean, a variance or a
correlation. So every statistic that reads the stream finds them by their norm, leaves them out and says how
many it left out. It may be told to keep them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

MASSIVE_NORM = 10.0
"""A token is massive at a site where its norm exceeds this many times the median norm of the batch's tokens.

Sun et al. (section 2) call one activation massive above 100 and 1,000 times the median magnitude. Such a
coordinate alone makes the norm of a stream of width d about 1,000 / √d times the usual one, 42 at d = 576 and
16 at 4,096, while ordinary tokens are a few times as long as the median one. 10 lies between. Some streams
have no gap there: in SmolLM2 the norms of blocks 2 to 7 reach from 1 to 13 medians."""

LEAVE_OUT, KEEP = TREATMENTS = ("leave_out", "keep")
"""What a statistic does with massive tokens."""


def check_treatment(massive: str) -> None:
    """Raise ``ValueError`` unless ``massive`` is one of :data:`TREATMENTS`."""
    if massive not in TREATMENTS:
        raise ValueError(f"massive={massive!r}; allowed: {', '.join(TREATMENTS)}")


def massive_tokens(stream: Tensor, counted: Tensor | None = None) -> Tensor:
    """Return which tokens of a stream at one site are massive.

    Args:
        stream: float[..., d], the tokens of one batch.
        counted: bool[...], the tokens to look at (no padding); by default all.

    Returns:
        bool[...]. It is False for tokens that are not counted and for those that are not finite, which are to
        be refused and not left out; and everywhere if the median norm is 0.
    """
    norms = stream.float().norm(dim=-1)
    among = norms.flatten() if counted is None else norms[counted]
    if not len(among):
        return torch.zeros_like(norms, dtype=torch.bool)
    limit = MASSIVE_NORM * among.median()
    massive = (norms > limit) & torch.isfinite(norms) & (limit > 0)
    return massive if counted is None else massive & counted


def leave_out_massive(*streams: Tensor, massive: str = LEAVE_OUT) -> tuple[Tensor, ...]:
    """Leave out the tokens that are massive in any of several streams of the same tokens.

    Args:
        *streams: float[tokens, d], one per model or just one.
        massive: ``leave_out``, or ``keep`` to return the streams as they are.

    Returns:
        The streams of the remaining tokens; the very tensors that were given where no token is massive.
        ``len`` before minus ``len`` after is the number of tokens left out.

    Raises:
        ValueError: ``massive`` is unknown.
    """
    check_treatment(massive)
    if massive == KEEP:
        return streams
    return without_tokens([massive_tokens(x) for x in streams], *streams)


def without_tokens(found: Sequence[Tensor], *streams: Tensor) -> tuple[Tensor, ...]:
    """Return streams [tokens, d] without the tokens that any of the masks ``found`` (bool[tokens]) names."""
    left_out = torch.stack(list(found)).any(0)
    return tuple(x[~left_out] for x in streams) if bool(left_out.any()) else streams
