"""The command line on people's own checkpoints: align two models, move what is written in one, merge, audit.

Files in reading order: ``answer`` (what a command prints, and its exit code), ``opening`` (a folder, a hub id
or a ``.gguf`` file becomes a model), ``text`` (tokens to read models on), ``align`` with ``conclusion`` (what
follows from an alignment) and ``figure``, ``transport``, ``merge``, ``audit`` with ``sae``, ``draft`` (a
chart for an unknown architecture).

It imports the library and :mod:`gaugeport.texts`, and nothing of the pipeline. Each command is a function
that returns an :class:`~gaugeport.tool.answer.Answer`; ``gaugeport.cli`` declares their arguments.
"""
