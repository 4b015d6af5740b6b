"""The replication of both papers: from a config to a table with the paper's figure beside ours.

In reading order:

- ``job``, ``paths``: what a job is, as plain dataclasses; where ``conf/`` and ``experiments/`` lie.
- ``store/``: stages and records on disk. ``data/``: texts. ``training/``: runs and SAEs.
- ``measures/``: paper A's measurements, ``rotation/``: paper B's mathematics; both return rows.
- ``stages/``: what several jobs share (data, base models, runs, SAEs, evidence), each built once.
- ``tasks/``: one file per task: the stages it requires, what it accepts, what it measures.
- ``config/``: Hydra configs and sweeps -> jobs. ``execution/``: plan, run and track jobs.
- ``report/``: records -> tables, figures, claims. ``commands/``, ``cli``: the command line.

Each may import the library and what stands above it in this list; ``report`` sees records only.
"""
