"""From overrides and experiment files to validated jobs.

- validate: turn a composed config into a job, and check every value
- compose: compose Hydra overrides into a job and what goes with it (JobSpec)
- sweeps: read the jobs of a table or a sweep

It may import tasks and everything below them, not execution or report.
"""
