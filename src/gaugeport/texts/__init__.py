"""Texts: what models are run on, from local files or from Python itself, as rows and batches of token ids.

Files in reading order: ``document`` (a text with its kind, domain and label), ``read`` (rows of local files,
made into documents), ``sources`` (Python's reference and docstrings of installed packages), ``batches``
(texts as rows and batches of token ids).

Callers import these functions by name from here. Imports nothing else of the project, so that both the tool
and the pipeline can use it; only reading files requires ``datasets``.
"""

from gaugeport.texts.batches import (
    mixed_rows,
    ordered_rows,
    pack,
    padded_batches,
    row_batches,
    rows_holding,
    seen_tokens,
)
from gaugeport.texts.document import KINDS, Document
from gaugeport.texts.read import FORMATS, documents_from, local_rows
from gaugeport.texts.sources import docstrings, topics

__all__ = [
    "FORMATS",
    "KINDS",
    "Document",
    "docstrings",
    "documents_from",
    "local_rows",
    "mixed_rows",
    "ordered_rows",
    "pack",
    "padded_batches",
    "row_batches",
    "rows_holding",
    "seen_tokens",
    "topics",
]
