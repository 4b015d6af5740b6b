"""Read and change the residual stream of a running model.

A site is a place in the stream: ``embed`` is what enters the first block, ``block0`` to ``block{L-1}`` are
what the blocks output. Other libraries' names of these places are read too. Streams are tensors
[batch, time, d].

Files in reading order: ``activations`` (record streams, and collect them as evidence), ``interventions``
(add a direction, project one out, or put another stream in place), ``massive`` (find massive activations by
their norm and leave them out), ``kept`` (keep streams in files while another model runs).

Imports ``gaugeport.charts`` and ``gaugeport.utils``.
"""
