"""Find the gauge between the residual streams of two models, from activations, weights or both.

Files, in reading order:

- ``moments``: centred second moments of paired activations, accumulated over batches; ``pairs``: of many
  pairs of models at many sites.
- ``comparable``, ``tokenizers``: whether two models, and two tokenizers, can be compared.
- ``evidence``: similarities between coordinates of B and of A, from moments or from weights.
- ``folder_evidence``: the same from the weight files of two folders, without loading a model.
- ``pair_evidence``, ``collect``: everything that alignment reads from two models, collected in one run.
- ``assignment``: exact linear assignment; ``optimality``: a proof of it that trusts no solver.
- ``matchers``: evidence to a gauge element; one ``Matcher`` record for each matcher.
- ``variance``: how much of B's stream a gauge explains; ``compare``: on held-out text, and by group.
- ``fit``: the gauge that the evidence of a pair shows; ``result``: what is known of it;
  ``doubt``: when it looks like that of unrelated models.
- ``align``: all of this as one function of two models, or of the checkpoints along two runs (``walk``).
- ``routes``: which checkpoints lie between two runs, and how the gauges between them compose.

May import: ``utils``, ``groups``, ``charts``, ``models`` and ``streams``.
"""
