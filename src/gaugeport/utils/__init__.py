"""Small helpers that every other package uses, each written once.

Files in reading order: ``files`` (write files and folders atomically), ``tensor_files`` and ``numpy_files``
(read files of tensors, without running code from them), ``seeds`` (derive a generator from a seed and its
purpose), ``devices`` (the default device, one-thread execution), ``precision`` (float32 or wider),
``progress`` (how far a long call is).

Imports nothing of gaugeport. ``files`` imports only the standard library, so that the command line starts
fast.
"""
