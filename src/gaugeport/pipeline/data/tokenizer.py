"""A word-level tokenizer for the mini corpus, saved and loaded like any other."""

from collections.abc import Iterable

from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from gaugeport.pipeline.data.corpus.grammar import vocabulary

PAD, BOS, EOS, UNK = SPECIALS = ("<pad>", "<bos>", "<eos>", "<unk>")
"""Ids 0 to 3, in this order."""


def word_tokenizer(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """One token for each whitespace-separated word of the texts (a list of words will do), in sorted order.

    Encoding with special tokens puts `<bos>` first; unknown words become `<unk>`; padding goes to the right. It is
    saved by `save_pretrained` as an ordinary tokenizer.json and comes back through `AutoTokenizer.from_pretrained`.

    Raises:
        ValueError: texts is a single string, or holds no word.
    """
    if isinstance(texts, str):
        raise ValueError("texts is one string; pass a list of texts or words")
    found = sorted({word for text in texts for word in text.split()} - set(SPECIALS))
    if not found:
        raise ValueError("no words to make a vocabulary of")
    ids = {word: i for i, word in enumerate((*SPECIALS, *found))}
    tokenizer = Tokenizer(WordLevel(ids, unk_token=UNK))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    tokenizer.post_processor = TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A {BOS} $B", special_tokens=[(BOS, ids[BOS])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        unk_token=UNK,
        padding_side="right",
        clean_up_tokenization_spaces=False,
    )


def mini_tokenizer() -> PreTrainedTokenizerFast:
    """The tokenizer of the mini grammar: the same ids in every run, whatever was sampled."""
    return word_tokenizer(vocabulary())
