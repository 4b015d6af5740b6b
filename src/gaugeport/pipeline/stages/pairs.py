"""Model pairs of the rotation tasks: an *anchor* and an *other* model, by cohort.

``A`` and ``B`` are the Dyck-3 cohorts, ``seeds`` language models trained independently (different
initialisation and data order). The anchor is the seed ``task.anchor``, 0 unless it is given, the other the
job's seed. ``runs`` are two fine-tuning runs from one base: the anchor is run A and the other run B of the
job's seed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import PreTrainedModel

from gaugeport.charts import chart_of
from gaugeport.models.loading import load_model
from gaugeport.pipeline.job import Job
from gaugeport.pipeline.measures.losses import heldout_loss
from gaugeport.pipeline.rotation.models.independence import check_independent
from gaugeport.pipeline.rotation.toy import strings
from gaugeport.pipeline.rotation.toy.components import STRINGS_PER_PASS, run_graph
from gaugeport.pipeline.rotation.toy.sites import value_at
from gaugeport.pipeline.stages import cohorts
from gaugeport.pipeline.stages.base import base_key
from gaugeport.pipeline.stages.rows import all_train_rows, heldout_rows, hub_id
from gaugeport.pipeline.stages.runs import run_key
from gaugeport.pipeline.stages.stage import Folders
from gaugeport.pipeline.training.trainer import checkpoints
from gaugeport.streams.activations import all_sites, streams_at
from gaugeport.texts import mixed_rows, row_batches, rows_holding
from gaugeport.utils.devices import default_device
from gaugeport.utils.seeds import derive, generator

LANGUAGE_COHORTS = ("seeds", "runs")
COHORTS = (*cohorts.COHORTS, *LANGUAGE_COHORTS)
Side = Literal["anchor", "other"]
SIDES: tuple[Side, Side] = ("anchor", "other")
RUN_OF: dict[Side, str] = {"anchor": "A", "other": "B"}
"""The fine-tuning run that each side is in the cohort ``runs``."""


@dataclass(frozen=True)
class PairedModel:
    """One model of a pair, in evaluation mode.

    Attributes:
        model: The model.
        sites: Its residual sites in order of depth.
        streams: ``streams(part, tokens)`` gives site -> float32[tokens, d] on the CPU: the same tokens in the
            same order for every model of the cohort, all sites from one pass. The parts share no token:
            ``sae`` to train SAEs on, ``fit`` to fit maps on, ``test`` to measure on. Of language models
            ``test`` comes from the other end of the held-out text, so that no document is in both while the
            two use less than half of it.
        loss: ``loss(tokens)`` gives the mean loss on so many tokens of ``test``, in nats: of the next token,
            or of a head of the toy.
    """

    model: PreTrainedModel
    sites: tuple[str, ...]
    streams: Callable[[str, int], dict[str, Tensor]]
    loss: Callable[[int], float]

    @property
    def layer_norm(self) -> bool:
        """Whether the streams have no component along the all-ones direction, because nothing reads it."""
        return chart_of(self.model).norm == "layer"

    @property
    def rotation_group(self) -> str:
        """The group that a rotation between such streams is fitted in."""
        return "mean_preserving_orthogonal" if self.layer_norm else "orthogonal"


def is_toy(job: Job) -> bool:
    """Return whether the job's cohort is one of Dyck-3 models."""
    return job.task["cohort"] in cohorts.COHORTS


def seed_of(job: Job, side: Side) -> int:
    """Return the training seed of one side of the job's pair."""
    return anchor_of(job) if side == "anchor" and job.task["cohort"] != "runs" else job.seed


def anchor_of(job: Job) -> int:
    """Return the seed that the job's seed is compared with, where they are seeds of one cohort."""
    return int(job.task.get("anchor", cohorts.ANCHOR))


def with_seed_of(job: Job, side: Side) -> Job:
    """Return the job with the training seed of one side."""
    return replace(job, seed=seed_of(job, side))


