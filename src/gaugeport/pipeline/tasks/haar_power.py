"""Table b6, power: how often each Haar test rejects under each alternative, and its nulls."""

from __future__ import annotations

from collections.abc import Iterator

from gaugeport.pipeline.job import Job
from gaugeport.pipeline.rotation.haar.null import Null, stored_null
from gaugeport.pipeline.rotation.haar.power import ALTERNATIVES, rejection_rates
from gaugeport.pipeline.stages.stage import Built
from gaugeport.pipeline.tasks.haar import NULL_SEED
from gaugeport.pipeline.tasks.shared.checks import check_language_model
from gaugeport.pipeline.tasks.task import Row, Task


def measure(job: Job, built: Built) -> list[Row]:
    """Return the rejection rate of every test under every alternative, and what pooled tests need."""
    rows: list[Row] = []
    for haar, width in job.task["widths"].items():
        null = stored_null(built.cache, width, job.task["draws"], NULL_SEED, haar)
        found = list(_null_draws(null))
        for alternative in ALTERNATIVES:
            rates = rejection_rates(width, alternative, job.task["draws"], null, job.task["level"], job.seed)
            found += [
                {"metric": "rejection_rate", "alternative": alternative, "statistic": name, "value": rate}
                for name, rate in rates.items()
            ]
        rows += [{"group": "", "width": width, "haar": haar, **row} for row in found]
    return rows


def _null_draws(null: Null) -> Iterator[Row]:
    """Every draw's statistics, and the eigen-angles of as many as the paper compares with."""
    for name, values in null.statistics.items():
        for i, value in enumerate(values.tolist()):
            yield {"metric": "null_draw", "statistic": name, "rank": i, "value": value}
    yield from (
        {"metric": "null_angle", "rank": i, "value": x} for i, x in enumerate(null.reference.tolist())
    )


TASK = Task(measure, check=check_language_model)
