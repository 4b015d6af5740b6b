"""Sparse autoencoders of one model of a cohort at every residual site, as a stage (paper B, sections 7.1 and 8.1).

SAEs of two models have the *same* initialisation and order of data where they are trained from one seed, *own* ones where
each is trained from its model's. Shared initialisation alone makes decoders look alike (PAPER_CLAIMS): both are there.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gaugeport.pipeline.job import Job
from gaugeport.pipeline.rotation.lenses.dictionaries import expanded, train_dictionary, untrained_dictionary
from gaugeport.pipeline.rotation.models.subjects import End, is_dyck, load_subject, subject_key
from gaugeport.pipeline.stages.cohorts import ANCHOR
from gaugeport.pipeline.stages.training import data_key
from gaugeport.pipeline.store.store import Store
from gaugeport.pipeline.training.saes import ARCHITECTURES
from gaugeport.utils.devices import default_device
from gaugeport.utils.seeds import derive

SAME, OWN = "same", "own"


def inits_of(end: End, step: int | None = None) -> tuple[str, ...]:
    """The initialisations that one end has SAEs from: only those of the other's last step are compared by it."""
    return (SAME,) if end == "anchor" or step is not None else (SAME, OWN)


def saes_stage(job: Job, store: Store, end: End, step: int | None = None) -> Path:
    """The folder of one end's SAEs: ``<site>/<initialisation>/``, each as sae-lens writes and loads them."""

    def build(folder: Path) -> None:
        subject, settings = load_subject(job, store, end, step), job.task["sae"]
        streams = subject.streams("sae", settings["activations"])
        for site, init in ((s, i) for s in subject.sites for i in inits_of(end, step)):
            x, seed = streams[site], sae_seed(job, site, init)
            sae = train_dictionary(x, settings, job.task["expansion"], seed, site, job.model.name)
            sae.save_inference_model(folder / site / init)

    return store.ensure("subject_saes", saes_key(job, end, step), build)


def saes_key(job: Job, end: End, step: int | None = None) -> dict[str, Any]:
    """What decides one end's SAEs."""
    sae = job.task["sae"]
    unused = set(ARCHITECTURES.values()) - {
        ARCHITECTURES.get(sae["architecture"])
    }  # other architectures' sparsity
    published = job.model.from_hub and not is_dyck(job)  # of other models the subject's key has the texts
    trained_on = {"data": data_key(job)} if published else {}
    return {
        "subject": subject_key(job, end, step),
        **trained_on,
        "skip_first": job.measurement.skip_first,
        "sae": {k: v for k, v in sae.items() if k not in unused},
        "expansion": job.task["expansion"],
        "seeds": {init: sae_seed(job, "", init) for init in inits_of(end, step)},
    }


def sae_seed(job: Job, site: str, init: str) -> int:
    """The seed of an SAE: of the site alone where the initialisation is shared, else of the job's models too."""
    return derive(ANCHOR, "saes", site) if init == SAME else derive(job.seed, "own saes", site)


def load_saes(job: Job, store: Store, end: End, init: str = SAME, step: int | None = None) -> dict[str, Any]:
    """Site -> SAE of one end, in evaluation mode."""
    from sae_lens import SAE

    folder = saes_stage(job, store, end, step)
    sites = sorted(p.name for p in folder.iterdir() if p.is_dir())
    return {site: SAE.load_from_disk(folder / site / init, device=default_device()).eval() for site in sites}


def initial_sae(job: Job, site: str, init: str, width: int) -> Any:
    """What the SAE of a site was before training, but for its ``b_dec``."""
    return untrained_dictionary(job.task["sae"], job.task["expansion"], width, sae_seed(job, site, init))


def check_saes(job: Job) -> None:
    """Raises ``ValueError`` for settings of SAEs that cannot be, before anything is trained.

    How many latents a model of the user's own has, its width says later.
    """
    expanded(
        job.task["sae"],
        job.model.architecture.get("hidden_size", job.task["sae"]["k"]),
        job.task["expansion"],
    )
