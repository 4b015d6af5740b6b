"""Load models and tokenizers, and define the one architecture that transformers does not have.

Files in reading order: ``loading`` (load from a folder, a GGUF file or the hub, and say what is wrong with a
folder), ``gguf_files`` (dequantise a GGUF file), ``packages`` (get one from the package index),
``dyck`` (paper B's Dyck-3 transformer, registered with transformers as ``dyck3``).

Imports ``gaugeport.utils`` only.
"""
