"""Collect the evidence of a link between two models under every setting of the calibration.

A setting is a row length, what is left out of each row, a number of tokens, and whether a sample is a token
or the mean of a row. Numbers of tokens are nested prefixes, read off one pass over the tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor

from gaugeport.alignment.moments import Moments, MomentStream
from gaugeport.pipeline.measures.calibration.text import Streams, Text
from gaugeport.streams.massive import massive_tokens

LEFT_OUT = ("none", "first", "massive")
"""What is left out of rows: nothing, their first tokens, or the tokens that are massive in either model."""

MIN_SAMPLES = 4
"""Fewest samples that a correlation is taken over."""


@dataclass(frozen=True, order=True)
class Setting:
    """How evidence is collected: ``weights`` (with the other fields empty), or activations of some tokens."""

    length: int
    """Tokens in a row."""
    left_out: str
    """One of :data:`LEFT_OUT`."""
    tokens: int
    """Number of tokens read, those left out included."""
    samples: str
    """``tokens``, or ``row means``."""


WEIGHTS = Setting(0, "", 0, "")
"""Evidence from the weights, which reads no text."""


def moments_at(a: Streams, b: Streams, site: str, text: Text) -> Iterator[tuple[list[Setting], Moments]]:
    """Yield the moments of two models at one site, with the settings that they hold for.

    Settings of several that leave out the same tokens share one ``Moments``. Row means are taken without
    the first token of each row and with whatever else is massive, where there are at least
    :data:`MIN_SAMPLES` rows.

    Args:
        a: Streams of model A.
        b: Streams of model B on the same text.
        site: The site.
        text: The text.
    """
    for length, levels in text.levels.items():
        x, y = a.rows(site, length), b.rows(site, length)
        for names, n, moments in _of_tokens(x, y, levels):
            yield [Setting(length, left_out, n, "tokens") for left_out in names], moments
        # Every row begins with the same token, whose stream is the same then: leaving it in adds a constant.
        stream, done = MomentStream(), 0
        for n in levels:
            rows = slice(done, n // length)
            stream.update(x[rows, 1:].mean(1), y[rows, 1:].mean(1))
            done = n // length
            if done >= MIN_SAMPLES:
                yield [Setting(length, "first", n, "row means")], stream.result()


def _of_tokens(x: Tensor, y: Tensor, levels: list[int]) -> Iterator[tuple[list[str], int, Moments]]:
    """Yield moments over tokens, with what is left out of them and the number of tokens.

    Each kind of token (first or not, massive or not) is summed apart: massive ones are a hundred times as
    long as the others, whose sums would lose digits beside them.
    """
    is_first = torch.zeros(x.shape[:2], dtype=torch.int64)
    is_first[:, 0] = 1
    kind = (is_first + 2 * (massive_tokens(x) | massive_tokens(y))).flatten()
    x, y, done = x.flatten(0, 1), y.flatten(0, 1), 0
    streams = {k: MomentStream() for k in kind.unique().tolist()}
    kinds_kept = {"none": (0, 1, 2, 3), "first": (0, 2), "massive": (0, 1)}
    for n in levels:
        for k, stream in streams.items():
            chosen = kind[done:n] == k
            stream.update(x[done:n][chosen], y[done:n][chosen])
        done, present = n, set(kind[:n].tolist())
        sums = {k: streams[k].result() for k in present}
        sharing: dict[frozenset[int], list[str]] = {}
        for left_out, kept in kinds_kept.items():
            sharing.setdefault(frozenset(kept) & present, []).append(left_out)
        for kinds, names in sharing.items():
            yield names, n, reduce(Moments.merge, (sums[k] for k in sorted(kinds)))
