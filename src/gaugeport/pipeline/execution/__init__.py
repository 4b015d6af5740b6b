"""Running jobs: what is missing, in which order, on what, and what came of it.

Files in reading order: ``plan`` (missing stages and jobs, in waves), ``runner`` (run a plan, survive
failures), ``side_by_side`` (groups of jobs that do not wait for each other), ``launchers`` (processes of
this machine, or Hydra's launchers), ``workers`` (their processes), ``machine`` (what a step gets of it),
``jobs`` (run one job), ``failures`` (notes of what failed), ``progress`` and ``timings`` (what is left and
how long it takes), ``status``, ``tracking`` (wandb), ``curves``.

May import everything in ``pipeline`` except ``report``, ``commands`` and ``cli``.
"""
