"""What one model's features are worth on another model (tables b5, b7, b8 and b9; paper B, section 8).

Files in reading order:

- ``universality``: how much of another model's stream an SAE explains, through maps between the streams
- ``firing``: whether an SAE's latents fire on the same tokens of another model
- ``regimes``: how steering vectors transfer between two models, and the names of what can happen
- ``predictors``: what tells beforehand how well a vector transfers

May import the library, ``pipeline.measures`` and ``rotation.lenses``.
"""
