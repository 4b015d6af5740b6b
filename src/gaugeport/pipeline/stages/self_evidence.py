"""The evidence between a base model and a copy of it, each moved by a random gauge (``task.target=self``).

It is a stage because all tasks and conditions read the same one, and a real model takes a minute to
run.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from gaugeport.models.loading import load_model
from gaugeport.pipeline.job import Job, counted
from gaugeport.pipeline.measures.evidence_files import write_evidence
from gaugeport.pipeline.measures.losses import heldout_loss
from gaugeport.pipeline.measures.plants import COPY
from gaugeport.pipeline.stages.base import base_key
from gaugeport.pipeline.stages.rows import calibration_batches, data_key, heldout_rows, loss_rows
from gaugeport.pipeline.stages.stage import Folders
from gaugeport.texts import row_batches
from gaugeport.utils.devices import default_device
from gaugeport.utils.files import write_json

NODES = (("A", 0), (COPY, 0))
"""The walk from the base model to its copy."""


def evidence_key(job: Job) -> dict[str, Any]:
    """Return what decides the evidence: the model, the texts, the measurement, and the seed of the plants."""
    return {
        "base": base_key(job),
        "data": data_key(job),
        "measurement": counted(asdict(job.measurement), "models_in_memory"),
        "plant_seed": job.seed,
    }


def build_evidence(job: Job, required: Folders, folder: Path) -> None:
    """Write the evidence of the one link, as the evidence stage of two runs does, and ``losses.json``.

    The model and its copy are both moved and both run. Nothing was trained, so no row of the vocabulary gives
    a common base away: weight evidence reads all of them.
    """
    device = default_device()
    model = load_model(required["base"], dtype=torch.float32, device=device)
    calibration, evaluation = heldout_rows(required["data"])
    loss = heldout_loss(model, list(row_batches(loss_rows(evaluation), job.measurement.batch_size)))
    rows = torch.arange(model.get_input_embeddings().num_embeddings)
    del model  # two more are loaded
    write_evidence(
        folder,
        [NODES],
        lambda node: load_model(required["base"], dtype=torch.float32, device=device),
        list(calibration_batches(job, calibration)),
        sites=job.measurement.sites,
        skip_first=job.measurement.skip_first,
        seen=rows,
        seed=job.seed,
        models_in_memory=2,
        massive=job.measurement.massive,
    )
    write_json(folder / "losses.json", {"A": loss, "B": loss})
