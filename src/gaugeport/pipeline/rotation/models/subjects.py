"""The models that the rotation audit compares, two at a time: an *anchor* and an *other*, by cohort.

``A`` and ``B`` are the Dyck-3 cohorts, their anchor seed 0. ``seeds`` are language models trained independently (other
initialisation, other data order), their anchor seed 0. ``runs`` are two fine-tuning runs from one base: the anchor run A,
the other run B of the job's seed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import PreTrainedModel

from gaugeport.charts import chart_of
from gaugeport.models.loading import load_model
from gaugeport.pipeline.data import mixed_rows, row_batches, rows_holding
from gaugeport.pipeline.job import Job
from gaugeport.pipeline.rotation.lenses.dictionaries import value_at
from gaugeport.pipeline.rotation.lenses.rows import ROWS_AT_ONCE
from gaugeport.pipeline.rotation.models.independence import check_independent
from gaugeport.pipeline.rotation.toy import strings
from gaugeport.pipeline.rotation.toy.components import run
from gaugeport.pipeline.stages import cohorts
from gaugeport.pipeline.stages.training import (
    base_key,
    data_stage,
    heldout_rows,
    hub_id,
    pretraining_stage,
    run_checkpoints,
    run_key,
)
from gaugeport.pipeline.store.store import Store
from gaugeport.pipeline.training.trainer import checkpoints
from gaugeport.streams.activations import all_sites, streams_at
from gaugeport.utils.devices import default_device
from gaugeport.utils.seeds import derive, generator

LANGUAGE_COHORTS = ("seeds", "runs")
COHORTS = (*cohorts.COHORTS, *LANGUAGE_COHORTS)
End = Literal["anchor", "other"]
ENDS: tuple[End, End] = ("anchor", "other")


@dataclass(frozen=True)
class Subject:
    """A model in evaluation mode with its residual ``sites`` in order of depth.

    ``streams(part, tokens)`` gives site -> float32[tokens, d] on the CPU: the same tokens in the same order for every
    model of the cohort, all sites from one pass. The parts share no token: ``sae`` to train SAEs on, ``fit`` to fit maps
    on, ``test`` to measure on (of language models from the other end of the held-out text, so that no document is in both
    while the two take less than half of it).
    """

    model: PreTrainedModel
    sites: tuple[str, ...]
    streams: Callable[[str, int], dict[str, Tensor]]

    @property
    def layer_norm(self) -> bool:
        """Whether the streams have no component along the all-ones direction, since nothing reads it."""
        return chart_of(self.model).norm == "layer"

    @property
    def rotations(self) -> str:
        """The group that a rotation between such streams is fitted in: where they have no mean, it fixes that direction."""
        return "mean_preserving_orthogonal" if self.layer_norm else "orthogonal"


def is_dyck(job: Job) -> bool:
    """Whether the job's cohort is one of Dyck-3 models."""
    return job.task["cohort"] in cohorts.COHORTS


def seed_of(job: Job, end: End) -> int:
    """The training seed of one end of the job's pair."""
    return cohorts.ANCHOR if end == "anchor" and job.task["cohort"] != "runs" else job.seed


def check_pair(job: Job) -> None:
    """Raises ``ValueError`` for an anchor with itself."""
    if job.task["cohort"] != "runs" and job.seed == cohorts.ANCHOR:
        raise ValueError(
            f"seed={job.seed} (the default): task={job.task['name']} compares a seed with seed {cohorts.ANCHOR} of its "
            "cohort; allowed: seed=1, 2, …"
        )


def model_stages(job: Job) -> tuple[str, ...]:
    """The stages that both ends of the job's pair stand on, but those on the hub."""
    if is_dyck(job):
        return ("anchor", "replica")
    if job.task["cohort"] == "runs":
        return ("data", "base", "A", "B")
    return ("data",) if job.model.from_hub else ("data", "pretraining_anchor", "pretraining")


def seeded(job: Job, end: End) -> Job:
    """The job with the seed of one end."""
    return replace(job, seed=seed_of(job, end))


def subject_key(job: Job, end: End, step: int | None = None) -> dict[str, Any]:
    """What decides one end: its training, and which step of it where that is not the last."""
    at = {} if step is None else {"step": step}
    if is_dyck(job):
        return {"dyck": cohorts.model_key(job, seed_of(job, end)), **at}
    if job.task["cohort"] == "runs":
        return {"run": run_key(job, _run(end)), **at}
    return {"pretraining": base_key(seeded(job, end)), **at}


