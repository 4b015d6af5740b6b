"""Texts -> token ids, packed into full rows or padded to a batch.

Every row begins with one prefix token, bos or, where a tokenizer has none (Qwen2), eos, so that measurements can leave
out the first token of every row, which carries massive activations.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from tqdm import tqdm
from transformers import PreTrainedTokenizerBase

_CHUNK = 1000


def pack(
    texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, length: int, add_bos: bool = True
) -> Tensor:
    """The texts one after another, in order, cut into full rows: ids [n, length], int64.

    Each document is followed by eos (bos where there is no eos, nothing where there is neither). With add_bos each row
    begins with bos (eos where there is no bos), which is put in, never in place of a token; the last, unfilled row is
    dropped.

    Raises:
        ValueError: texts is one string, length leaves no room for a token, a prefix is wanted from a tokenizer that has
            neither bos nor eos, or the tokens do not fill one row.
    """
    prefix = _prefix(tokenizer, add_bos)
    room = length - len(prefix)
    if room < 1:
        raise ValueError(f"length is {length}; it must be at least {len(prefix) + 1}")
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
    """The first rows that hold `tokens` tokens, the first `skip_first` of each row not counted: [m, length].

    Raises:
        ValueError: `tokens` is not positive, or there are too few rows; names it by its config `key`.
    """
    wanted = -(-tokens // (rows.shape[1] - skip_first))
    if not 0 < wanted <= len(rows):
        raise ValueError(
            f"{key}={tokens} wants {wanted} held-out rows of {rows.shape[1]} tokens; allowed: 1 to {len(rows)} rows "
            "(more with data.documents)"
        )
    return rows[:wanted]


def mixed_rows(rows: Tensor, n_rows: int, generator: torch.Generator) -> Tensor:
    """n_rows of the rows [n, length], shuffled, and shuffled anew each time they are exhausted: [n_rows, length].

    Raises:
        ValueError: there are no rows, or n_rows is negative.
    """
    if rows.ndim != 2 or len(rows) == 0:
        raise ValueError(f"rows have the shape {tuple(rows.shape)}; it must be [n, length] with n at least 1")
    if n_rows < 0:
        raise ValueError(f"n_rows is {n_rows}; it cannot be negative")
    passes = -(-n_rows // len(rows))
    order = [torch.randperm(len(rows), generator=generator) for _ in range(passes)]
    return rows[torch.cat(order)[:n_rows] if order else torch.empty(0, dtype=torch.int64)]


def ordered_rows(domain_rows: Sequence[Tensor], n_rows: int, generator: torch.Generator) -> Tensor:
    """Rows for a run that sees one domain after the other, in equal shares: [n_rows, length].

    With two domains the first half (floor) comes from domain_rows[0] and the second from domain_rows[1], each shuffled
    and cycled as `mixed_rows` does.

    Raises:
        ValueError: no domains, rows of different lengths, or as `mixed_rows`.
    """
    if not domain_rows:
        raise ValueError("domain_rows is empty; it must hold the rows of at least one domain")
    lengths = [rows.shape[-1] for rows in domain_rows]
    if len(set(lengths)) > 1:
        raise ValueError(f"the rows of the domains have the lengths {lengths}; they must be equal")
    n = len(domain_rows)
    shares = [n_rows * (i + 1) // n - n_rows * i // n for i in range(n)]
    parts = [mixed_rows(rows, share, generator) for rows, share in zip(domain_rows, shares, strict=True)]
    return torch.cat(parts)


def row_batches(rows: Tensor, batch_size: int) -> Iterator[dict[str, Tensor]]:
    """The rows [n, length] in order, batch_size at a time (the last batch may be smaller).

    Yields `input_ids` and an `attention_mask` of ones, int64 [batch, length] each.

    Raises:
        ValueError: batch_size is below 1.
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
    """The texts in order, one a row, cut to max_length and padded on the right to the longest of their batch.

    Rows begin as those of `pack` do, whatever special tokens the tokenizer would add. Padding is the pad token, or eos
    or 0 where there is none: it is masked.

    Yields `input_ids` and `attention_mask` (1 token, 0 padding), int64 [batch, ≤ max_length] each.

    Raises:
        ValueError: texts is one string, batch_size is below 1, max_length leaves no room for a token, a prefix is
            wanted from a tokenizer that has neither bos nor eos, or a text has no tokens.
    """
    _positive(batch_size, "batch_size")
    prefix = _prefix(tokenizer, add_bos)
    if max_length <= len(prefix):
        raise ValueError(f"max_length is {max_length}; it must be at least {len(prefix) + 1}")
    padding = next((i for i in (tokenizer.pad_token_id, tokenizer.eos_token_id) if i is not None), 0)
    for start in range(0, len(texts), batch_size):
        found = list(_encode(texts[start : start + batch_size], tokenizer))
        if not all(found):
            raise ValueError(f"text {start + [bool(ids) for ids in found].index(False)} has no tokens")
        tokens = [torch.tensor([*prefix, *ids][:max_length], dtype=torch.int64) for ids in found]
        input_ids = torch.nn.utils.rnn.pad_sequence(tokens, batch_first=True, padding_value=padding)
        lengths = torch.tensor([len(ids) for ids in tokens])
        mask = (torch.arange(input_ids.shape[1]) < lengths[:, None]).to(torch.int64)
        yield {"input_ids": input_ids, "attention_mask": mask}


def seen_tokens(rows: Tensor) -> Tensor:
    """The ids that occur in the rows, each once, ascending: int64 [n_seen]."""
    return torch.unique(rows)


def _encode(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> Iterator[list[int]]:
    if isinstance(texts, str):
        raise ValueError("texts is one string; pass a list of texts")
    starts = tqdm(
        range(0, len(texts), _CHUNK), desc="tokenizing", unit=f"×{_CHUNK} texts", delay=2, disable=None
    )
    for start in starts:
        # verbose: a document longer than the model's context is no news, it is about to be cut into rows
        yield from tokenizer(list(texts[start : start + _CHUNK]), add_special_tokens=False, verbose=False)[
            "input_ids"
        ]


def _prefix(tokenizer: PreTrainedTokenizerBase, add_bos: bool) -> list[int]:
    if not add_bos:
        return []
    found = next((i for i in (tokenizer.bos_token_id, tokenizer.eos_token_id) if i is not None), None)
    if found is None:
        raise ValueError(
            "the tokenizer has neither a bos nor an eos token to begin rows with; pass add_bos=False"
        )
    return [found]


def _positive(value: int, name: str) -> int:
    if value < 1:
        raise ValueError(f"{name} is {value}; it must be at least 1")
    return value
