"""Training: language models through ``transformers.Trainer``, sparse autoencoders through sae-lens.

Files in reading order: ``trainer`` (a resumable run in a given order of rows), ``saes`` (an SAE on given
activations).

May import the library and ``pipeline.job``.
"""
