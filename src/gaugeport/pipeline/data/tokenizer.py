"""Make a word-level tokenizer for the mini corpus; it is saved and loaded like any other tokenizer."""

from collections.abc import Iterable

from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from gaugeport.pipeline.data.corpus.grammar import vocabulary

PAD, BOS, EOS, UNK = SPECIALS = ("<pad>", "<bos>", "<eos>", "<unk>")
"""Special tokens, with ids 0 to 3 in this order."""


def word_tokenizer(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """Return a tokenizer with one token per word of ``texts``, in sorted order.

    Words are separated by white space, so a list of words will do. Encoding with special tokens puts
    ``<bos>`` first; unknown words become ``<unk>``; padding goes to the right. ``save_pretrained`` writes an
    ordinary tokenizer.json, which ``AutoTokenizer.from_pretrained`` reads.

    Raises:
        ValueError: ``texts`` is one string, or has no word.
    """
    if isinstance(texts, str):
        raise ValueError("texts is one string; allowed: a list of texts or words")
    words = sorted({word for text in texts for word in text.split()} - set(SPECIALS))
    if not words:
        raise ValueError("texts have no words; allowed: texts with a word or more")
    ids = {word: i for i, word in enumerate((*SPECIALS, *words))}
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
    """Return the tokenizer of the mini grammar; its ids do not depend on the sampled corpus."""
    return word_tokenizer(vocabulary())
