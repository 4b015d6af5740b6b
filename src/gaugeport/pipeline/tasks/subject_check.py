"""What a job that compares models of a cohort may ask for, checked before anything is trained."""

from __future__ import annotations

from gaugeport.pipeline.job import Job
from gaugeport.pipeline.rotation.models.subjects import COHORTS, is_dyck
from gaugeport.pipeline.tasks import dyck_check

TASKS = ("universality", "firing", "haar", "regimes", "checkpoints", "independence", "blocks")
"""Tasks on any cohort of :mod:`gaugeport.pipeline.rotation.models.subjects`."""


def check(job: Job) -> None:
    """Raises ``ValueError`` naming what is wrong with the job's cohort, and what is allowed."""
    cohort = job.task["cohort"]
    if cohort not in COHORTS:
        raise ValueError(f"task.cohort={cohort!r}; allowed: {', '.join(COHORTS)}")
    if is_dyck(job):
        dyck_check.check(job)
        return
    if "dyck3" in (job.model.name, job.data.name):
        raise ValueError(
            f"task.cohort={cohort} with model={job.model.name} data={job.data.name}; allowed with Dyck-3 models: "
            "task.cohort=A or B, model=dyck3 data=dyck3 training=dyck3"
        )
    if cohort == "seeds" and job.model.path is not None:
        raise ValueError(
            f"task.cohort=seeds trains models from several seeds: model.path={job.model.path} is one model; allowed: "
            "task.cohort=runs, two fine-tuning runs of it"
        )
    if cohort == "seeds" and job.model.from_hub and "{seed}" not in job.model.hub_id:
        raise ValueError(
            f"task.cohort=seeds with model.hub_id={job.model.hub_id}, one model for all seeds; allowed: an id with "
            "{seed} in it (model=pythia_seeds)"
        )
