"""From overrides and experiment files to validated jobs.

- experiments: read what ``conf/experiment/`` declares
- texts: take paths and free text as they were typed
- validate: turn a composed config into a job, and check every value
- compose: compose Hydra overrides into a job
- sweeps: compose the jobs of a table or a sweep
- stored_jobs: keep the jobs of tables, so that later commands need not compose them

It may import tasks and everything below them, not execution or report.
"""
