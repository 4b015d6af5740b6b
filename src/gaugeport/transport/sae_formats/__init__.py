"""Read the folders in which libraries save SAEs, and declare what in them is in stream coordinates.

Files in reading order: ``stored`` (what every format gives, and how it is written), ``sae_lens``,
``sparsify`` and ``dictionary_learning`` (one file per format), ``detect`` (which format a folder is in). None
of these libraries is imported: their files are safetensors or ``torch.save`` files of tensors, with a JSON
config.
"""
