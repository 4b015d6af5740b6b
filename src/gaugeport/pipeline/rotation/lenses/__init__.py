"""The five lenses of paper B (section 3): five ways to say what a component of the toy model does.

In reading order:

- ``measurement``: the rows that every lens returns
- ``weights``: lens 1, norms and spectra of the weights
- ``dictionaries``, ``transcoders``, ``decoder_matching``: lens 2, sparse dictionaries, and matching two
- ``circuits``: lens 3, path patching and ACDC
- ``regions``: lens 4, the linear regions of the MLPs
- ``task_features``, ``roles``: lens 5, the features of the task, and which component makes which
- ``comparison``: what the lenses say side by side, and where they disagree

May import the library, ``rotation.toy``, and of the pipeline ``measures`` and ``training``.
"""
