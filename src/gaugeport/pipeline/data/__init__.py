"""Data: the corpora that jobs train and measure on.

Files in reading order: ``load`` (a corpus from the mini grammar, local files or the hub, with held-out
documents), ``docs`` (a corpus of Python's reference and docstrings), ``labelled`` (the project's own labelled
prompts, in ``prompts/``), ``tokenizer`` (word-level, for the mini corpus). ``corpus/`` is the grammar that
generates the mini corpus. Documents, and texts as rows of token ids, are in :mod:`gaugeport.texts`.

Callers import these functions by name from here. May import ``gaugeport.texts``, ``job`` (where the prompts'
files are), ``store`` (digests) and nothing else of the project.
"""

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
from gaugeport.pipeline.data.docs import docs_corpus, docs_digest
from gaugeport.pipeline.data.labelled import packaged_prompts
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
    "docs_corpus",
    "docs_digest",
    "generate",
    "hub_corpus",
    "mini_corpus",
    "mini_tokenizer",
    "packaged_prompts",
    "prompt_corpus",
    "slot_prompt",
    "text_corpus",
    "vocabulary",
    "word_tokenizer",
]
