"""Compose the alignments of neighbouring checkpoints into that of a walk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import reduce

import torch

from gaugeport.alignment.result import Alignment
from gaugeport.groups import compose
from gaugeport.utils.progress import Progress


def compose_links(links: Sequence[Alignment]) -> Alignment:
    """Return the alignment of a walk's first model with its last.

    Args:
        links: the alignments of neighbouring models in walking order, at least one.

    Returns:
        The composed gauge. A coordinate's margin is the smallest on its way; the objective is that of the
        last link; massive tokens are counted over all links.
    """
    return replace(reduce(_compose, links), links=tuple(links))


def weakest(links: Sequence[Alignment], doubts: Sequence[str | None]) -> str | None:
    """Name the weakest link of a walk and why it should be doubted; None if no link should be.

    Args:
        links: the alignments of neighbouring models.
        doubts: what :func:`gaugeport.alignment.doubt.doubt` says of each.
    """
    doubted = [i for i, reason in enumerate(doubts) if reason is not None]
    if not doubted:
        return None
    at = max(doubted, key=lambda i: (links[i].share_without_margin, -float(links[i].margin.median())))
    return (
        f"{len(doubted)} of the {len(links)} links of the walk should be doubted. The weakest is link "
        f"{at + 1}, from checkpoint {at + 1} to checkpoint {at + 2}: {doubts[at]}"
    )


def _compose(first: Alignment, second: Alignment) -> Alignment:
    # The margins of `first` belong to the middle model's coordinates: permute them to those of the last
    # model.
    perm = getattr(second.gauge, "perm", None)
    first_margin = first.margin if perm is None else first.margin[perm]
    return replace(
        second,
        gauge=compose(second.gauge, first.gauge),
        margin=torch.minimum(first_margin, second.margin),
        massive_tokens={s: n + first.massive_tokens[s] for s, n in second.massive_tokens.items()},
    )


def reporting(progress: Progress, link: int, links: int) -> Progress:
    """Return a function that reports a step as part of a link of a walk, which is counted from 1."""
    return lambda done, total, what: progress(done, total, f"link {link} of {links}, {what}")
