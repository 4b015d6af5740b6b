"""The toy model of paper B: bounded-depth Dyck-3, and a two-layer transformer as a graph of components.

In reading order:

- ``strings``: draws and labels the strings of training and of the held-out splits
- ``training_strings``: the strings that a model is trained on, in order
- ``components``: runs the model as a graph of heads and MLPs, with components or edges patched
- ``sites``: reads and replaces activations at named sites
- ``effects``: measures what a mean ablation costs, and predicts it from gradients
- ``bars``: measures the four operational bars and judges them
- ``steering_vectors``: builds three steering vectors and measures what they do

May import the library and ``rotation.features``. The model itself is :mod:`gaugeport.models.dyck`.
"""
