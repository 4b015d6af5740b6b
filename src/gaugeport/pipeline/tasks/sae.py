"""Jobs of SAE transfer (table a4): an SAE trained on A, moved to B by the arm's gauge, measured on B's held-out tokens."""

from __future__ import annotations

from typing import Any

from gaugeport.pipeline.data import row_batches, rows_holding
from gaugeport.pipeline.job import Job
from gaugeport.pipeline.measures.sae_transfer import (
    cross_entropy_rows,
    record_stream,
    sae_transfer_rows,
)
from gaugeport.pipeline.store.store import Store
from gaugeport.pipeline.tasks.transfer import stages_of, transfer
from gaugeport.pipeline.training.saes import load_sae, sae_settings
from gaugeport.transport.sae import transport_sae

Row = dict[str, Any]


def stages(job: Job) -> tuple[str, ...]:
    """The stages a job stands on."""
    return (*stages_of(job), "sae")


def measure(job: Job, store: Store) -> list[Row]:
    """Reconstruction, sparsity and (plant 0) loss recovered of one arm, with its gauge accuracy and the models' losses.

    Raises ``ValueError`` where ``task.tokens`` wants more held-out tokens than there are.
    """
    sae_settings(job)  # a bad one is named before anything is trained
    arm, sae, size = transfer(job, store), load_sae(job, store), job.measurement.batch_size
    rows = rows_holding(arm.rows_test, job.task["tokens"], key="task.tokens")
    skip = job.measurement.skip_first
    x_a = record_stream(arm.a, arm.chart, rows, arm.site, size)
    x_b = x_a if arm.a is arm.b else record_stream(arm.b, arm.chart, rows, arm.site, size)
    found = list(sae_transfer_rows(sae, arm.residuals(), x_a, x_b, skip))
    moved = transport_sae(sae, next(arm.residuals()))
    found += cross_entropy_rows(arm.b, arm.chart, arm.site, moved, list(row_batches(rows, size)), skip)
    at = {**arm.where, "architecture": job.task["sae"]["architecture"]}
    return [{**at, **row} for row in (*found, *arm.accuracy())]
