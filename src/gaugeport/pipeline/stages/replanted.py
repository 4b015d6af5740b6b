"""Evidence under plants whose signs are mostly positive: that of uniform plants, moved."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

from gaugeport.pipeline.job import Job
from gaugeport.pipeline.measures.evidence_files import replant_evidence
from gaugeport.pipeline.measures.plants import UNIFORM


def is_uniform(job: Job) -> bool:
    """Return whether a job's plants are drawn uniformly."""
    return job.measurement.positive_share == UNIFORM


def uniform(job: Job) -> Job:
    """Return the job with uniform plants."""
    return replace(job, measurement=replace(job.measurement, positive_share=UNIFORM))


def build_replanted(job: Job, source: Path, folder: Path) -> None:
    """Write what an evidence stage would write under a job's plants, from the folder of uniform ones."""
    replant_evidence(source, folder, job.measurement.positive_share, job.seed)
    shutil.copy(source / "losses.json", folder)
