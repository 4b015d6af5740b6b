"""Cut held-out text into rows of several lengths, and record a model's stream on all of them in one pass.

The models are causal: the stream of a row's first 16 tokens does not depend on what follows them. So a row of
128 tokens holds a row of 64 and one of 16, and one pass over rows of different lengths serves every length.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from gaugeport.charts import Chart
from gaugeport.streams.activations import streams_at
from gaugeport.texts import row_batches


@dataclass(frozen=True)
class Text:
    """Rows of several lengths, each with the same first token, and what can be measured on them.

    Attributes:
        groups: int64[n, length] each, longest rows first.
        levels: Row length -> the numbers of tokens, ascending, that its rows hold.
    """

    groups: tuple[Tensor, ...]
    levels: dict[int, list[int]]


def cut_text(rows: Tensor, lengths: Sequence[int], tokens: Sequence[int]) -> Text:
    """Cut packed rows anew, into as many rows of every length as hold the largest number of tokens.

    Every new row begins with the first token of the packed rows, the prefix of
    :func:`gaugeport.pipeline.data.pack`, which counts among a row's tokens. Where text runs out, a length has
    fewer numbers of tokens.

    Args:
        rows: int64[n, length], packed rows that all begin with one prefix token.
        lengths: Row lengths.
        tokens: Numbers of tokens.

    Raises:
        ValueError: The rows begin with different tokens, or hold too few tokens for the smallest number.
    """
    prefix = rows[:1, :1]
    if not bool((rows[:, 0] == prefix).all()):
        raise ValueError("held-out rows begin with different tokens; allowed: packed rows, with one prefix")
    text, groups, levels, n_rows = rows[:, 1:].flatten(), [], {}, 0
    for length in sorted(lengths, reverse=True):
        held = n_rows + len(text) // (length - 1)
        levels[length] = [n for n in sorted(tokens) if -(-n // length) <= held]
        if not levels[length]:
            raise ValueError(
                f"{held} held-out rows of {length} tokens hold fewer than {min(tokens)} tokens; allowed: "
                "fewer task.tokens, or more text (data.documents)"
            )
        more = max(-(-levels[length][-1] // length) - n_rows, 0)
        if more:
            used, text = text[: more * (length - 1)], text[more * (length - 1) :]
            groups.append(torch.cat([prefix.expand(more, 1), used.view(more, length - 1)], dim=1))
            n_rows += more
    return Text(tuple(groups), dict(sorted(levels.items())))


class Streams:
    """The stream of one model at some sites, on every row of a text."""

    def __init__(self, groups: Sequence[dict[str, Tensor]]):
        """Store streams: site -> float32[n, length, d] for every group of rows, longest rows first."""
        self._groups = groups

    def rows(self, site: str, length: int) -> Tensor:
        """Return the stream on the rows of a length, float32[n, length, d]."""
        parts = [of[site][:, :length] for of in self._groups if of[site].shape[1] >= length]
        return parts[0] if len(parts) == 1 else torch.cat(parts)


def record(model: PreTrainedModel, chart: Chart, text: Text, sites: Sequence[str], batch: int) -> Streams:
    """Run a model on a text, at most ``batch`` tokens at a time, and return its streams."""
    groups = []
    for rows in text.groups:
        n, length = rows.shape
        streams = {site: torch.empty(n, length, chart.width) for site in sites}
        per_batch, start = max(1, batch // length), 0
        for inputs in row_batches(rows, per_batch):
            here = streams_at(model, chart, inputs, sites, skip_first=0)
            end = start + len(inputs["input_ids"])
            for site in sites:
                streams[site][start:end] = here[site].view(end - start, length, -1)
            start = end
        groups.append(streams)
    return Streams(groups)
