"""Rows and batches: packing drops only the remainder, rows begin with bos, domains keep their order."""

import itertools

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from gaugeport.pipeline.data import mini_corpus, mini_tokenizer, word_tokenizer
from gaugeport.texts import (
    mixed_rows,
    ordered_rows,
    pack,
    padded_batches,
    row_batches,
    rows_holding,
    seen_tokens,
)

TEXTS = ["a b c", "d", "e f g h", "a a"]


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerFast:
    return word_tokenizer(TEXTS)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_pack_by_hand(tokenizer: PreTrainedTokenizerFast) -> None:
    rows = pack(TEXTS, tokenizer, length=5)
    assert rows.dtype == torch.int64
    said = [" ".join(tokenizer.convert_ids_to_tokens(row)) for row in rows.tolist()]
    assert said == ["<bos> a b c <eos>", "<bos> d <eos> e f", "<bos> g h <eos> a"]
    bare = pack(TEXTS, tokenizer, length=7, add_bos=False)
    assert " ".join(tokenizer.convert_ids_to_tokens(bare[0].tolist())) == "a b c <eos> d <eos> e"


@pytest.mark.parametrize("length", [2, 17, 64])
def test_nothing_is_lost_but_the_remainder(length: int) -> None:
    tokenizer = mini_tokenizer()
    texts = mini_corpus(60, seed=0).texts("train")
    rows = pack(texts, tokenizer, length)
    stream = list(
        itertools.chain.from_iterable(
            [*tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
            for text in texts
        )
    )
    assert (rows[:, 0] == tokenizer.bos_token_id).all()
    assert (rows[:, 1:] != tokenizer.bos_token_id).all()
    assert (rows != tokenizer.pad_token_id).all()
    kept = rows[:, 1:].flatten().tolist()
    assert kept == stream[: len(kept)]
    assert len(stream) - len(kept) < length - 1


def test_prefix_falls_back_to_eos_and_then_raises(tokenizer: PreTrainedTokenizerFast) -> None:
    eos = tokenizer.eos_token_id
    tokenizer.bos_token = None
    assert (pack(TEXTS, tokenizer, 3)[:, 0] == eos).all()
    tokenizer.eos_token = None
    with pytest.raises(
        ValueError, match="neither a bos nor an eos token to begin rows with; pass add_bos=False"
    ):
        pack(TEXTS, tokenizer, 3)
    assert pack(TEXTS, tokenizer, 10, add_bos=False).shape == (1, 10)


def test_pack_errors(tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(ValueError, match="4 texts give 14 tokens, fewer than the 99 that fill one row"):
        pack(TEXTS, tokenizer, 100)
    with pytest.raises(ValueError, match="0 texts give 0 tokens"):
        pack([], tokenizer, 8)
    with pytest.raises(ValueError, match="length=1; allowed: 2 or more"):
        pack(TEXTS, tokenizer, 1)
    with pytest.raises(ValueError, match="texts is one string"):
        pack("a b c", tokenizer, 2)


def test_mixed_rows_shuffle_and_cycle() -> None:
    rows = torch.arange(10)[:, None].expand(-1, 4)
    mixed = mixed_rows(rows, 25, generator())
    assert mixed.shape == (25, 4)
    assert torch.equal(mixed, mixed_rows(rows, 25, generator()))
    assert not torch.equal(mixed, mixed_rows(rows, 25, generator(1)))
    for start in (0, 10):
        assert mixed[start : start + 10, 0].sort().values.tolist() == list(range(10))
    assert not torch.equal(mixed[:10], mixed[10:20])
    assert mixed_rows(rows, 0, generator()).shape == (0, 4)
    before = torch.get_rng_state()
    mixed_rows(rows, 25, generator())
    assert torch.equal(torch.get_rng_state(), before)


def test_ordered_rows_see_one_domain_after_the_other() -> None:
    first, second = torch.arange(5)[:, None], torch.arange(100, 103)[:, None]
    rows = ordered_rows([first, second], 15, generator())
    assert rows.shape == (15, 1)
    assert (rows[:7] < 100).all() and (rows[7:] >= 100).all()
    assert rows[:5, 0].sort().values.tolist() == list(range(5))
    assert rows[7:10, 0].sort().values.tolist() == [100, 101, 102]
    assert torch.equal(rows, ordered_rows([first, second], 15, generator()))


def test_row_errors() -> None:
    with pytest.raises(ValueError, match=r"rows have the shape \(0, 4\)"):
        mixed_rows(torch.empty(0, 4, dtype=torch.int64), 3, generator())
    with pytest.raises(ValueError, match="n_rows=-1; allowed: 0 or more"):
        mixed_rows(torch.zeros(2, 4), -1, generator())
    with pytest.raises(ValueError, match="domain_rows is empty"):
        ordered_rows([], 3, generator())
    with pytest.raises(ValueError, match=r"lengths \[4, 5\]; allowed: equal"):
        ordered_rows([torch.zeros(2, 4), torch.zeros(2, 5)], 3, generator())
    with pytest.raises(ValueError, match="batch_size=0; allowed: 1 or more"):
        next(row_batches(torch.zeros(2, 4), 0))


def test_batches_keep_order_and_the_last_small_one() -> None:
    rows = torch.arange(20).view(5, 4)
    found = list(row_batches(rows, 2))
    assert [len(batch["input_ids"]) for batch in found] == [2, 2, 1]
    assert torch.equal(torch.cat([batch["input_ids"] for batch in found]), rows)
    assert all((batch["attention_mask"] == 1).all() for batch in found)


def test_padded_batches(tokenizer: PreTrainedTokenizerFast) -> None:
    first, second = padded_batches(TEXTS, tokenizer, batch_size=2, max_length=4)
    said = [" ".join(tokenizer.convert_ids_to_tokens(row)) for row in first["input_ids"].tolist()]
    assert said == ["<bos> a b c", "<bos> d <pad> <pad>"]
    assert first["attention_mask"].tolist() == [[1, 1, 1, 1], [1, 1, 0, 0]]
    assert second["input_ids"].shape == (2, 4)  # "e f g h" is cut
    assert second["attention_mask"].sum(dim=1).tolist() == [4, 3]
    tokenizer.pad_token = None
    padded = next(padded_batches(TEXTS, tokenizer, 2, 4))
    assert torch.equal(padded["attention_mask"], first["attention_mask"])
    assert (padded["input_ids"][1, 2:] == tokenizer.eos_token_id).all()


def test_padded_batches_errors(tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(ValueError, match="batch_size=0; allowed: 1 or more"):
        next(padded_batches(TEXTS, tokenizer, 0, 4))
    with pytest.raises(ValueError, match="max_length=1; allowed: 2 or more"):
        next(padded_batches(TEXTS, tokenizer, 2, 1))
    with pytest.raises(ValueError, match="text 3 has no tokens"):
        list(padded_batches(["a", "b", "c", ""], tokenizer, 2, 4))
    with pytest.raises(ValueError, match="texts is one string"):
        next(padded_batches("a b", tokenizer, 2, 4))


def test_seen_tokens() -> None:
    assert seen_tokens(torch.tensor([[5, 1, 5], [2, 1, 9]])).tolist() == [1, 2, 5, 9]


def test_domains_see_different_tokens() -> None:
    corpus, tokenizer = mini_corpus(2000, seed=0), mini_tokenizer()
    seen = [set(seen_tokens(pack(corpus.texts("train", d), tokenizer, 64)).tolist()) for d in (0, 1)]
    assert len(seen[0] - seen[1]) > 50 and len(seen[1] - seen[0]) > 50 and len(seen[0] & seen[1]) > 100


def test_rows_that_hold_some_tokens():
    rows = torch.arange(40).view(5, 8)
    assert torch.equal(rows_holding(rows, 16), rows[:2]) and len(rows_holding(rows, 17)) == 3
    assert len(rows_holding(rows, 14, skip_first=1)) == 2 and len(rows_holding(rows, 15, skip_first=1)) == 3
    assert len(rows_holding(rows, 40)) == 5
    for tokens, n_rows in ((41, 6), (0, 0), (-9, -1)):
        with pytest.raises(
            ValueError, match=rf"a\.b={tokens} requires {n_rows} held-out rows of 8 .*allowed: 1 to 5 rows"
        ):
            rows_holding(rows, tokens, key="a.b")
