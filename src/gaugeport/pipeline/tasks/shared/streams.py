"""Paired streams of an anchor and another model, site by site (tables b5 and b7)."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from gaugeport.pipeline.job import Job
from gaugeport.pipeline.stages import pair_saes, pairs
from gaugeport.pipeline.stages.stage import Built
from gaugeport.pipeline.tasks.shared.checks import check_cohort
from gaugeport.streams.massive import leave_out_massive

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
        on_fit, on_test = (kept_streams(job, of_a, of_b, site) for of_a, of_b in (fit, test))
        yield site, on_fit, on_test


def kept_streams(job: Job, of_a: dict[str, Tensor], of_b: dict[str, Tensor], site: str) -> Streams:
    """Return two models' streams at a site, without the tokens that are massive in either of them.

    Args:
        job: The job, which may ask to keep these tokens (``measurement.massive``).
        of_a: Site -> one model's stream, float32[tokens, d].
        of_b: The same of the other model, on the same tokens.
        site: The site.
    """
    a, b = leave_out_massive(of_a[site], of_b[site], massive=job.measurement.massive)
    return a, b
