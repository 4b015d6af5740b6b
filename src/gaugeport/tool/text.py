"""Tokens to read models on: a user's file, or English that comes with Python."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from gaugeport.texts import documents_from, local_rows, pack, topics

ROW_TOKENS = 256
"""Tokens in a row, or as many as the model has positions."""

HELD_OUT_SHARE = 0.25
"""Held-out tokens over fitted ones."""


def token_rows(
    tokenizer: Any, tokens: int, positions: int | None, path: Path | None = None, field: str = "text"
) -> tuple[Tensor, Tensor]:
    """Return packed rows to fit a gauge on, and others to score it on.

    Rows of both are spread over the whole text: of every five, one is held out.

    Args:
        tokenizer: The tokenizer of the models.
        tokens: How many tokens to fit on, at most; a quarter more is held out.
        positions: The most tokens in a row that the models can read.
        path: A .txt (one document a line), .jsonl, .csv or .parquet file; None for Python's language
            reference, about 100,000 tokens of English.
        field: The field of the file that holds the text.

    Returns:
        int64[n, length] and int64[m, length].

    Raises:
        ValueError: The file cannot be read, or fills fewer than two rows.
        FileNotFoundError: There is no such file.
    """
    if path is None:
        texts = topics()
    else:
        texts = [d.text for d in documents_from(local_rows(path), str(path), field)]
    length = min(ROW_TOKENS, positions or ROW_TOKENS)
    rows = pack(texts, tokenizer, length, add_bos=_begins(tokenizer))
    if len(rows) < 2:
        raise ValueError(f"{path or 'the text'} fills {len(rows)} row of {length} tokens; expected 2 or more")
    every = round(1 + 1 / HELD_OUT_SHARE)
    wanted = max(2, -(-tokens * every // ((every - 1) * length)))
    rows = rows[:wanted]
    if len(rows) < every:
        return rows[:-1], rows[-1:]
    held_out = [i % every == every - 1 for i in range(len(rows))]
    return rows[[not h for h in held_out]], rows[held_out]


def positions_of(config: Any) -> int | None:
    """Return the most tokens in a row that a model of this config can read, or None where it says nothing."""
    for name in ("max_position_embeddings", "n_positions"):
        value = getattr(config, name, None)
        if isinstance(value, int):
            return value
    return None


def _begins(tokenizer: Any) -> bool:
    return tokenizer.bos_token_id is not None or tokenizer.eos_token_id is not None
