"""Load models and tokenizers, and define the one architecture that transformers does not have.

Files in reading order: ``safetensors_files`` (headers), ``configs``, ``folders`` (say what is wrong with a
folder), ``parameter_names`` (which tensor of a file is which parameter), ``gguf_files`` (dequantise a GGUF
file), ``loading`` (load from a folder, a GGUF file or the hub), ``packages`` (get a GGUF file from the
package index), ``dyck`` (paper B's Dyck-3 transformer, registered with transformers as ``dyck3``).

``checkpoint`` and ``stored_tensors`` read model folders tensor by tensor.

Imports ``gaugeport.utils`` and ``gaugeport.charts``.
"""
