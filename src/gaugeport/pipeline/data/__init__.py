"""Texts to train and measure on: the mini grammar, local files and hub datasets behind one interface."""

from gaugeport.pipeline.data.batches import (
    mixed_rows,
    ordered_rows,
    pack,
    padded_batches,
    row_batches,
    rows_holding,
    seen_tokens,
)
from gaugeport.pipeline.data.corpus.grammar import generate, vocabulary
from gaugeport.pipeline.data.corpus.slots import slot_prompt
from gaugeport.pipeline.data.corpus.words import (
    FEMALE_NAMES,
    HELPFUL_OPENINGS,
    MALE_NAMES,
    NAMES,
    NEGATIVE_VERDICTS,
    NUMBERS,
    POSITIVE_VERDICTS,
    REFUSAL_OPENINGS,
)
from gaugeport.pipeline.data.document import Document
from gaugeport.pipeline.data.load import Corpus, hub_corpus, mini_corpus, prompt_corpus, text_corpus
from gaugeport.pipeline.data.tokenizer import mini_tokenizer, word_tokenizer

__all__ = [
    "FEMALE_NAMES",
    "HELPFUL_OPENINGS",
    "MALE_NAMES",
    "NAMES",
    "NEGATIVE_VERDICTS",
    "NUMBERS",
    "POSITIVE_VERDICTS",
    "REFUSAL_OPENINGS",
    "Corpus",
    "Document",
    "generate",
    "hub_corpus",
    "mini_corpus",
    "mini_tokenizer",
    "mixed_rows",
    "ordered_rows",
    "pack",
    "padded_batches",
    "prompt_corpus",
    "row_batches",
    "rows_holding",
    "seen_tokens",
    "slot_prompt",
    "text_corpus",
    "vocabulary",
    "word_tokenizer",
]
