"""Table b6, power: how often each test against Haar rejects under each alternative, and the nulls."""

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
    task = job.task
    rows: list[Row] = []
    for haar, width in task["widths"].items():
        null = stored_null(built.cache, width, task["draws"], NULL_SEED, haar)
        measured = list(_null_rows(null))
        for alternative in ALTERNATIVES:
            rates = rejection_rates(width, alternative, task["draws"], null, task["level"], job.seed)
            measured += [
                {"metric": "rejection_rate", "alternative": alternative, "statistic": name, "value": rate}
                for name, rate in rates.items()
            ]
        rows += [{"group": "", "width": width, "haar": haar, **row} for row in measured]
    return rows


def _null_rows(null: Null) -> Iterator[Row]:
    """Yield every draw's statistics, and the eigen-angles of as many matrices as the paper compares with."""
    for name, values in null.statistics.items():
        for rank, value in enumerate(values.tolist()):
            yield {"metric": "null_draw", "statistic": name, "rank": rank, "value": value}
    for rank, angle in enumerate(null.reference.tolist()):
        yield {"metric": "null_angle", "rank": rank, "value": angle}


TASK = Task(measure, check=check_language_model)
