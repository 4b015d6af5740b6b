"""The stages a job stands on: those of training, and the evidence between their planted checkpoints."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from gaugeport.alignment.routes import BASE, ROUTES, Node, links, walk
from gaugeport.models.loading import load_model
from gaugeport.pipeline.data import row_batches, rows_holding
from gaugeport.pipeline.job import Job, counted
from gaugeport.pipeline.measures.losses import heldout_loss
from gaugeport.pipeline.measures.planted_evidence import write_evidence
from gaugeport.pipeline.stages.training import base_stage, heldout_rows, run_checkpoints, run_key, run_stage
from gaugeport.pipeline.store.store import Store
from gaugeport.utils.devices import default_device
from gaugeport.utils.files import write_json

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
"""What ``measurement.dtype`` may be."""

LOSS_TOKENS = 16_384
"""Held-out tokens that losses are measured on, at most; the same whatever the number of calibration tokens."""


def evidence_stage(job: Job, store: Store) -> Path:
    """Evidence of every link that the routes cross at this job's checkpoint spacing, gauges planted; and losses."""

    def build(folder: Path) -> None:
        runs = {run: run_checkpoints(job, store, run) for run in ("A", "B")}
        saved = sorted(runs["A"])
        spacing = job.measurement.spacing
        _check_spacing(spacing, saved)
        steps = [s for s in saved if s % spacing == 0 or s == saved[-1]]

        def checkpoint(node: Node) -> Any:
            path = base_stage(job, store) if node == BASE else runs[node[0]][node[1]]
            return load_model(path, dtype=torch.float32, device=default_device())

        calibration, evaluation = heldout_rows(job, store)
        seen = [load_file(run_stage(job, store, run) / "seen.safetensors")["seen"] for run in ("A", "B")]
        write_evidence(
            folder,
            links([walk(r, s, spacing) for r in ROUTES for s in steps]),
            checkpoint,
            list(calibration_batches(job, calibration)),
            sites=job.measurement.sites,
            skip_first=job.measurement.skip_first,
            seen=seen[0][torch.isin(seen[0], seen[1])],
            seed=job.seed,
            models_in_memory=job.measurement.models_in_memory,
            whiten=job.measurement.whiten,
            dtype=DTYPES[job.measurement.dtype],
        )
        batches = list(row_batches(loss_rows(evaluation), job.measurement.batch_size))
        ends: dict[str, Node] = {"base": BASE, **{run: (run, saved[-1]) for run in runs}}
        write_json(
            folder / "losses.json", {n: heldout_loss(checkpoint(node), batches) for n, node in ends.items()}
        )

    return store.ensure("evidence", evidence_key(job), build)


def calibration_batches(job: Job, rows: Tensor) -> Iterator[dict[str, Tensor]]:
    """Batches of the first held-out ``rows`` that hold ``measurement.tokens``. Raises ``ValueError`` for too few rows."""
    measurement = job.measurement
    held = rows_holding(rows, measurement.tokens, measurement.skip_first, "measurement.tokens")
    return row_batches(held, measurement.batch_size)


def loss_rows(rows: Tensor) -> Tensor:
    """The first held-out ``rows`` [n, length] that hold ``LOSS_TOKENS`` tokens, or all of them."""
    return rows[: -(-LOSS_TOKENS // rows.shape[1])]


def evidence_key(job: Job) -> dict[str, Any]:
    """What decides the evidence: both runs, how it is measured, and the plants."""
    measurement = counted(asdict(job.measurement), "models_in_memory")
    return {
        "A": run_key(job, "A"),
        "B": run_key(job, "B"),
        "measurement": measurement,
        "plant_seed": job.seed,
    }


def _check_spacing(spacing: int, saved: list[int]) -> None:
    missing = [s for s in range(spacing, saved[-1], spacing) if s not in saved]
    if missing:
        raise ValueError(
            f"measurement.spacing={spacing} wants checkpoints at steps {missing[:4]}, which the runs did not save; "
            f"allowed: multiples of training.run.save_every that were saved ({saved[:4]} …)"
        )
