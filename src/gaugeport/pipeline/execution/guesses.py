"""Guess how long something takes on a pretrained model, from what it took on models of other sizes."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from math import prod
from pathlib import Path
from statistics import median
from typing import Any

from gaugeport.models.folders import read_headers, weight_files
from gaugeport.models.gguf_files import is_gguf
from gaugeport.models.gguf_header import check_gguf
from gaugeport.pipeline.job import Job
from gaugeport.pipeline.paths import data_dir

SMOLLM2 = 134_515_008

MEASURED_ON = {"mini": 900_000, "real": SMOLLM2}
"""Kept run below ``experiments/reference/`` -> the parameters of its models, roughly. Where both have timed
something, the larger models count."""

POWER = 0.75
"""Seconds grow with parameters to this power: steering by sentiment takes 4.6 s at mini and 205 s at real."""

OF_ANY_SIZE = ("data",)
"""Kinds of stages that no model runs in."""


def parameters_of(job: Job) -> int | None:
    """Return about how many parameters a job's pretrained model has; None where its config does not tell."""
    path = job.model.path
    if path is None:
        in_package = job.model.package is not None and not job.model.from_hub
        return SMOLLM2 if in_package and job.model.name == "smollm2" else None
    if is_gguf(path):
        return check_gguf(Path(path))
    files = weight_files(Path(path))
    if any(f.suffix != ".safetensors" for f in files):
        return sum(f.stat().st_size for f in files) // 4
    return sum(prod(t.shape) for header in read_headers(Path(path)) for t in header.tensors.values())


def guess(config: Mapping[str, Any], parameters: int) -> float | None:
    """Return how many seconds a stage or job may take on a model of some size; None if nothing is like it."""
    found, copied = None, None
    for run, size in MEASURED_ON.items():
        name = f"stage {config['kind']}" if "kind" in config else f"{run} {config['task']['name']}"
        like = [
            s for known, values in _kept(run).items() if f"{known} ".startswith(f"{name} ") for s in values
        ]
        if like and like != copied:  # what a run did not time has the seconds of the one before
            found = median(like) * (parameters / size) ** POWER
        copied = like
    return found


@functools.cache
def _kept(run: str) -> dict[str, list[float]]:
    path = data_dir("experiments") / "reference" / run / "timings.json"
    return json.loads(path.read_text()) if path.exists() else {}
