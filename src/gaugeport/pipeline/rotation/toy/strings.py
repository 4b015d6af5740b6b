"""Bounded-depth Dyck-3: strings, their three labels, and the held-out splits (paper B, section 4.2).

A row is BOS, a string of brackets, EOS, padding on the right. Every position carries three labels: the token itself, the
depth, and whether anything so far was invalid. All functions work on whole batches and draw from an explicit generator.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.data import Dataset

from gaugeport.models.dyck import HEADS as HEADS  # also read as strings.HEADS
from gaugeport.models.dyck import IGNORED, MAX_DEPTH
from gaugeport.utils.seeds import generator

PAD, BOS, EOS = 0, 1, 2
OPEN, CLOSE = 3, 6
"""First of the three opening and of the three closing brackets; bracket family ``f`` is ``OPEN + f``, ``CLOSE + f``."""
FAMILIES = 3
SHORTEST = 2
LONG = (50, 60)
"""Lengths of the held-out long split."""
SPLITS = ("train", "compositional", "long")


def draw(n: int, lengths: tuple[int, int], length: int, gen: torch.Generator) -> dict[str, Tensor]:
    """``n`` strings, half of them Dyck-valid and half uniform over the six brackets, lengths uniform in ``lengths``.

    Complete Dyck words have an even length: theirs is rounded down (up at an odd shortest), so that an even longest length
    has half the weight of the others. Rows of ``length`` tokens as
    :func:`rows` returns them. Raises ``ValueError`` for lengths that are no range or do not fit the row.
    """
    shortest, longest = lengths
    if not SHORTEST <= shortest <= longest <= length - 2:
        raise ValueError(
            f"lengths {lengths} do not fit rows of {length}; allowed: {SHORTEST} to {length - 2}, ascending"
        )
    size = torch.randint(shortest, longest + 1, (n,), generator=gen)
    valid = torch.arange(n) < (n + 1) // 2
    valid = valid[torch.randperm(n, generator=gen)]
    even = size - size % 2
    even = torch.where(even < shortest, even + 2, even).clamp(max=longest - longest % 2)
    brackets = OPEN + torch.randint(0, 2 * FAMILIES, (n, longest), generator=gen)
    brackets[valid] = _words(even[valid], longest, gen)
    return rows(brackets, torch.where(valid, even, size), length)


def compositional(n: int, lengths: tuple[int, int], length: int, gen: torch.Generator) -> dict[str, Tensor]:
    """``n`` valid strings: a deep nest of one bracket family amid shallow pairs of mixed families. Lengths are even.

    Raises ``ValueError`` where the longest length leaves no room for a nest of the full depth.
    """
    longest = lengths[1] - lengths[1] % 2
    if longest < 2 * MAX_DEPTH or longest > length - 2:
        raise ValueError(
            f"lengths {lengths} in rows of {length}: a nest wants at least {2 * MAX_DEPTH} brackets"
        )
    depth = torch.randint(MAX_DEPTH // 2 + 1, MAX_DEPTH + 1, (n,), generator=gen)
    pairs = (
        torch.rand(n, generator=gen) * (longest // 2 - depth + 1)
    ).long()  # shallow pairs, on both sides together
    before = 2 * (torch.rand(n, generator=gen) * (pairs + 1)).long()
    family = torch.randint(0, FAMILIES, (n, 1), generator=gen)
    mixed = torch.randint(0, FAMILIES, (n, longest // 2), generator=gen).repeat_interleave(2, 1)
    where = torch.arange(longest).expand(n, -1)
    inside = where - before[:, None]
    nest = (inside >= 0) & (inside < 2 * depth[:, None])
    closing = torch.where(
        nest, inside >= depth[:, None], where % 2 == 1
    )  # both sides begin at even positions
    chosen = torch.where(nest, family, mixed)
    return rows(torch.where(closing, CLOSE, OPEN) + chosen, 2 * (depth + pairs), length)


def rows(brackets: Tensor, size: Tensor, length: int) -> dict[str, Tensor]:
    """Rows of ``brackets`` int64[n, ≥ size], of which the first ``size`` int64[n] count.

    Returns ``input_ids`` int64[n, length], ``attention_mask`` of the same shape, and ``labels`` int64[n, length, 3]
    (:data:`gaugeport.models.dyck.HEADS`), :data:`IGNORED` on padding.
    """
    n = len(brackets)
    ids = torch.full((n, length), PAD)
    ids[:, 0] = BOS
    ids[:, 1 : 1 + brackets.shape[1]] = brackets
    where = torch.arange(length)
    ids[where == (size + 1)[:, None]] = EOS
    ids[where > (size + 1)[:, None]] = PAD
    kept = ids != PAD
    labels = torch.stack([ids, depths(ids), invalid(ids)], -1)
    return {
        "input_ids": ids,
        "attention_mask": kept.long(),
        "labels": labels.masked_fill(~kept[..., None], IGNORED),
    }


def depths(ids: Tensor) -> Tensor:
    """Openers minus closers so far, clamped to [0, 8]. int64[n, t]

    The height of the stack until something is invalid, and from there on what the paper's constructive specification
    computes (section 5: the causal average of is_open − is_close, times the position, quantised). Its words in 4.2,
    "count of unmatched openers", say something else behind an invalidity, where a closer without partner changes no
    such count: of the training distribution that is three positions in ten.
    """
    return (is_open(ids).long() - is_close(ids).long()).cumsum(1).clamp(0, MAX_DEPTH)


def invalid(ids: Tensor) -> Tensor:
    """1 from the first closer on that meets an empty stack or another family on top of it, 0 before. int64[n, t]"""
    n, t = ids.shape
    stack = torch.zeros(n, t + 1, dtype=torch.long)
    height = torch.zeros(n, 1, dtype=torch.long)
    opens, closes = is_open(ids), is_close(ids)
    bad = torch.zeros(n, t, dtype=torch.bool)
    for i in range(t):
        top = stack.gather(1, height)[:, 0]
        bad[:, i] = closes[:, i] & ((height[:, 0] == 0) | (top != ids[:, i] - CLOSE))
        height = (height + opens[:, i : i + 1].long() - closes[:, i : i + 1].long()).clamp(min=0)
        pushed = torch.where(opens[:, i : i + 1], ids[:, i : i + 1] - OPEN, stack.gather(1, height))
        stack.scatter_(1, height, pushed)
    return (bad.cumsum(1) > 0).long()


def is_open(ids: Tensor) -> Tensor:
    """Whether a token is an opening bracket."""
    return (ids >= OPEN) & (ids < OPEN + FAMILIES)


def is_close(ids: Tensor) -> Tensor:
    """Whether a token is a closing bracket."""
    return (ids >= CLOSE) & (ids < CLOSE + FAMILIES)


def heldout(split: str, n: int, longest: int, length: int, seed: int) -> dict[str, Tensor]:
    """``n`` rows of one of :data:`SPLITS`, the same for every model; ``longest`` is the longest string trained on.

    Raises ``ValueError`` for an unknown split.
    """
    gen = generator(seed, "dyck", "heldout", split)
    if split == "train":
        return draw(n, (SHORTEST, longest), length, gen)
    if split == "compositional":
        return compositional(n, (SHORTEST, longest), length, gen)
    if split == "long":
        return draw(n, LONG, length, gen)
    raise ValueError(f"unknown split {split!r}; allowed: {', '.join(SPLITS)}")


class Strings(Dataset):
    """Training strings without end: batch ``k`` is drawn anew from the seed and ``k``, so that a run resumes where it was."""

    def __init__(self, batches: int, batch_size: int, longest: int, length: int, seed: int):
        self.batches, self.batch_size, self.longest, self.length, self.seed = (
            batches,
            batch_size,
            longest,
            length,
            seed,
        )

    def __len__(self) -> int:
        return self.batches * self.batch_size

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: list[int]) -> list[dict[str, Tensor]]:
        found = {k: self._batch(k) for k in dict.fromkeys(i // self.batch_size for i in indices)}
        return [
            {name: t[i % self.batch_size] for name, t in found[i // self.batch_size].items()} for i in indices
        ]

    def _batch(self, k: int) -> dict[str, Tensor]:
        gen = generator(self.seed, "strings", k)
        return draw(self.batch_size, (SHORTEST, self.longest), self.length, gen)


def _words(size: Tensor, longest: int, gen: torch.Generator) -> Tensor:
    """Dyck words of even ``size`` int64[n], within :data:`MAX_DEPTH`; int64[n, longest], what lies beyond ``size`` is noise."""
    n = len(size)
    height = torch.zeros(n, dtype=torch.long)
    stack = torch.zeros(n, MAX_DEPTH + 1, dtype=torch.long)
    coin = torch.rand(n, longest, generator=gen) < 0.5
    family = torch.randint(0, FAMILIES, (n, longest), generator=gen)
    out = torch.full((n, longest), OPEN)
    for i in range(longest):
        left = size - i
        opening = (coin[:, i] | (height == 0)) & (height < MAX_DEPTH) & (height < left)
        top = stack.gather(1, height[:, None])[:, 0]
        out[:, i] = torch.where(opening, OPEN + family[:, i], CLOSE + top)
        height = (height + torch.where(opening, 1, -1)).clamp(min=0)
        stack.scatter_(
            1,
            height[:, None],
            torch.where(opening, family[:, i], stack.gather(1, height[:, None])[:, 0])[:, None],
        )
    return out