def load_subject(job: Job, store: Store, end: End, step: int | None = None) -> Subject:
    """One end of the job's pair, at a ``step`` of its training (the last where None).

    Raises ``ValueError`` naming a step that was not saved and those that were.
    """
    if is_dyck(job):
        return _dyck(job, load_model(_folder(job, store, end, step), dtype=torch.float32))
    mine = seeded(job, end)
    if job.model.from_hub and job.task["cohort"] == "seeds":
        revision = job.model.revision if step is None else f"step{step}"
        model = load_model(
            hub_id(mine, mine.seed), revision=revision, dtype=torch.float32, device=default_device()
        )
    else:
        model = load_model(_folder(job, store, end, step), dtype=torch.float32, device=default_device())
    return _language(job, store, model)


def load_pair(job: Job, store: Store) -> tuple[Subject, Subject]:
    """Anchor and other. Raises ``ValueError`` where models that should be independent are duplicates, or one run's."""
    anchor, other = (load_subject(job, store, end) for end in ENDS)
    if job.task["cohort"] != "runs":
        shared = cohorts.SHARED if job.task["cohort"] == "A" else ()
        names = (f"seed {seed_of(job, end)} of {job.model.name}" for end in ENDS)
        check_independent(dict(zip(names, (anchor.model, other.model), strict=True)), shared)
    return anchor, other


def saved_steps(job: Job, store: Store, end: End) -> list[int]:
    """The steps of one end's training that checkpoints were kept of, in order."""
    return sorted(_saved(job, store, end))


def _saved(job: Job, store: Store, end: End) -> dict[int, Path]:
    if is_dyck(job):
        return checkpoints(cohorts.model_stage(job, store, seed_of(job, end)) / "training")
    if job.task["cohort"] == "runs":
        return run_checkpoints(job, store, _run(end))
    return checkpoints(pretraining_stage(seeded(job, end), store) / "training")


def _folder(job: Job, store: Store, end: End, step: int | None) -> Path:
    saved = _saved(job, store, end)
    step = max(saved) if step is None else step
    if step not in saved:
        raise ValueError(
            f"step {step} of {job.model.name} was not saved; allowed: {', '.join(map(str, saved))}"
        )
    return saved[step]


def _run(end: End) -> str:
    return "A" if end == "anchor" else "B"


def _dyck(job: Job, model: Any) -> Subject:
    layers = model.config.num_hidden_layers
    sites = ("resid_pre_0", *(f"resid_{place}_{n}" for n in range(layers) for place in ("mid", "post")))

    @torch.no_grad()
    def streams(part: str, tokens: int) -> dict[str, Tensor]:
        longest = cohorts.longest_trained(job)
        rows = -(-tokens // (longest // 4))  # strings are longer than that on average
        drawn = strings.heldout(
            "train", rows, longest, job.data.length, derive(job.data.seed, "subjects", part)
        )
        found: dict[str, list[Tensor]] = {site: [] for site in sites}
        for ids in drawn["input_ids"].split(ROWS_AT_ONCE):
            wrote = run(model, ids).wrote
            for site in sites:
                found[site].append(value_at(model, wrote, site)[ids != strings.PAD])
        return {site: torch.cat(parts)[:tokens] for site, parts in found.items()}

    return Subject(model, sites, streams)


def _language(job: Job, store: Store, model: Any) -> Subject:
    chart, skip = chart_of(model), job.measurement.skip_first
    sites = tuple(all_sites(len(chart.blocks(model))))

    def streams(part: str, tokens: int) -> dict[str, Tensor]:
        rows = rows_holding(_rows(job, store, part), tokens, skip, f"tokens to {part}")
        passes = [
            streams_at(model, chart, batch, sites, skip)
            for batch in row_batches(rows, job.measurement.batch_size)
        ]
        return {site: torch.cat([p[site].cpu() for p in passes])[:tokens] for site in sites}

    return Subject(model, sites, streams)


def _rows(job: Job, store: Store, part: str) -> Tensor:
    if part == "sae":
        rows = load_file(data_stage(job, store) / "rows.safetensors")
        train = torch.cat([rows["train_0"], rows["train_1"]])
        return mixed_rows(train, len(train), generator(job.data.seed, "subjects", part))
    calibration, evaluation = heldout_rows(job, store)
    return calibration if part == "fit" else evaluation.flip(0)  # from the other end
