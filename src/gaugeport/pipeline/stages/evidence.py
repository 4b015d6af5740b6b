"""The evidence stage: what links between planted checkpoints of runs A and B say about coordinates."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from gaugeport.alignment.routes import BASE, ROUTES, Node, links, walk
from gaugeport.models.loading import load_model
from gaugeport.pipeline.job import Job, counted
from gaugeport.pipeline.measures.evidence_files import write_evidence
from gaugeport.pipeline.measures.losses import heldout_loss
from gaugeport.pipeline.stages.rows import calibration_batches, heldout_rows, loss_rows
from gaugeport.pipeline.stages.runs import read_seen_tokens, run_key
from gaugeport.pipeline.stages.stage import Folders
from gaugeport.pipeline.training.trainer import checkpoints
from gaugeport.texts import row_batches
from gaugeport.utils.devices import default_device
from gaugeport.utils.files import write_json

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
"""What ``measurement.dtype`` may be."""


def evidence_key(job: Job) -> dict[str, Any]:
    """Return what decides the evidence: both runs, how it is measured, and the seed of the plants."""
    measurement = counted(asdict(job.measurement), "models_in_memory")
    return {
        "A": run_key(job, "A"),
        "B": run_key(job, "B"),
        "measurement": measurement,
        "plant_seed": job.seed,
    }


def build_evidence(job: Job, required: Folders, folder: Path) -> None:
    """Write the evidence of every link that any route crosses at the job's checkpoint spacing, and
    ``losses.json``.

    A uniform random gauge is planted on every checkpoint, base included.

    Raises:
        ValueError: The runs saved no checkpoint at a step that ``measurement.spacing`` asks for.
    """
    runs = {run: checkpoints(required[run]) for run in ("A", "B")}
    saved, spacing = sorted(runs["A"]), job.measurement.spacing
    _check_spacing(spacing, saved)

    def checkpoint(node: Node) -> PreTrainedModel:
        path = required["base"] if node == BASE else runs[node[0]][node[1]]
        return load_model(path, dtype=torch.float32, device=default_device())

    # 1) evidence between the checkpoints, on calibration rows
    calibration, evaluation = heldout_rows(required["data"])
    seen_a, seen_b = (read_seen_tokens(required[run]) for run in ("A", "B"))
    write_evidence(
        folder,
        links([walk(r, s, spacing) for r in ROUTES for s in spaced_steps(saved, spacing)]),
        checkpoint,
        list(calibration_batches(job, calibration)),
        sites=job.measurement.sites,
        skip_first=job.measurement.skip_first,
        massive=job.measurement.massive,
        seen=seen_a[torch.isin(seen_a, seen_b)],
        seed=job.seed,
        models_in_memory=job.measurement.models_in_memory,
        whiten=job.measurement.whiten,
        dtype=DTYPES[job.measurement.dtype],
    )
    # 2) losses of the base and of both last checkpoints, on evaluation rows
    batches = list(row_batches(loss_rows(evaluation), job.measurement.batch_size))
    nodes: dict[str, Node] = {"base": BASE, **{run: (run, saved[-1]) for run in runs}}
    losses = {name: heldout_loss(checkpoint(node), batches) for name, node in nodes.items()}
    write_json(folder / "losses.json", losses)


def spaced_steps(saved: list[int], spacing: int) -> list[int]:
    """Return the saved steps that are multiples of ``spacing``, and the last one."""
    return [s for s in saved if s % spacing == 0 or s == saved[-1]]


def _check_spacing(spacing: int, saved: list[int]) -> None:
    missing = [s for s in range(spacing, saved[-1], spacing) if s not in saved]
    if missing:
        raise ValueError(
            f"measurement.spacing={spacing} requires checkpoints at steps {missing[:4]}, not saved; "
            f"allowed: multiples of training.run.save_every that were saved ({saved[:4]} …)"
        )
