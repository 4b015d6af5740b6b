"""Paired streams of an anchor and another model, site by site (tables b5 and b7)."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from gaugeport.pipeline.job import Job
from gaugeport.pipeline.stages import pair_saes, pairs
from gaugeport.pipeline.stages.stage import Built
from gaugeport.pipeline.tasks.shared.checks import check_cohort

Streams = tuple[Tensor, Tensor]
"""float32[tokens, d] of the anchor and of the other, the same tokens in the same order."""


def check_pair_with_saes(job: Job) -> None:
    """Check the cohort and the SAEs' settings.

    Raises:
        ValueError: A value is not allowed.
    """
    check_cohort(job)
    pair_saes.check_saes(job)


def stages_with_anchor_saes(job: Job) -> tuple[str, ...]:
    """Return both models and the anchor's SAEs.

    Raises:
        ValueError: The job's seed is the anchor's.
    """
    return (*pairs.pair_stages(job), "anchor_saes")


def paired_streams(job: Job, built: Built) -> Iterator[tuple[str, Streams, Streams]]:
    """Yield, site by site, the streams of both models on the tokens to fit on and on those to measure on."""
    sides = pairs.load_pair(job, built.folders)
    fit = [side.streams("fit", max(job.task["tokens"])) for side in sides]
    test = [side.streams("test", job.task["test_tokens"]) for side in sides]
    for site in sides[0].sites:
        yield site, (fit[0][site], fit[1][site]), (test[0][site], test[1][site])
