"""Data: the texts that jobs train and measure on, and their token ids.

Files in reading order: ``document`` (a text with its kind, domain and label), ``read`` (rows of local files,
made into documents), ``load`` (a corpus from the mini grammar, local files or the hub, with held-out
documents), ``sources`` (Python's reference and docstrings of installed packages), ``docs`` (a corpus of
those), ``labelled`` (the project's own labelled prompts, in ``prompts/``), ``tokenizer`` (word-level, for the
mini corpus), ``batches`` (texts as rows and batches of token ids). ``corpus/`` is the grammar that generates
the mini corpus.

Callers import these functions by name from here. May import ``job`` (where the prompts' files are), ``store``
(digests) and nothing else of the project.
"""

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
from gaugeport.pipeline.data.docs import docs_corpus, docs_digest
from gaugeport.pipeline.data.document import Document
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
    "Document",
    "docs_corpus",
    "docs_digest",
    "generate",
    "hub_corpus",
    "mini_corpus",
    "mini_tokenizer",
    "mixed_rows",
    "ordered_rows",
    "pack",
    "packaged_prompts",
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
