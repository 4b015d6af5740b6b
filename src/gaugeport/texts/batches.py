"""Turn texts into token ids, packed into full rows or padded to a batch.

Every row begins with one prefix token: bos, or eos where the tokenizer has no bos (Qwen2). The first token of
a row carries massive activations, so measurements leave it out.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from tqdm import tqdm
from transformers import PreTrainedTokenizerBase

TEXTS_PER_CHUNK = 1000
"""Texts to tokenize at once."""


def pack(
    texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, length: int, add_bos: bool = True
) -> Tensor:
    """Join texts in order and cut them into full rows; the last, unfilled row is dropped.

    Each text is followed by eos (bos where there is no eos, nothing where there is neither).

    Args:
        texts: the texts.
        tokenizer: the tokenizer of the model.
        length: number of tokens in a row.
        add_bos: begin each row with bos (eos where there is no bos); it replaces no token.

    Returns:
        int64[n, length].

    Raises:
        ValueError: ``texts`` is one string, ``length`` leaves no room for a token, the tokenizer has neither
            bos nor eos to begin rows with, or the tokens do not fill one row.
    """
    prefix = _prefix(tokenizer, add_bos)
    room = length - len(prefix)
    if room < 1:
        raise ValueError(f"length={length}; allowed: {len(prefix) + 1} or more")
    end = tokenizer.eos_token_id if tokenizer.eos_token_id is not None else tokenizer.bos_token_id
    stream = torch.tensor(
        [i for ids in _encode(texts, tokenizer) for i in (ids if end is None else (*ids, end))],
        dtype=torch.int64,
    )
    n = len(stream) // room
    if n == 0:
        raise ValueError(
            f"{len(texts)} texts give {len(stream)} tokens, fewer than the {room} that fill one row"
        )
    rows = stream[: n * room].view(n, room)
    return torch.cat([torch.tensor(prefix, dtype=torch.int64).expand(n, -1), rows], dim=1)


def rows_holding(rows: Tensor, tokens: int, skip_first: int = 0, key: str = "tokens") -> Tensor:
    """Return as many of the first rows as hold a number of tokens.

    Args:
        rows: int64[n, length].
        tokens: number of tokens to hold.
        skip_first: number of tokens at the start of each row that do not count.
        key: the config key of ``tokens``, for the error message.

    Returns:
        int64[m, length].

    Raises:
        ValueError: ``tokens`` is not positive, or there are too few rows.
    """
    n_rows = -(-tokens // (rows.shape[1] - skip_first))
    if not 0 < n_rows <= len(rows):
        raise ValueError(
            f"{key}={tokens} requires {n_rows} held-out rows of {rows.shape[1]} tokens; allowed: 1 to "
            f"{len(rows)} rows (more with data.documents)"
        )
    return rows[:n_rows]


def mixed_rows(rows: Tensor, n_rows: int, generator: torch.Generator) -> Tensor:
    """Draw rows in random order, without repetition until all are used, then again in a new order.

    Args:
        rows: int64[n, length].
        n_rows: number of rows to draw.
        generator: random generator.

    Returns:
        int64[n_rows, length].

    Raises:
        ValueError: there are no rows, or ``n_rows`` is negative.
    """
    if rows.ndim != 2 or len(rows) == 0:
        raise ValueError(f"rows have the shape {tuple(rows.shape)}; allowed: [n, length] with n at least 1")
    if n_rows < 0:
        raise ValueError(f"n_rows={n_rows}; allowed: 0 or more")
    passes = -(-n_rows // len(rows))
    order = [torch.randperm(len(rows), generator=generator) for _ in range(passes)]
    return rows[torch.cat(order)[:n_rows] if order else torch.empty(0, dtype=torch.int64)]


def ordered_rows(domain_rows: Sequence[Tensor], n_rows: int, generator: torch.Generator) -> Tensor:
    """Draw rows for a run that sees one domain after the other, in equal shares.

    Each domain's rows are drawn by :func:`mixed_rows`.

    Args:
        domain_rows: int64[n, length] per domain, in the order the run sees them.
        n_rows: number of rows to draw from all domains; of two, the first has the smaller half.
        generator: random generator.

    Returns:
        int64[n_rows, length].

    Raises:
        ValueError: there are no domains, their rows differ in length, or as :func:`mixed_rows`.
    """
    if not domain_rows:
        raise ValueError("domain_rows is empty; allowed: the rows of one domain or more")
    lengths = [rows.shape[-1] for rows in domain_rows]
    if len(set(lengths)) > 1:
        raise ValueError(f"the rows of the domains have the lengths {lengths}; allowed: equal lengths")
    n = len(domain_rows)
    shares = [n_rows * (i + 1) // n - n_rows * i // n for i in range(n)]
    parts = [mixed_rows(rows, share, generator) for rows, share in zip(domain_rows, shares, strict=True)]
    return torch.cat(parts)


def row_batches(rows: Tensor, batch_size: int) -> Iterator[dict[str, Tensor]]:
    """Split full rows into batches.

    Args:
        rows: int64[n, length].
        batch_size: rows per batch; the last batch may be smaller.

    Yields:
        ``input_ids`` and an ``attention_mask`` of ones, int64[batch, length] each, in the order of the rows.

    Raises:
        ValueError: ``batch_size`` is below 1.
    """
    for part in rows.split(_positive(batch_size, "batch_size")):
        yield {"input_ids": part, "attention_mask": torch.ones_like(part)}


def padded_batches(
    texts: Sequence[str],
    tokenizer: PreTrainedTokenizerBase,
    batch_size: int,
    max_length: int,
    add_bos: bool = True,
) -> Iterator[dict[str, Tensor]]:
    """Put one text in each row, padded on the right to the longest row of the batch.

    Special tokens that the tokenizer would add are left out. Padding is the pad token (eos or 0 where there
    is none), and it is masked.

    Args:
        texts: the texts.
        tokenizer: the tokenizer of the model.
        batch_size: texts per batch.
        max_length: number of tokens to cut rows to.
        add_bos: begin each row with bos (eos where there is no bos).

    Yields:
        ``input_ids`` and ``attention_mask`` (1 for tokens, 0 for padding), int64[batch, ≤ max_length] each,
        in the order of the texts.

    Raises:
        ValueError: ``texts`` is one string, ``batch_size`` is below 1, ``max_length`` leaves no room for a
            token, the tokenizer has neither bos nor eos to begin rows with, or a text has no tokens.
    """
    _positive(batch_size, "batch_size")
    prefix = _prefix(tokenizer, add_bos)
    if max_length <= len(prefix):
        raise ValueError(f"max_length={max_length}; allowed: {len(prefix) + 1} or more")
    padding = next((i for i in (tokenizer.pad_token_id, tokenizer.eos_token_id) if i is not None), 0)
    for start in range(0, len(texts), batch_size):
        encoded = list(_encode(texts[start : start + batch_size], tokenizer))
        if not all(encoded):
            raise ValueError(f"text {start + encoded.index([])} has no tokens")
        tokens = [torch.tensor([*prefix, *ids][:max_length], dtype=torch.int64) for ids in encoded]
        input_ids = torch.nn.utils.rnn.pad_sequence(tokens, batch_first=True, padding_value=padding)
        lengths = torch.tensor([len(ids) for ids in tokens])
        mask = (torch.arange(input_ids.shape[1]) < lengths[:, None]).to(torch.int64)
        yield {"input_ids": input_ids, "attention_mask": mask}


def seen_tokens(rows: Tensor) -> Tensor:
    """Return the token ids that occur in ``rows``, each once and ascending: int64[n_seen]."""
    return torch.unique(rows)


def _encode(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> Iterator[list[int]]:
    """Yield the ids of every text, without special tokens."""
    if isinstance(texts, str):
        raise ValueError("texts is one string; allowed: a list of texts")
    starts = tqdm(
        range(0, len(texts), TEXTS_PER_CHUNK),
        desc="tokenizing",
        unit=f"×{TEXTS_PER_CHUNK} texts",
        delay=2,
        disable=None,
    )
    for start in starts:
        # verbose=False: no warning that a text is longer than the context, because it is cut into rows later
        chunk = list(texts[start : start + TEXTS_PER_CHUNK])
        yield from tokenizer(chunk, add_special_tokens=False, verbose=False)["input_ids"]


def _prefix(tokenizer: PreTrainedTokenizerBase, add_bos: bool) -> list[int]:
    """Return the ids that every row begins with: one or none."""
    if not add_bos:
        return []
    for token_id in (tokenizer.bos_token_id, tokenizer.eos_token_id):
        if token_id is not None:
            return [token_id]
    raise ValueError(
        "the tokenizer has neither a bos nor an eos token to begin rows with; pass add_bos=False"
    )


def _positive(value: int, name: str) -> int:
    """Return ``value`` if it is at least 1."""
    if value < 1:
        raise ValueError(f"{name}={value}; allowed: 1 or more")
    return value
