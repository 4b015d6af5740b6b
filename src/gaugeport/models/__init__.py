"""Load models and tokenizers, and define the one architecture that transformers does not have.

Files in reading order: ``safetensors_files`` (headers), ``configs``, ``folders`` (say what is wrong with a
folder), ``parameter_names`` (which tensor of a file is which parameter), ``gguf_header`` and ``gguf_files``
(check and dequantise a GGUF file), ``loading`` (load from a folder, a GGUF file or the hub),
``stored_tensors`` and ``checkpoint`` (read a model folder tensor by tensor), ``packages`` (get a GGUF file
from the package index), ``dyck`` (paper B's Dyck-3 transformer, registered with transformers as ``dyck3``).

Imports ``gaugeport.utils`` and ``gaugeport.charts``.
"""
