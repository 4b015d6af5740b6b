"""Draw and label strings of bounded-depth Dyck-3, for training and held out (paper B, section 4.2).

A row is BOS, a string of brackets, EOS, padding on the right. Every position carries three labels: the token
itself, the depth, and whether anything so far was invalid. All functions work on whole batches and draw from
an explicit generator.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from gaugeport.models.dyck import IGNORED, MAX_DEPTH
from gaugeport.utils.seeds import generator

PAD, BOS, EOS = 0, 1, 2
OPEN, CLOSE = 3, 6
"""Ids of the first opening and the first closing bracket; family ``f`` has ``OPEN + f`` and ``CLOSE + f``."""
FAMILIES = 3
"""Kinds of brackets."""
SHORTEST_LENGTH = 2
"""Brackets of the shortest string."""
LONG_LENGTHS = (50, 60)
"""Shortest and longest length of the held-out split ``long``, in brackets."""
SPLITS = ("train", "compositional", "long")
"""The held-out splits (section 4.2)."""

UNMATCHED, RUNNING = "unmatched", "running"
DEPTH_LABELS = (UNMATCHED, RUNNING)
"""What the depth of a position may be (:func:`depth_labels`)."""


def draw_strings(
    n: int, lengths: tuple[int, int], length: int, gen: torch.Generator, depth: str = UNMATCHED
) -> dict[str, Tensor]:
    """Draw strings of the training distribution: half Dyck-valid, half uniform over the six brackets.

    Lengths are uniform in ``lengths``. A valid string has an even length: an odd one is rounded down (up, if
    it is the shortest), so that an even longest length has half the weight of the others among valid strings.

    Args:
        n: Number of strings.
        lengths: Shortest and longest length in brackets, both included.
        length: Tokens of a row.
        gen: Source of randomness.
        depth: The depth label, one of :data:`DEPTH_LABELS`.

    Returns:
        Labelled strings (:func:`label_rows`).

    Raises:
        ValueError: If the lengths are not a range or do not fit the row.
    """
    return draw_batches(n, lengths, length, [gen], depth)


def draw_batches(
    n: int, lengths: tuple[int, int], length: int, gens: Sequence[torch.Generator], depth: str = UNMATCHED
) -> dict[str, Tensor]:
    """Draw ``n`` strings from each generator, below each other; each as :func:`draw_strings` draws them.

    Stacks are followed from position to position for all strings at once, which takes hardly longer for
    several batches than for one.

    Args:
        n: Strings of each generator.
        lengths, length, depth: As of :func:`draw_strings`.
        gens: The generators.

    Returns:
        As of :func:`draw_strings`, with ``n`` rows for each generator.

    Raises:
        ValueError: If the lengths are not a range or do not fit the row.
    """
    shortest, longest = lengths
    if not SHORTEST_LENGTH <= shortest <= longest <= length - 2:
        raise ValueError(
            f"lengths {lengths} do not fit rows of {length}; "
            f"allowed: {SHORTEST_LENGTH} to {length - 2}, ascending"
        )
    # 1) all random numbers, generator by generator
    drawn = []
    for gen in gens:
        size = torch.randint(shortest, longest + 1, (n,), generator=gen)
        valid = torch.arange(n) < (n + 1) // 2
        valid = valid[torch.randperm(n, generator=gen)]
        brackets = OPEN + torch.randint(0, 2 * FAMILIES, (n, longest), generator=gen)
        of_valid = int(valid.sum()), longest
        coin = torch.rand(of_valid, generator=gen) < 0.5
        family = torch.randint(0, FAMILIES, of_valid, generator=gen)
        drawn.append((size, valid, brackets, coin, family))
    size, valid, brackets, coin, family = (torch.cat(parts) for parts in zip(*drawn, strict=True))
    # 2) the strings
    even = size - size % 2
    even = torch.where(even < shortest, even + 2, even).clamp(max=longest - longest % 2)
    brackets[valid] = _dyck_words(even[valid], coin, family)
    return label_rows(brackets, torch.where(valid, even, size), length, depth)


def compositional(
    n: int, lengths: tuple[int, int], length: int, gen: torch.Generator, depth: str = UNMATCHED
) -> dict[str, Tensor]:
    """Draw valid strings with a deep nest of one bracket family amid shallow pairs of mixed families.

    Args:
        n: Number of strings.
        lengths: Shortest and longest length in brackets; only the longest is used. Strings have an even
            length.
        length: Tokens of a row.
        gen: Source of randomness.
        depth: The depth label, one of :data:`DEPTH_LABELS`.

    Returns:
        Labelled strings (:func:`label_rows`).

    Raises:
        ValueError: If the longest length leaves no room for a nest of the full depth, or does not fit the
            row.
    """
    longest = lengths[1] - lengths[1] % 2
    if longest < 2 * MAX_DEPTH or longest > length - 2:
        raise ValueError(
            f"lengths {lengths} in rows of {length}; allowed: a longest length of at least {2 * MAX_DEPTH} "
            f"brackets, for a nest of the full depth, and at most {length - 2}"
        )
    # 1) sizes: the nest, and the shallow pairs before and after it
    nest = torch.randint(MAX_DEPTH // 2 + 1, MAX_DEPTH + 1, (n,), generator=gen)
    shallow_pairs = (torch.rand(n, generator=gen) * (longest // 2 - nest + 1)).long()
    before = 2 * (torch.rand(n, generator=gen) * (shallow_pairs + 1)).long()
    # 2) families
    nest_family = torch.randint(0, FAMILIES, (n, 1), generator=gen)
    pair_families = torch.randint(0, FAMILIES, (n, longest // 2), generator=gen).repeat_interleave(2, 1)
    # 3) brackets: pairs begin at even positions on both sides of the nest
    position = torch.arange(longest).expand(n, -1)
    in_nest = position - before[:, None]
    nested = (in_nest >= 0) & (in_nest < 2 * nest[:, None])
    closing = torch.where(nested, in_nest >= nest[:, None], position % 2 == 1)
    family = torch.where(nested, nest_family, pair_families)
    brackets = torch.where(closing, CLOSE, OPEN) + family
    return label_rows(brackets, 2 * (nest + shallow_pairs), length, depth)


def label_rows(brackets: Tensor, size: Tensor, length: int, depth: str = UNMATCHED) -> dict[str, Tensor]:
    """Make rows of tokens and their labels from strings of brackets.

    Args:
        brackets: Ids of brackets, int64[n, at least the largest size].
        size: How many of a row's brackets count, int64[n].
        length: Tokens of a row.
        depth: The depth label, one of :data:`DEPTH_LABELS`.

    Returns:
        ``input_ids`` int64[n, length]; ``attention_mask`` int64[n, length], 0 on padding; ``labels`` int64[n,
        length, 3], one for each of :data:`gaugeport.models.dyck.HEADS`, :data:`IGNORED` on padding.
    """
    n = len(brackets)
    ids = torch.full((n, length), PAD)
    ids[:, 0] = BOS
    ids[:, 1 : 1 + brackets.shape[1]] = brackets
    position = torch.arange(length)
    ids[position == (size + 1)[:, None]] = EOS
    ids[position > (size + 1)[:, None]] = PAD
    kept = ids != PAD
    labels = torch.stack([ids, depth_labels(ids, depth), invalid_labels(ids)], -1)
    return {
        "input_ids": ids,
        "attention_mask": kept.long(),
        "labels": labels.masked_fill(~kept[..., None], IGNORED),
    }


def depth_labels(ids: Tensor, label: str = UNMATCHED) -> Tensor:
    """Label the depth of every position, clamped to [0, 8]; ids and result are int64[n, t].

    Before the first invalid token both labels are the height of the stack. They differ at two in five
    positions of the training distribution, and the paper gives both:

    - ``unmatched``: the "count of unmatched openers" (section 4.2). A closer matches the opener on top of the
      stack if both are of one family; any other closer leaves the count as it is.
    - ``running``: openers minus closers so far, which is what the paper's constructive specification computes
      (section 5: the causal average of is_open − is_close, times the position, quantised). A closer without a
      partner cancels a later opener.

    Raises:
        ValueError: For an unknown label.
    """
    if label == RUNNING:
        return (is_open(ids).long() - is_close(ids).long()).cumsum(1).clamp(0, MAX_DEPTH)
    if label != UNMATCHED:
        raise ValueError(f"depth label {label!r}; allowed: {', '.join(DEPTH_LABELS)}")
    n, t = ids.shape
    stack = torch.full((n, t + 2), -1)  # place 0 lies below the first opener
    height = torch.zeros(n, 1, dtype=torch.long)
    opens, closes = is_open(ids), is_close(ids)
    depths = torch.empty(n, t, dtype=torch.long)
    for i in range(t):
        matched = closes[:, i] & (stack.gather(1, height)[:, 0] == ids[:, i] - CLOSE)
        height = height + opens[:, i : i + 1].long() - matched[:, None].long()
        pushed = torch.where(opens[:, i : i + 1], ids[:, i : i + 1] - OPEN, stack.gather(1, height))
        stack.scatter_(1, height, pushed)
        depths[:, i] = height[:, 0]
    return depths.clamp(max=MAX_DEPTH)


def invalid_labels(ids: Tensor) -> Tensor:
    """Return 1 from the first closer on that meets an empty stack or another family on top, and 0 before it.

    Ids and result are int64[n, t]. A closer takes the top off the stack whether it matches or not.
    """
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
    """Return where tokens are opening brackets, a bool of the same shape."""
    return (ids >= OPEN) & (ids < OPEN + FAMILIES)


def is_close(ids: Tensor) -> Tensor:
    """Return where tokens are closing brackets, a bool of the same shape."""
    return (ids >= CLOSE) & (ids < CLOSE + FAMILIES)


def heldout(
    split: str, n: int, longest: int, length: int, seed: int, depth: str = UNMATCHED
) -> dict[str, Tensor]:
    """Draw held-out strings of one split, the same for every model.

    Args:
        split: One of :data:`SPLITS`.
        n: Number of strings.
        longest: The longest string of training, in brackets.
        length: Tokens of a row.
        seed: Decides the strings.
        depth: The depth label, one of :data:`DEPTH_LABELS`.

    Returns:
        Labelled strings (:func:`label_rows`).

    Raises:
        ValueError: For an unknown split, or lengths that do not fit the row.
    """
    gen = generator(seed, "dyck", "heldout", split)
    if split == "train":
        return draw_strings(n, (SHORTEST_LENGTH, longest), length, gen, depth)
    if split == "compositional":
        return compositional(n, (SHORTEST_LENGTH, longest), length, gen, depth)
    if split == "long":
        return draw_strings(n, LONG_LENGTHS, length, gen, depth)
    raise ValueError(f"unknown split {split!r}; allowed: {', '.join(SPLITS)}")


def _dyck_words(size: Tensor, coin: Tensor, family: Tensor) -> Tensor:
    """Return valid strings of even ``size`` int64[n]: int64[n, longest], meaningless beyond ``size``.

    ``coin`` bool[n, longest] says where a bracket opens if it may, ``family`` int64[n, longest] of which
    family it is then.
    """
    n, longest = coin.shape
    height = torch.zeros(n, dtype=torch.long)
    stack = torch.zeros(n, MAX_DEPTH + 1, dtype=torch.long)
    words = torch.full((n, longest), OPEN)
    for i in range(longest):
        # the coin may open if there is room on the stack and time to close; an empty stack has to be opened
        opening = (coin[:, i] | (height == 0)) & (height < MAX_DEPTH) & (height < size - i)
        top = stack.gather(1, height[:, None])[:, 0]
        words[:, i] = torch.where(opening, OPEN + family[:, i], CLOSE + top)
        height = (height + torch.where(opening, 1, -1)).clamp(min=0)
        new_top = torch.where(opening, family[:, i], stack.gather(1, height[:, None])[:, 0])
        stack.scatter_(1, height[:, None], new_top[:, None])
    return words
