"""Find the gauge between the residual streams of two models, from activations, weights or both.

Files, in reading order:

- ``moments``: centred second moments of paired activations, accumulated over batches.
- ``evidence``: similarities between coordinates of B and of A, from moments or from weights.
- ``assignment``: exact linear assignment; ``optimality``: a proof of it that trusts no solver.
- ``matchers``: evidence to a gauge element; one ``Matcher`` record for each matcher.
- ``tokenizers``: whether two tokenizers encode text alike.
- ``result``: what an alignment found.
- ``align``: all of this as one function of two models, or of the checkpoints along two runs.
- ``routes``: which checkpoints lie between two runs, and how the gauges between them compose.

May import: ``utils``, ``groups``, ``charts``, ``models`` and ``streams``.
"""
