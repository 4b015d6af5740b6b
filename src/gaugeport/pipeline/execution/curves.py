"""The training curves behind a job: what the Trainer logged of the models it requires."""

from __future__ import annotations

import json

from gaugeport.pipeline.job import Job
from gaugeport.pipeline.stages.catalogue import STAGES
from gaugeport.pipeline.store.store import Store
from gaugeport.pipeline.tasks.registry import stage_keys
from gaugeport.pipeline.training.trainer import STATE_FILE, checkpoints

TRAINED_STAGES = ("base", "A", "B", "anchor", "replica")


def training_curves(job: Job, store: Store) -> dict[str, list[dict[str, float]]]:
    """Return the Trainer's log (step, loss, learning_rate, grad_norm) of each stage trained here."""
    found = {}
    for stage, config in stage_keys(job).items():
        folder = store.path(STAGES[stage].kind, config)
        saved = [*checkpoints(folder).values(), *checkpoints(folder / "training").values()]
        if stage in TRAINED_STAGES and saved:
            log = json.loads((saved[-1] / STATE_FILE).read_text())["log_history"]
            found[stage] = [line for line in log if "loss" in line]
    return found
