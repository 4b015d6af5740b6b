"""Measure log-odds at the slot after a prompt, for edits of the residual stream at one site.

The slot is the place after a prompt for a decided word: a verdict, or the opening of an answer. The blocks up
to the site run once; only the blocks above it run again for every edit.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from gaugeport.charts import Chart
from gaugeport.streams.activations import check_site, record_streams
from gaugeport.streams.interventions import Edit
from gaugeport.streams.massive import LEAVE_OUT, check_treatment, massive_tokens

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Prompts:
    """A batch of prompts, padded on the right."""

    input_ids: Tensor
    """int64[n, time]."""
    attention_mask: Tensor
    """int64[n, time], 1 for tokens and 0 for padding."""
    last: Tensor
    """int64[n], the position of each prompt's last token, which predicts the slot."""


def prompt_batches(
    texts: Sequence[str],
    tokenizer: PreTrainedTokenizerBase,
    length: int,
    batch_size: int,
    whole: bool = False,
) -> list[Prompts]:
    """Encode prompts and sort them by length.

    Each row is bos (eos where the tokenizer has no bos) and the last ``length − 1`` tokens of its prompt: a
    long prompt loses its beginning, never its slot. Rows of training data begin in mid-document too. A prompt
    that begins with this token gets no second one.

    Args:
        texts: the prompts.
        tokenizer: the tokenizer of the model.
        length: the most tokens in a row, at least 2.
        batch_size: prompts per batch.
        whole: the prompts have all of their tokens, as a chat template writes them; nothing is put in front.

    Returns:
        Batches of prompts, shortest first.

    Raises:
        ValueError: no prompts, a prompt without tokens, ``length`` below 2, or a tokenizer with neither bos
            nor eos for prompts that are not ``whole``.
    """
    if not texts or length < 2:
        raise ValueError(
            f"{len(texts)} prompts, length={length}; allowed: 1 prompt or more, length 2 or more"
        )
    prefix = next((i for i in (tokenizer.bos_token_id, tokenizer.eos_token_id) if i is not None), None)
    if prefix is None and not whole:
        raise ValueError("the tokenizer has neither a bos nor an eos token to begin prompts with")
    encoded = tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]
    empty = [text for text, ids in zip(texts, encoded, strict=True) if not ids]
    if empty:
        raise ValueError(f"a prompt has no tokens: {empty[0]!r}")
    rows = sorted((_row(ids, prefix, length, whole) for ids in encoded), key=len)
    return [_padded(rows[i : i + batch_size]) for i in range(0, len(rows), batch_size)]


def word_ids(
    sides: tuple[Sequence[str], Sequence[str]], tokenizer: PreTrainedTokenizerBase, after: str = "it"
) -> tuple[Tensor, Tensor]:
    """Return the ids of the first tokens of two lists of words.

    A word-level tokenizer has one token per word. Of subwords the first token counts; a token that begins
    words of both lists is dropped from both.

    Args:
        sides: the words of the positive and of the negative side.
        tokenizer: the tokenizer of the model.
        after: the text before each word. A space is put between them, unless ``after`` ends in white space.

    Returns:
        int64[n] and int64[m], sorted.

    Raises:
        ValueError: the tokenizer does not know a word, or no token is left on one side.
    """
    start = tokenizer(after, add_special_tokens=False)["input_ids"]
    space = "" if after[-1:].isspace() else " "
    first_tokens: list[set[int]] = []
    for words in sides:
        ids = set()
        for word in words:
            whole = tokenizer(f"{after}{space}{word}", add_special_tokens=False)["input_ids"]
            if (
                whole[: len(start)] != start
                or len(whole) == len(start)
                or whole[len(start)] == tokenizer.unk_token_id
            ):
                raise ValueError(
                    f"the tokenizer does not know {word!r} after {after!r}; allowed: words of its vocabulary"
                )
            ids.add(whole[len(start)])
        first_tokens.append(ids)
    shared = first_tokens[0] & first_tokens[1]
    for words, ids in zip(sides, first_tokens, strict=True):
        if not ids - shared:
            raise ValueError(
                f"the words {', '.join(words) or '(none)'} share their first tokens with the other list; "
                "allowed: a word or more whose first token begins no word of the other list"
            )
    positive, negative = (torch.tensor(sorted(ids - shared)) for ids in first_tokens)
    return positive, negative


class Slot:
    """The log-odds f = logsumexp(positive logits) − logsumexp(negative logits) at the slot, in nats."""

    def __init__(
        self, model: Any, chart: Chart, site: str, batches: Sequence[Prompts], words: tuple[Tensor, Tensor]
    ):
        """Run the model up to the site.

        Args:
            model: a causal language model in evaluation mode.
            chart: its chart.
            site: the output of a block.
            batches: the prompts.
            words: token ids of the positive and of the negative words.

        Raises:
            ValueError: the model is in training mode, or the site is not the output of a block.
        """
        self.model, self.chart = model, chart
        self.site = check_site(site, len(chart.blocks(model)), chart)
        self.words = tuple(w.to(model.device) for w in words)
        self._below = list(_streams(model, chart, site, batches))

    @torch.no_grad()
    def log_odds(self, edit: Edit | None = None) -> Tensor:
        """Return f of every prompt, float64[n], with the stream at the site replaced by ``edit`` of it."""
        parts = []
        for b, x in self._below:
            keep, place = b.last.unique(return_inverse=True)  # only the logits at the slots are needed
            with resumed_above(self.model, self.chart, self.site, x if edit is None else edit(x)):
                logits = _run(self.model, b, logits_to_keep=keep).logits
            at_slot = logits[torch.arange(len(x), device=x.device), place].double()
            positive, negative = (at_slot[:, w].logsumexp(-1) for w in self.words)
            parts.append(positive - negative)
        return torch.cat(parts).cpu()


