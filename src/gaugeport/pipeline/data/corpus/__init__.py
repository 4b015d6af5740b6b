"""The grammar of the mini corpus: its words and sentences, and what generates documents of them.

Files in reading order: ``words`` (word lists), ``templates`` (sentences with slots), ``grammar`` (generate
documents, list the vocabulary), ``slots`` (cut a document before its decided word).

Hashes and measured numbers depend on ``words``, ``templates`` and the order of draws in ``grammar``. May
import ``data.document`` only.
"""
