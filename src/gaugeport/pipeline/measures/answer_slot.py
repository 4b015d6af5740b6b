"""Log-odds at the slot after a prompt, as a function of what is done to the residual stream at one site.

The slot is where a prompt asks for a decided word: a verdict, the opening of an answer. What is below the site is
computed once; only the blocks above it run again for every edit of the stream.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from gaugeport.charts import Chart
from gaugeport.streams.activations import check_sites, record_streams
from gaugeport.streams.interventions import Edit


@dataclass(frozen=True)
class Prompts:
    """A batch of prompts: ``input_ids`` and ``attention_mask`` int64[n, time], padded on the right; ``last`` int64[n]
    is the position of each prompt's last token, the one that predicts the slot."""

    input_ids: Tensor
    attention_mask: Tensor
    last: Tensor


def prompt_batches(
    texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, length: int, batch_size: int
) -> list[Prompts]:
    """The prompts, shortest first. Each is bos (eos where there is no bos) and its last ``length − 1`` tokens.

    A long prompt loses its beginning, never its slot; rows of training data begin in mid-document too. Raises
    ``ValueError`` for no prompts, one without tokens, a length below 2, and a tokenizer with neither bos nor eos.
    """
    if not texts or length < 2:
        raise ValueError(f"{len(texts)} prompts of at most {length} tokens; at least 1 of 2 wanted")
    prefix = next((i for i in (tokenizer.bos_token_id, tokenizer.eos_token_id) if i is not None), None)
    if prefix is None:
        raise ValueError("the tokenizer has neither a bos nor an eos token to begin prompts with")
    found = tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]
    empty = [text for text, ids in zip(texts, found, strict=True) if not ids]
    if empty:
        raise ValueError(f"a prompt has no tokens: {empty[0]!r}")
    rows = sorted(([prefix, *ids[-(length - 1) :]] for ids in found), key=len)
    return [_padded(rows[i : i + batch_size]) for i in range(0, len(rows), batch_size)]


def word_ids(
    sides: tuple[Sequence[str], Sequence[str]], tokenizer: PreTrainedTokenizerBase, after: str = "it"
) -> tuple[Tensor, Tensor]:
    """The ids of the first token of every word of two lists, as it follows the text ``after`` and a space.

    A word-level tokenizer has a token per word; of subwords the first decides, and one that begins words of both lists
    is dropped from both. (No space is put in where ``after`` ends in one, or in a line break.) Raises ``ValueError``
    naming a word the tokenizer does not know, and for a side of which nothing is left.
    """
    start = tokenizer(after, add_special_tokens=False)["input_ids"]
    space = "" if after[-1:].isspace() else " "
    found = []
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
                    f"the tokenizer knows no {word!r} after {after!r}; allowed: words of its vocabulary"
                )
            ids.add(whole[len(start)])
        found.append(ids)
    shared = found[0] & found[1]
    for words, ids in zip(sides, found, strict=True):
        if not ids - shared:
            raise ValueError(
                f"no first token tells the words {', '.join(words) or '(none)'} from the other list's"
            )
    positive, negative = (torch.tensor(sorted(ids - shared)) for ids in found)
    return positive, negative


class Slot:
    """The log-odds f = logsumexp(positive logits) − logsumexp(negative logits) at the slot of some prompts, in nats.

    ``model`` is in evaluation mode, ``site`` the output of a block, ``words`` the token ids of both sides. Raises
    ``ValueError`` for a model in training mode and a site that is no block.
    """

    def __init__(
        self, model: Any, chart: Chart, site: str, batches: Sequence[Prompts], words: tuple[Tensor, Tensor]
    ):
        self.model, self.chart, self.site = model, chart, site
        self.words = tuple(w.to(model.device) for w in words)
        self._below = list(_streams(model, chart, site, batches))

    @torch.no_grad()
    def log_odds(self, edit: Edit | None = None) -> Tensor:
        """f at every prompt, float64[n], when ``edit`` takes the place of the stream at the site."""
        parts = []
        for b, x in self._below:
            keep, place = b.last.unique(return_inverse=True)  # logits are wanted at the slots alone
            with resumed_above(self.model, self.chart, self.site, x if edit is None else edit(x)):
                logits = _run(self.model, b, logits_to_keep=keep).logits
            at_slot = logits[torch.arange(len(x), device=x.device), place].double()
            positive, negative = (at_slot[:, w].logsumexp(-1) for w in self.words)
            parts.append(positive - negative)
        return torch.cat(parts).cpu()


def last_token_streams(
    model: Any, chart: Chart, site: str, batches: Sequence[Prompts]
) -> tuple[Tensor, float]:
    """The stream at the last token of every prompt, float32[n, d], and its mean length over all but the first tokens.

    On LayerNorm charts both are without the component along 1, which nothing reads. Raises as :class:`Slot`.
    """
    ends, lengths = [], []
    for b, x in _streams(model, chart, site, batches):
        visible = x.float() - x.float().mean(-1, keepdim=True) if chart.norm == "layer" else x.float()
        ends.append(visible[torch.arange(len(x), device=x.device), b.last].cpu())
        lengths.append(visible[:, 1:].norm(dim=-1)[b.attention_mask[:, 1:] > 0].cpu())
    return torch.cat(ends), float(torch.cat(lengths).mean())


@contextmanager
def resumed_above(model: nn.Module, chart: Chart, site: str, stream: Tensor) -> Iterator[None]:
    """While open, forward passes of ``model`` take ``stream`` [batch, time, d] as what leaves the block ``site``.

    The blocks up to there are not computed; embeddings, positions and masks are, so everything above runs as ever.
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
    check_sites(site, len(chart.blocks(model)))
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


def _padded(rows: Sequence[Sequence[int]]) -> Prompts:
    lengths = torch.tensor([len(r) for r in rows])
    width = int(lengths.max())
    ids = torch.tensor(
        [[*r, *[0] * (width - len(r))] for r in rows]
    )  # padding is masked and to the right of the slot
    return Prompts(ids, (torch.arange(width) < lengths[:, None]).to(torch.int64), lengths - 1)
