"""The SAE stage: a sparse autoencoder trained on model A at the mid-stack site.

Its folder is an ordinary sae-lens one. Its key names model A, the site, the SAE's settings and the seed, and
neither condition nor target, so that all of these share it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from gaugeport.charts import chart_of
from gaugeport.models.loading import load_model
from gaugeport.pipeline.job import Job
from gaugeport.pipeline.stages.models import model_folder, model_key
from gaugeport.pipeline.stages.rows import all_train_rows
from gaugeport.pipeline.stages.stage import Folders
from gaugeport.pipeline.training.saes import sae_settings, train_sae
from gaugeport.streams.activations import middle_site, streams_at
from gaugeport.streams.massive import leave_out_massive
from gaugeport.texts import mixed_rows, row_batches
from gaugeport.utils.devices import default_device
from gaugeport.utils.seeds import derive, generator


def sae_key(job: Job) -> dict[str, Any]:
    """Return what decides the SAE: model A, the site, and how it is trained."""
    where = {"site": "middle", **job.measurement.tokens_left_out()}
    return {**model_key(job), **where, "sae": sae_settings(job.task["sae"]), "seed": job.seed}


def build_sae(job: Job, required: Folders, folder: Path) -> None:
    """Write ``cfg.json`` and ``sae_weights.safetensors``, as sae-lens writes and loads them."""
    # 1) the model and the site
    path = model_folder(job, required)[1]
    model = load_model(path, dtype=torch.float32, device=default_device())
    chart = chart_of(model)
    site = middle_site(model, chart)
    # 2) activations of enough training rows
    settings, train, skip = (
        sae_settings(job.task["sae"]),
        all_train_rows(required["data"]),
        job.measurement.skip_first,
    )
    n_rows = min(len(train), -(-settings["activations"] // (train.shape[1] - skip)))
    rows = mixed_rows(train, n_rows, generator(job.seed, "sae", "rows"))
    batches = row_batches(rows, job.measurement.batch_size)
    streams = torch.cat([streams_at(model, chart, b, [site], skip)[site].cpu() for b in batches])
    activations = leave_out_massive(streams, massive=job.measurement.massive)[0]
    # 3) the SAE
    metadata = {
        "model_name": job.model.name,
        "hook_name": f"blocks.{site.removeprefix('block')}.hook_resid_post",  # sae-lens's name of the site
        "context_size": train.shape[1],
        "prepend_bos": True,
    }
    train_sae(activations, settings, derive(job.seed, "sae"), metadata).save_inference_model(folder)


def load_sae(folder: Path) -> Any:
    """Load a sae-lens SAE in evaluation mode, on the device that models run on."""
    from sae_lens import SAE  # takes seconds to import

    return SAE.load_from_disk(folder, device=default_device()).eval()
