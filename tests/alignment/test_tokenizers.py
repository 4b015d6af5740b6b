"""Tokenizers are compared by what they encode texts to, not by their vocabularies."""

import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from gaugeport.alignment.tokenizers import PROBES, check_tokenizers


def bytes_with(normalizer=None, merges=(), pad=False, reverse=False):
    """A byte-level tokenizer: 256 bytes, some merges, and perhaps a normalizer or an added [PAD]."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet(), reverse=reverse)
    entries = [*alphabet, *("".join(pair) for pair in merges)]
    raw = Tokenizer(models.BPE({entry: i for i, entry in enumerate(entries)}, list(merges)))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    if normalizer is not None:
        raw.normalizer = normalizer
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw)
    if pad:
        tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    return tokenizer


def test_added_pad_token_is_harmless():
    plain, padded = bytes_with(), bytes_with(pad=True)
    assert len(padded) == len(plain) + 1 and padded.get_vocab() != plain.get_vocab()
    check_tokenizers(plain, padded)
    check_tokenizers(padded, plain)
    check_tokenizers(plain.backend_tokenizer, padded)  # one of the tokenizers library itself


@pytest.mark.parametrize(
    "normalizer",
    [
        normalizers.Lowercase(),
        normalizers.StripAccents(),
        normalizers.NFC(),
        normalizers.NFKC(),
        normalizers.NFD(),
        normalizers.Strip(),
        normalizers.Replace("\n", " "),
        normalizers.Replace("\r\n", "\n"),
        normalizers.Replace("  ", " "),
        normalizers.Replace("😀", ""),
    ],
    ids=lambda n: type(n).__name__,
)
def test_another_normalizer_is_refused_although_the_vocabularies_are_equal(normalizer):
    plain, other = bytes_with(), bytes_with(normalizer)
    assert plain.get_vocab() == other.get_vocab()
    with pytest.raises(
        ValueError, match=r"must share a tokenizer.*they encode .* differently from token \d+"
    ):
        check_tokenizers(plain, other)


def test_other_merges_and_other_ids_are_refused():
    plain = bytes_with()
    for other in (bytes_with(merges=[("1", "2")]), bytes_with(merges=[("Ġ", "t")]), bytes_with(reverse=True)):
        with pytest.raises(ValueError, match=r"A \[.*\], B \[.*\]"):
            check_tokenizers(plain, other)


def test_message_quotes_the_first_text_and_both_encodings_from_there():
    with pytest.raises(ValueError) as error:
        check_tokenizers(bytes_with(), bytes_with(normalizers.Lowercase()))
    assert repr(PROBES[0]) in str(error.value) and "from token 0 on" in str(error.value)


def test_something_else_than_a_tokenizer_is_named():
    with pytest.raises(TypeError, match=r"expected a tokenizer with \.encode, got a dict"):
        check_tokenizers({"a": 0}, bytes_with())

    class Other:
        def encode(self, text):
            return [0]

    with pytest.raises(TypeError, match="transformers or tokenizers, got a Other: "):
        check_tokenizers(Other(), bytes_with())