def check_not_anchor(job: Job) -> None:
    """Refuse to compare the anchor with itself.

    Raises:
        ValueError: The job's seed is the anchor's.
    """
    anchor = anchor_of(job)
    if job.task["cohort"] != "runs" and job.seed == anchor:
        default = " (the default)" if job.seed == 0 else ""
        raise ValueError(
            f"seed={job.seed}{default}: task={job.task['name']} compares a seed with seed {anchor} of its "
            f"cohort (task.anchor); allowed: any other, seed={anchor + 1}, {anchor + 2}, …"
        )


def pair_stages(job: Job) -> tuple[str, ...]:
    """Return the stages that hold both models of the pair; models on the hub have none.

    Raises:
        ValueError: The job's seed is the anchor's.
    """
    check_not_anchor(job)
    if is_toy(job):
        boundary = ("anchor",) if any(cohorts.frozen(job, seed_of(job, side)) for side in SIDES) else ()
        return tuple(dict.fromkeys((*boundary, *(stage_of(job, side) for side in SIDES))))
    if job.task["cohort"] == "runs":
        return ("data", "base", "A", "B")
    return ("data",) if job.model.from_hub else ("data", "pretraining_anchor", "pretraining")


def other_stages(job: Job) -> tuple[str, ...]:
    """Return the stages that hold the other model alone."""
    if is_toy(job):
        return cohorts.own_stages(job)
    if job.task["cohort"] == "runs":
        return ("data", "base", "B")
    return ("data",) if job.model.from_hub else ("data", "pretraining")


def stage_of(job: Job, side: Side) -> str:
    """Return the name of the stage that holds one side."""
    if is_toy(job):
        seed = seed_of(job, side)
        return "compared" if side == "anchor" and seed != cohorts.ANCHOR else cohorts.stage_of(seed)
    if job.task["cohort"] == "runs":
        return RUN_OF[side]
    return "pretraining_anchor" if side == "anchor" else "pretraining"


def side_stages(job: Job, side: Side) -> tuple[str, ...]:
    """Return the stages that :func:`load_side` reads for one side."""
    texts = () if is_toy(job) else ("data",)
    on_hub = not is_toy(job) and job.model.from_hub and job.task["cohort"] == "seeds"
    return texts if on_hub else (*texts, stage_of(job, side))


def side_key(job: Job, side: Side, step: int | None = None) -> dict[str, Any]:
    """Return what decides one side: its training, and which step of it where that is not the last."""
    at = {} if step is None else {"step": step}
    if is_toy(job):
        return {"dyck": cohorts.model_key(job, seed_of(job, side)), **at}
    if job.task["cohort"] == "runs":
        return {"run": run_key(job, RUN_OF[side]), **at}
    return {"pretraining": base_key(with_seed_of(job, side)), **at}


def load_side(job: Job, folders: Folders, side: Side, step: int | None = None) -> PairedModel:
    """Load one side of the job's pair.

    Args:
        job: The job.
        folders: The folders of its stages.
        side: ``anchor`` or ``other``.
        step: The step of its training; the last where None.

    Raises:
        ValueError: The step was not saved; the message names those that were.
    """
    if is_toy(job):
        return paired_dyck_model(job, load_model(_checkpoint(job, folders, side, step), dtype=torch.float32))
    if job.model.from_hub and job.task["cohort"] == "seeds":
        revision = job.model.revision if step is None else f"step{step}"
        source: str | Path = hub_id(job, seed_of(job, side))
        model = load_model(source, revision=revision, dtype=torch.float32, device=default_device())
    else:
        model = load_model(
            _checkpoint(job, folders, side, step), dtype=torch.float32, device=default_device()
        )
    return paired_language_model(job, folders["data"], model)


