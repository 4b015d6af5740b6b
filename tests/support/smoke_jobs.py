"""Jobs at smoke size: composed, their required stages built, and measured."""

from gaugeport.pipeline.config.compose import compose_config, from_config
from gaugeport.pipeline.stages.catalogue import build_stages
from gaugeport.pipeline.stages.stage import Built
from gaugeport.pipeline.tasks.registry import task_of


def smoke_job(experiment, *overrides):
    """Compose one job of an experiment at the smoke profile."""
    chosen = [f"experiment={experiment}", "profile=smoke", "tracker=none", *overrides]
    return from_config(compose_config(chosen), chosen).job


def built(job, store):
    """Build the stages that a job requires, or find them built."""
    return Built(build_stages(job, store, task_of(job).stages(job)), store)


def measured(job, store):
    """Return the rows of a job."""
    return task_of(job).measure(job, built(job, store))
