"""What theory says of lists of coordinates, neurons and heads that a condition moves (tables a9 and a10)."""

from __future__ import annotations

from gaugeport.pipeline.job import Job
from gaugeport.pipeline.measures.importance import Scores
from gaugeport.pipeline.measures.list_agreement import agreement_by_chance
from gaugeport.pipeline.measures.plants import UNIFORM
from gaugeport.pipeline.stages.lists import WHOLE, read_scores
from gaugeport.pipeline.stages.models import is_copy
from gaugeport.pipeline.stages.stage import Built
from gaugeport.pipeline.tasks.shared.transfer import transfer_stages

EXACT = {
    ("signed_permutation", "oracle"),
    ("signed_permutation", "hungarian_abs"),
    ("signed_permutation", "weights"),
    ("global_sign_permutation", "hungarian_raw"),
    ("global_sign_permutation", "weights"),
}
"""Conditions that recover the gauge of a copy, if their group is the models' exact one."""

IN_THEORY = ("jaccard", "precision", "rank_correlation", "sign_agreement")
"""Metrics of moved lists whose value theory can give."""


def list_stages(job: Job) -> tuple[str, ...]:
    """Return the stages that a job about lists requires."""
    lists = ("lists_A",) if is_copy(job) else ("lists_A", "lists_B")
    return (*transfer_stages(job), *lists)


def scores_of(job: Job, built: Built, part: str = WHOLE) -> tuple[Scores, Scores]:
    """Return the stored scores of A and of the job's target, on one of the parts of the held-out tokens."""
    a = read_scores(built["lists_A"], part)
    return a, a if is_copy(job) else read_scores(built["lists_B"], part)


def theory(job: Job, exact_group: str, metric: str, width: int) -> float | None:
    """Return the value that a metric of moved lists must have; None where theory gives none, as with drift.

    Args:
        job: The job, whose gauge and matcher name the condition.
        exact_group: The group that the planted gauges were drawn from.
        metric: A metric of moved lists.
        width: How many entries the whole list has.
    """
    if metric not in IN_THEORY:
        return None
    share = job.measurement.positive_share
    if job.matcher == "none":
        # the sign that a random coordinate gets is a coin's only where the plants are uniform
        by_chance = metric != "sign_agreement" or share == UNIFORM
        return agreement_by_chance(metric, width, job.task["k"]) if by_chance else None
    if not is_copy(job):
        return None
    if job.gauge == exact_group and (job.gauge, job.matcher) in EXACT:
        return 1.0
    if (job.gauge, job.matcher) == ("permutation", "hungarian_abs"):  # the right index, its sign dropped
        return share if metric == "sign_agreement" else 1.0
    return None
