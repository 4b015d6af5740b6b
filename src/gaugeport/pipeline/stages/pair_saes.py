"""SAEs of one model of a pair at every residual site, as a stage (paper B, sections 7.1 and 8.1).

SAEs of two models have the *same* initialisation and data order where they are trained from one seed, and
their *own* where each is trained from its model's seed. Both are needed as controls: a shared initialisation
and short training alone make decoders look alike.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gaugeport.pipeline.job import Job
from gaugeport.pipeline.rotation.lenses.dictionaries import (
    settings_of_width,
    train_dictionary,
    untrained_dictionary,
)
from gaugeport.pipeline.stages.cohorts import ANCHOR
from gaugeport.pipeline.stages.pairs import Side, is_toy, load_side, side_key
from gaugeport.pipeline.stages.rows import data_key
from gaugeport.pipeline.stages.saes import load_sae
from gaugeport.pipeline.stages.stage import Folders
from gaugeport.pipeline.training.saes import ARCHITECTURES
from gaugeport.streams.massive import leave_out_massive
from gaugeport.utils.seeds import derive

SAME, OWN = "same", "own"


def initialisations(side: Side, step: int | None = None) -> tuple[str, ...]:
    """Return the initialisations one side has SAEs from; only the other's last step has both."""
    return (SAME,) if side == "anchor" or step is not None else (SAME, OWN)


def saes_key(job: Job, side: Side, step: int | None = None) -> dict[str, Any]:
    """Return what decides one side's SAEs."""
    sae = job.task["sae"]
    # the sparsity of other architectures does not count
    unused = set(ARCHITECTURES.values()) - {ARCHITECTURES.get(sae["architecture"])}
    # the key of a model trained here names its texts; of a published one it does not
    published = job.model.from_hub and not is_toy(job)
    texts = {"data": data_key(job)} if published else {}
    return {
        "subject": side_key(job, side, step),
        **texts,
        **job.measurement.tokens_left_out(),
        "sae": {k: v for k, v in sae.items() if k not in unused},
        "expansion": job.task["expansion"],
        "seeds": {init: sae_seed(job, "", init) for init in initialisations(side, step)},
    }


def build_saes(job: Job, required: Folders, folder: Path, side: Side, step: int | None = None) -> None:
    """Write ``<site>/<initialisation>/`` folders, each as sae-lens writes and loads them."""
    paired, settings = load_side(job, required, side, step), job.task["sae"]
    streams = paired.streams("sae", settings["activations"])
    for site in paired.sites:
        (kept,) = leave_out_massive(streams[site], massive=job.measurement.massive)
        for init in initialisations(side, step):
            seed = sae_seed(job, site, init)
            sae = train_dictionary(kept, settings, job.task["expansion"], seed, site, job.model.name)
            sae.save_inference_model(folder / site / init)


def load_saes(folder: Path, init: str = SAME) -> dict[str, Any]:
    """Load the SAEs of one side in evaluation mode, by site."""
    sites = sorted(p.name for p in folder.iterdir() if p.is_dir())
    return {site: load_sae(folder / site / init) for site in sites}


def sae_seed(job: Job, site: str, init: str) -> int:
    """Return the seed of an SAE: of the site alone if the initialisation is shared, else of the job too."""
    return derive(ANCHOR, "saes", site) if init == SAME else derive(job.seed, "own saes", site)


def initial_sae(job: Job, site: str, init: str, width: int) -> Any:
    """Return the SAE of a site before training, except for its ``b_dec``."""
    return untrained_dictionary(job.task["sae"], job.task["expansion"], width, sae_seed(job, site, init))


def check_saes(job: Job) -> None:
    """Check the SAE settings before anything is trained.

    The number of latents of a user's own model depends on its width, which is only known later.

    Raises:
        ValueError: A setting is not allowed.
    """
    sae = job.task["sae"]
    settings_of_width(sae, job.model.architecture.get("hidden_size", sae["k"]), job.task["expansion"])
