"""The mathematics of paper B, "Polymorphism Is Rotation": models, features, and the rotations between them.

In reading order:

- ``toy``: the Dyck-3 task, and its model as a graph of components (sections 2, 4 and 6)
- ``lenses``: five ways to say what a component does (section 3)
- ``matching``: the symmetries of the toy model, and the best one between two models (sections 7 and 9.5)
- ``haar``: tests of whether rotations are uniformly distributed (section 8.3)
- ``features``: how SAEs and steering vectors carry over between models (sections 7.1 and 8)
- ``models``: language models: effects of their blocks, contrasts of texts, which are independent

May import the library, and of the pipeline ``measures``, ``training``, ``data`` and ``store``; nothing of
``stages``, ``tasks``, ``config``, ``execution`` and ``report``.
"""
