"""Charts: where the residual stream lives in a model, and which gauge group is exact there.

A chart maps every parameter and buffer of a model to a rule, which names the action of a gauge on each axis:

======  ==================  ============================================================================
action  the gauge           axes
======  ==================  ============================================================================
vector  permutes and signs  reads from and writes to the stream, biases added to it, LayerNorm biases,
                            position embeddings
gain    permutes only       norm weights (Gemma's 1 + w too)
none    does nothing        heads, neurons, vocabulary, qkv biases, q/k norms, rotary buffers
======  ==================  ============================================================================

The exact group depends on the norm and on how the model was loaded:

==============================================================  ========================================
chart                                                           exact gauge group
==============================================================  ========================================
RMSNorm, gains in place                                         B_d (signed permutations)
RMSNorm, gains folded into the readers                          O(d)
RMSNorm with post-norms (Gemma, OLMo2), folded or not           B_d: a gain on a writer's output cannot
                                                                be folded
LayerNorm, gains in place                                       S_d x {+1, -1}
LayerNorm, gains folded                                         rotations that fix the all-ones
                                                                direction up to sign
LayerNorm folded, writers centred, norms replaced by RMSNorm    O(d)
(as TransformerLens loads models)
==============================================================  ========================================

This holds for generic gains. If two coordinates have the same signed gain in every norm (in a new model,
all of them have), the group is larger, and a certificate says so. Soft-capping, embedding scales,
full-width q/k norms, grouped queries and rotary positions do not change the group.

Files in reading order: ``rules`` (the vocabulary), ``llama`` to ``dyck`` (one file per architecture family),
``chart`` (match a model to its family), ``fold`` (move gains into the readers), ``logit_change`` (how much a
change of the weights changes the logits), ``certificate`` (measure the group). Imports ``gaugeport.groups``.
"""

from gaugeport.charts.certificate import Certificate, certify
from gaugeport.charts.chart import Chart, chart_of
from gaugeport.charts.fold import fold_gains

__all__ = ["Certificate", "Chart", "certify", "chart_of", "fold_gains"]