def load_pair(job: Job, folders: Folders) -> tuple[PairedModel, PairedModel]:
    """Load the anchor and the other model.

    Raises:
        ValueError: Models that should be independent are duplicates, or checkpoints of one run.
    """
    anchor, other = (load_side(job, folders, side) for side in SIDES)
    if job.task["cohort"] != "runs":
        shared = cohorts.SHARED if job.task["cohort"] == "A" else ()
        names = (f"seed {seed_of(job, side)} of {job.model.name}" for side in SIDES)
        check_independent(dict(zip(names, (anchor.model, other.model), strict=True)), shared)
    return anchor, other


def saved_steps(job: Job, folders: Folders, side: Side) -> list[int]:
    """Return the steps of one side's training whose checkpoints were kept, in order."""
    return sorted(_saved(job, folders, side))


def _saved(job: Job, folders: Folders, side: Side) -> dict[int, Path]:
    folder = folders[stage_of(job, side)]
    return checkpoints(folder if job.task["cohort"] == "runs" else folder / "training")


def _checkpoint(job: Job, folders: Folders, side: Side, step: int | None) -> Path:
    saved = _saved(job, folders, side)
    step = max(saved) if step is None else step
    if step not in saved:
        raise ValueError(
            f"step {step} of {job.model.name} was not saved; allowed: {', '.join(map(str, saved))}"
        )
    return saved[step]


def paired_dyck_model(job: Job, model: Any) -> PairedModel:
    """Return a Dyck-3 model with its sites and its streams on held-out strings."""
    layers = model.config.num_hidden_layers
    sites = ("resid_pre_0", *(f"resid_{place}_{n}" for n in range(layers) for place in ("mid", "post")))

    def drawn(part: str, tokens: int) -> dict[str, Tensor]:
        longest = cohorts.longest_trained(job)
        rows = -(-tokens // (longest // 4))  # strings are longer than that on average
        seed = derive(job.data.seed, "subjects", part)
        return strings.heldout("train", rows, longest, job.data.length, seed, job.data.depth_label)

    @torch.no_grad()
    def streams(part: str, tokens: int) -> dict[str, Tensor]:
        parts: dict[str, list[Tensor]] = {site: [] for site in sites}
        for ids in drawn(part, tokens)["input_ids"].split(STRINGS_PER_PASS):
            written = run_graph(model, ids).written
            for site in sites:
                parts[site].append(value_at(model, written, site)[ids != strings.PAD])
        return {site: torch.cat(values)[:tokens] for site, values in parts.items()}

    @torch.no_grad()
    def loss(tokens: int) -> float:
        return float(model(**drawn("test", tokens)).loss)

    return PairedModel(model, sites, streams, loss)


def paired_language_model(job: Job, data: Path, model: Any) -> PairedModel:
    """Return a language model with its sites and its streams on the texts of a folder."""
    chart, skip = chart_of(model), job.measurement.skip_first
    sites = tuple(all_sites(len(chart.blocks(model))))

    def batches_of(part: str, tokens: int) -> list[dict[str, Tensor]]:
        rows = rows_holding(_rows(job, data, part), tokens, skip, f"tokens to {part}")
        return list(row_batches(rows, job.measurement.batch_size))

    def streams(part: str, tokens: int) -> dict[str, Tensor]:
        passes = [streams_at(model, chart, batch, sites, skip) for batch in batches_of(part, tokens)]
        return {site: torch.cat([p[site].cpu() for p in passes])[:tokens] for site in sites}

    def loss(tokens: int) -> float:
        return heldout_loss(model, batches_of("test", tokens))

    return PairedModel(model, sites, streams, loss)


def _rows(job: Job, data: Path, part: str) -> Tensor:
    if part == "sae":
        train = all_train_rows(data)
        return mixed_rows(train, len(train), generator(job.data.seed, "subjects", part))
    calibration, evaluation = heldout_rows(data)
    return calibration if part == "fit" else evaluation.flip(0)  # from the other end of the text
