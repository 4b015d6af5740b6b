"""Bring the weights of two Dyck-3 models as near to each other as symmetries allow (paper B, 2.1, 7, 9.5).

Bar P is the largest mean squared difference of any weight tensor after the best symmetry. Files in reading
order:

- ``symmetry``: the full symmetry group of the Dyck-3 transformer, and models as rows of stream vectors
- ``steps``: the exact steps of the search, one for each part of an element
- ``search``: coordinate descent over that group, which gives the baseline of Bar P
- ``refine``: gradient steps on the rotations of a baseline, aimed at the worst tensor
- ``joint``: one residual rotation for weights and activations together (table b10)
- ``quotient``: Bar P without the residual rotation, and lower bounds that no search can beat

May import the library and nothing of the pipeline.
"""
