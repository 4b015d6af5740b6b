"""Recover gauges under every setting of the evidence, out of the same forward passes (table c5).

Files in reading order:

- ``text``: held-out text cut into rows of several lengths, and a model's streams on them
- ``evidence``: the evidence of a link under every setting
- ``links``: the gauge recovered from each, in the coordinates that the models share, and what a link is like
- ``rows``: gauges composed along routes and scored, as rows
"""
