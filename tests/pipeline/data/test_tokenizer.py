"""The word-level tokenizer: knows the grammar, begins with bos, is saved and loaded."""

from pathlib import Path

import pytest
from transformers import AutoTokenizer

from gaugeport.pipeline.data import mini_corpus, mini_tokenizer, vocabulary, word_tokenizer


def test_mini_tokenizer_knows_every_generated_word() -> None:
    tokenizer = mini_tokenizer()
    assert len(tokenizer) == len(vocabulary()) + 4
    corpus = mini_corpus(1000, seed=3)
    for split in ("train", "heldout"):
        texts = corpus.texts(split)
        encoded = tokenizer(texts)["input_ids"]
        assert all(ids[0] == tokenizer.bos_token_id for ids in encoded)
        assert all(tokenizer.unk_token_id not in ids for ids in encoded)
        assert [tokenizer.decode(ids, skip_special_tokens=True) for ids in encoded] == texts


def test_ids_are_sorted_after_the_special_tokens() -> None:
    tokenizer = word_tokenizer(["b a .", "c a <eos>"])
    assert tokenizer.get_vocab() == {
        "<pad>": 0,
        "<bos>": 1,
        "<eos>": 2,
        "<unk>": 3,
        ".": 4,
        "a": 5,
        "b": 6,
        "c": 7,
    }
    assert tokenizer("a z b")["input_ids"] == [1, 5, 3, 6]
    assert tokenizer("a b", add_special_tokens=False)["input_ids"] == [5, 6]
    assert mini_tokenizer().get_vocab() == word_tokenizer(reversed(vocabulary())).get_vocab()


def test_folder_round_trip(tmp_path: Path) -> None:
    tokenizer = mini_tokenizer()
    tokenizer.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    text = "mary gave the small red ball to john ."
    assert (tmp_path / "tokenizer.json").is_file()
    assert again.get_vocab() == tokenizer.get_vocab()
    assert again(text)["input_ids"] == tokenizer(text)["input_ids"]
    assert again.decode(again(text)["input_ids"], skip_special_tokens=True) == text
    for name in ("pad_token", "bos_token", "eos_token", "unk_token", "padding_side"):
        assert getattr(again, name) == getattr(tokenizer, name)


def test_errors() -> None:
    with pytest.raises(ValueError, match="allowed: a list of texts or words"):
        word_tokenizer("one text")
    with pytest.raises(ValueError, match="no words"):
        word_tokenizer(["", " "])
