"""Table a4: an SAE trained on A, moved to B by the condition's gauge, measured on B's held-out tokens."""

from __future__ import annotations

from gaugeport.pipeline.job import Job
from gaugeport.pipeline.measures.sae_transfer import cross_entropy_rows, record_stream, sae_transfer_rows
from gaugeport.pipeline.stages.saes import load_sae
from gaugeport.pipeline.stages.stage import Built
from gaugeport.pipeline.tasks.shared.transfer import check_transfer, load_transfer, transfer_stages
from gaugeport.pipeline.tasks.task import Row, Task
from gaugeport.pipeline.training.saes import sae_settings
from gaugeport.texts import row_batches, rows_holding
from gaugeport.transport.sae import transport_sae


def check(job: Job) -> None:
    """Check the target, the evidence and the SAE's settings.

    Raises:
        ValueError: A value of the task is not allowed.
    """
    check_transfer(job)
    sae_settings(job.task["sae"])


def stages(job: Job) -> tuple[str, ...]:
    """Return both models, the evidence between them where there is any, and the SAE."""
    return (*transfer_stages(job), "sae")


def measure(job: Job, built: Built) -> list[Row]:
    """Return reconstruction, sparsity and (plant 0) loss recovered, gauge accuracy and the models' losses.

    Raises:
        ValueError: There are fewer held-out tokens than ``task.tokens``.
    """
    pair, sae, size = load_transfer(job, built), load_sae(built["sae"]), job.measurement.batch_size
    # 1) the streams of both models on the same tokens
    rows = rows_holding(pair.rows_test, job.task["tokens"], key="task.tokens")
    x_a = record_stream(pair.a, pair.chart, rows, pair.site, size)
    x_b = x_a if pair.a is pair.b else record_stream(pair.b, pair.chart, rows, pair.site, size)
    # 2) the moved SAE on B's, and B's loss with its reconstruction in place
    skip, massive = job.measurement.skip_first, job.measurement.massive
    share = job.measurement.positive_share
    measured = list(sae_transfer_rows(sae, pair.residuals(), x_a, x_b, skip, massive, share))
    moved, batches = transport_sae(sae, next(pair.residuals())), list(row_batches(rows, size))
    measured += cross_entropy_rows(pair.b, pair.chart, pair.site, moved, batches, skip, massive)
    where = {**pair.where, "architecture": job.task["sae"]["architecture"]}
    return [{**where, **row} for row in (*measured, *pair.accuracy())]


TASK = Task(measure, stages, check)