class LastTokens(NamedTuple):
    """The stream at the last token of every prompt, and what goes with it."""

    streams: Tensor
    """float32[n, d]."""
    length: float
    """The mean norm over all tokens but the first of each prompt."""
    left_out: int
    """How many tokens were left out of the mean norm (and of ``streams``) because they are massive."""


def last_token_streams(
    model: Any, chart: Chart, site: str, batches: Sequence[Prompts], massive: str = LEAVE_OUT
) -> LastTokens:
    """Return the stream at the last token of every prompt, and the mean length of the stream.

    On LayerNorm charts both leave out the component along the all-ones direction, which nothing reads.

    Args:
        model: a causal language model in evaluation mode.
        chart: its chart.
        site: the output of a block.
        batches: the prompts.
        massive: ``leave_out`` tokens with massive activations (:mod:`gaugeport.streams.massive`; the first
            of each prompt counts towards the median), or ``keep`` them.

    Raises:
        ValueError: the model is in training mode, the site is not the output of a block, the last token of
            every prompt is massive, or ``massive`` is unknown.
    """
    check_treatment(massive)
    at_last_token, lengths, left_out = [], [], 0
    for b, x in _streams(model, chart, site, batches):
        visible = x.float() - x.float().mean(-1, keepdim=True) if chart.norm == "layer" else x.float()
        counted = b.attention_mask[:, 1:] > 0
        found = torch.zeros_like(b.attention_mask, dtype=torch.bool)
        if massive == LEAVE_OUT:
            found = massive_tokens(visible, b.attention_mask > 0)
        rows = torch.arange(len(x), device=x.device)
        at_last_token.append(visible[rows, b.last][~found[rows, b.last]].cpu())
        lengths.append(visible[:, 1:].norm(dim=-1)[counted & ~found[:, 1:]].cpu())
        left_out += int(found[:, 1:].sum())
    streams = torch.cat(at_last_token)
    if not len(streams):
        raise ValueError(
            f"the last token of every prompt is massive at {site}: a direction made of them says nothing of "
            "ordinary tokens; allowed: prompts that end otherwise, or measurement.massive=keep"
        )
    return LastTokens(streams, float(torch.cat(lengths).mean()), left_out)


@contextmanager
def resumed_above(model: nn.Module, chart: Chart, site: str, stream: Tensor) -> Iterator[None]:
    """Make forward passes continue from a given stream, without computing the blocks up to the site.

    Embeddings, positions and masks are computed, so the blocks above the site run as usual.

    Args:
        model: the model.
        chart: its chart.
        site: the output of a block.
        stream: float[batch, time, d], taken as the output of that block.
    """
    blocks = chart.blocks(model)[: int(site.removeprefix("block")) + 1]
    try:
        for block in blocks[:-1]:
            block.forward = lambda hidden_states, *_, **__: hidden_states  # type: ignore[method-assign]
        blocks[-1].forward = lambda hidden_states, *_, **__: stream  # type: ignore[method-assign]
        yield
    finally:
        for block in blocks:
            vars(block).pop("forward", None)


@torch.no_grad()
def _streams(
    model: Any, chart: Chart, site: str, batches: Sequence[Prompts]
) -> Iterator[tuple[Prompts, Tensor]]:
    """Yield every batch on the model's device, and the stream at the site."""
    site = check_site(site, len(chart.blocks(model)), chart)
    if model.training or site == "embed":
        mode = "training" if model.training else "evaluation"
        raise ValueError(
            f"site {site} of a model in {mode} mode; allowed: the output of a block, in evaluation mode"
        )
    for batch in batches:
        b = Prompts(*(t.to(model.device) for t in vars(batch).values()))
        with record_streams(model, chart, [site]) as streams:
            _run(model, b, logits_to_keep=1)
        yield b, streams[site]


def _run(model: Any, b: Prompts, **options: Any) -> Any:
    return model(input_ids=b.input_ids, attention_mask=b.attention_mask, use_cache=False, **options)


def _row(ids: list[int], first: int | None, length: int, whole: bool) -> list[int]:
    """Return a prompt's tokens behind ``first``, once; without it where a ``whole`` prompt has none."""
    begun = ids[0] == first
    front = [] if first is None or (whole and not begun) else [first]
    return [*front, *ids[int(begun) :][-(length - len(front)) :]]


def _padded(rows: Sequence[Sequence[int]]) -> Prompts:
    lengths = torch.tensor([len(r) for r in rows])
    width = int(lengths.max())
    # padding is masked, and it is to the right of the slot
    ids = torch.tensor([[*r, *[0] * (width - len(r))] for r in rows])
    return Prompts(ids, (torch.arange(width) < lengths[:, None]).to(torch.int64), lengths - 1)
