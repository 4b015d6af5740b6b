"""From Hydra configs to validated jobs.

Files in reading order: ``compose`` (overrides -> a job), ``validate`` (errors that name the bad value and the
allowed ones), ``sweeps`` (a table's experiment file -> the list of its jobs).

May import ``pipeline.job``, ``paths``, ``stages`` and ``tasks``.
"""
