"""What every transfer job stands on: models A and B, and the gauges an arm recovers between them, plant by plant."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from gaugeport.alignment.routes import Node, walk
from gaugeport.charts import Chart, chart_of
from gaugeport.groups import Element
from gaugeport.models.loading import load_model, load_tokenizer
from gaugeport.pipeline.data import row_batches
from gaugeport.pipeline.job import Job
from gaugeport.pipeline.measures.conditions import Condition, check_group, gauge_accuracy, plant_group
from gaugeport.pipeline.measures.losses import heldout_loss
from gaugeport.pipeline.measures.planted_evidence import PlantedEvidence
from gaugeport.pipeline.measures.self_evidence import SelfEvidence
from gaugeport.pipeline.stages.evidence import calibration_batches, evidence_stage, loss_rows
from gaugeport.pipeline.stages.training import (
    base_stage,
    data_stage,
    heldout_rows,
    run_checkpoints,
    run_stage,
)
from gaugeport.pipeline.store.store import Store
from gaugeport.streams.activations import middle_site
from gaugeport.utils.devices import default_device

Row = dict[str, Any]
BACK = "finetuned_back"
TARGETS = ("identical", "finetuned", BACK, "independent")
"""``identical``: B is A in other coordinates. ``finetuned``: B is the other run from A's base, drifted on its own.
``finetuned_back``: the same pair with its ends changed, B's direction on A, by the true gauge (steering only: what a model
saw last tells the ends apart). ``independent``: B is a base model trained from another seed; no gauge is the true one
(table c1 only)."""
OTHER = 1000
"""What is added to a job's seed to train the independent model from."""
EVIDENCE = ("site", "pooled", "weights", "both")


@dataclass(frozen=True)
class Ends:
    """Models ``a`` and ``b``, the last checkpoints (one object when the target is identical), and what they share.

    ``site`` is the mid-stack block that things are written at, ``rows_fit`` and ``rows_test`` int64[n, length] held-out
    rows to calibrate and to measure on.
    """

    a: PreTrainedModel
    b: PreTrainedModel
    chart: Chart
    tokenizer: PreTrainedTokenizerBase
    site: str
    step: int
    rows_fit: Tensor
    rows_test: Tensor


@dataclass(frozen=True)
class Transfer(Ends):
    """One arm between two models, both in the coordinates their runs share (so the true gauge is the identity).

    ``nodes`` is the walk from A to B, ``where`` what every row of the job carries.
    """

    nodes: list[Node]
    arm: Condition
    plants: int
    where: Row

    def residuals(self) -> Iterator[Element]:
        """What the arm's gauge does beyond the true one, a plant at a time: the identity when it is perfect."""
        return (self.arm.residual(self.nodes, plant) for plant in range(self.plants))

    def accuracy(self) -> list[Row]:
        """Gauge accuracy (mean over plants), and held-out losses of A and B, to stand beside the effect."""
        scores = [
            gauge_accuracy(*self.arm.gauge_and_truth(self.nodes, plant)) for plant in range(self.plants)
        ]
        means = {
            m: fmean(s[m] for s in scores if m in s) for m in dict.fromkeys(k for s in scores for k in s)
        }
        tokens = list(row_batches(loss_rows(self.rows_test), 64))
        losses = {"loss_A": heldout_loss(self.a, tokens)}
        losses["loss_B"] = losses["loss_A"] if self.a is self.b else heldout_loss(self.b, tokens)
        return [{**self.where, "metric": m, "value": v} for m, v in {**means, **losses}.items()]


def other_job(job: Job) -> Job:
    """The job of the independent model: the same in all but its seed. Raises ``ValueError`` for a model not trained here."""
    if job.model.path is not None or job.model.from_hub:
        raise ValueError(
            "task.target=independent wants models trained here from two seeds; allowed for a pretrained one: finetuned"
        )
    return replace(job, seed=job.seed + OTHER)


def load_ends(job: Job, store: Store) -> Ends:
    """Load A, and the target that the job's task names (A itself where that is ``identical``; :data:`BACK` swaps the two)."""
    saved = run_checkpoints(job, store, "A")
    step, target = max(saved), job.task["target"]
    a = load_model(saved[step], dtype=torch.float32, device=default_device())
    b = a
    if target != "identical":
        path = (
            base_stage(other_job(job), store)
            if target == "independent"
            else run_checkpoints(job, store, "B")[step]
        )
        b = load_model(path, dtype=torch.float32, device=default_device())
    if target == BACK:
        a, b = b, a
    chart = chart_of(a)
    tokenizer = load_tokenizer(data_stage(job, store) / "tokenizer")
    return Ends(a, b, chart, tokenizer, middle_site(a, chart), step, *heldout_rows(job, store))


def stages_of(job: Job) -> tuple[str, ...]:
    """The stages a transfer job stands on."""
    shared = ("data", "base", "A")
    return shared if job.task["target"] == "identical" else (*shared, "B", "evidence")


def transfer(job: Job, store: Store) -> Transfer:
    """Load the models and the arm of a job. Raises ``ValueError`` for a gauge larger than the models' exact group."""
    task, measurement = job.task, job.measurement
    if task["target"] == "independent":
        raise ValueError(
            "task.target=independent has no true gauge to score against; allowed: identical, finetuned"
        )
    ends = load_ends(job, store)
    evidence: SelfEvidence | PlantedEvidence
    if task["target"] == "identical":
        evidence = SelfEvidence(
            ends.a,
            ends.step,
            calibration_batches(job, ends.rows_fit),
            sites=measurement.sites,
            skip_first=measurement.skip_first,
            seen=load_file(run_stage(job, store, "A") / "seen.safetensors")["seen"],
            seed=job.seed,
        )
        nodes = list(evidence.nodes)
    else:
        evidence = PlantedEvidence(evidence_stage(job, store))
        nodes = walk(job.route, ends.step, measurement.spacing)
    check_group(job.gauge, plant_group(evidence))
    kind = "weights" if job.matcher == "weights" else task["evidence"]
    arm = Condition(evidence, job.gauge, job.matcher, ends.site if kind == "site" else kind, job.seed)
    where = {"target": task["target"], "evidence": kind, "site": ends.site, "step": ends.step}
    return Transfer(
        **vars(ends), nodes=nodes, arm=arm, plants=task["plants"] if arm.depends_on_plant else 1, where=where
    )
