"""What the rotation audit asks of whole models (tables b3, b8 and b12).

Files in reading order:

- ``independence``: whether two checkpoints are independent, as claims about seeds require
- ``block_effects``: what ablating a block of a language model costs, measured and predicted
- ``contrasts``: pairs of sentences to build and measure steering vectors of language models with

May import the library, ``rotation.toy`` and the word lists of ``pipeline.data``.
"""
