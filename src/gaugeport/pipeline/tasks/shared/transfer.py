"""What transfer tasks measure on: models A and B, and the gauges a condition recovers between them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from statistics import fmean

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from gaugeport.alignment.routes import Node, walk
from gaugeport.charts import Chart, chart_of
from gaugeport.groups import Element
from gaugeport.models.loading import load_model
from gaugeport.pipeline.job import Job
from gaugeport.pipeline.measures.conditions import Condition, check_group, gauge_accuracy, plant_group
from gaugeport.pipeline.measures.losses import heldout_loss
from gaugeport.pipeline.measures.planted_evidence import PlantedEvidence
from gaugeport.pipeline.measures.self_evidence import SelfEvidence
from gaugeport.pipeline.stages.models import SELF, is_copy, model_folder
from gaugeport.pipeline.stages.rows import calibration_batches, heldout_rows, loss_rows, read_tokenizer
from gaugeport.pipeline.stages.runs import read_seen_tokens
from gaugeport.pipeline.stages.self_evidence import NODES
from gaugeport.pipeline.stages.stage import Built
from gaugeport.pipeline.tasks.shared.checks import check_choice, check_gauge, check_language_model
from gaugeport.pipeline.tasks.task import Row
from gaugeport.streams.activations import middle_site
from gaugeport.texts import row_batches
from gaugeport.utils.devices import default_device

REVERSED = "finetuned_back"
TARGETS = (SELF, "identical", "finetuned", REVERSED, "independent")
"""``self``: A is the base model and B is A in other coordinates; nothing is trained. ``identical``: the same
with run A's last checkpoint in the place of the base. ``finetuned``: B is the other run from A's base,
drifted on its own. ``finetuned_back``: the same pair reversed, B's direction on A, by the true gauge
(steering only: it separates the pair from what each model saw last). ``independent``: B is a base model
trained from another seed; no gauge is the true one (table c1 only)."""
EVIDENCE = ("site", "pooled", "weights", "both")


@dataclass(frozen=True)
class ModelPair:
    """Models ``a`` and ``b`` and what they share; both are one object where B is A in other coordinates.

    Attributes:
        a: The model that things are written for: its run's last checkpoint, or the base.
        b: The model they are moved to.
        chart: Where the residual stream lives in both.
        tokenizer: The tokenizer of both.
        site: The mid-stack block whose stream things are written in.
        step: The training step of the last checkpoint; 0 for the base.
        rows_fit: int64[n, length], held-out rows to calibrate on.
        rows_test: int64[n, length], held-out rows to measure on.
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
class Transfer(ModelPair):
    """A model pair and one condition between them, in the coordinates their runs share: the true gauge is the
    identity.

    Attributes:
        nodes: The walk from A to B.
        condition: The condition.
        plants: How many planted gauges the condition is measured under.
        where: What every row of the job carries.
        losses: Held-out losses of A and B that are known already.
    """

    nodes: list[Node]
    condition: Condition
    plants: int
    where: Row
    losses: Mapping[str, float] | None = None

    def residuals(self) -> Iterator[Element]:
        """Yield what the gauge does beyond the true one, plant by plant: the identity if it is perfect."""
        return (self.condition.residual(self.nodes, plant) for plant in range(self.plants))

    def accuracy(self) -> list[Row]:
        """Return gauge accuracy (means over plants), the held-out losses of A and B, and how many massive
        tokens the evidence left out."""
        scores = [
            gauge_accuracy(*self.condition.gauge_and_truth(self.nodes, plant)) for plant in range(self.plants)
        ]
        metrics = dict.fromkeys(metric for s in scores for metric in s)
        means = {metric: fmean(s[metric] for s in scores if metric in s) for metric in metrics}
        losses = {f"loss_{model}": loss for model, loss in (self.losses or self._measured_losses()).items()}
        rows = [{"metric": m, "value": v} for m, v in {**means, **losses}.items()]
        return [{**self.where, **row} for row in (*rows, *self._massive_rows())]

    def _massive_rows(self) -> list[Row]:
        """Return how many massive tokens the condition's evidence leaves out; nothing if none."""
        at_sites = self.condition.evidence.massive_rows()
        if self.where["evidence"] == "site":
            at_sites = [row for row in at_sites if row["site"] == self.site]
        elif self.where["evidence"] == "weights":
            at_sites = []
        n = sum(row["value"] for row in at_sites)
        return [{"metric": "massive_tokens", "value": n}] if n else []

    def _measured_losses(self) -> dict[str, float]:
        tokens = list(row_batches(loss_rows(self.rows_test), 64))
        loss = heldout_loss(self.a, tokens)
        return {"A": loss, "B": loss if self.a is self.b else heldout_loss(self.b, tokens)}


def check_transfer(job: Job) -> None:
    """Check target and evidence of a transfer job.

    Raises:
        ValueError: A value is not allowed.
    """
    check_language_model(job)
    check_choice(job, "target", TARGETS)
    check_choice(job, "evidence", EVIDENCE)
    check_gauge(job)
    if job.task["target"] == REVERSED:
        raise ValueError(
            f"task.target={REVERSED} with task={job.task['name']} matcher={job.matcher}: evidence leads "
            "from A to B; allowed: task=steering_sentiment or refusal with matcher=oracle"
        )


def transfer_stages(job: Job) -> tuple[str, ...]:
    """Return the stages that a transfer job requires."""
    if job.task["target"] == SELF:
        return ("data", "base", "self_evidence")
    shared = ("data", "base", "A")
    return shared if is_copy(job) else (*shared, "B", "evidence")


def load_models(job: Job, built: Built) -> ModelPair:
    """Load A, and the target that the job's task names."""
    target = job.task["target"]
    step, path = model_folder(job, built.folders)
    a = b = load_model(path, dtype=torch.float32, device=default_device())
    if not is_copy(job):
        other = built["other"] if target == "independent" else model_folder(job, built.folders, "B")[1]
        b = load_model(other, dtype=torch.float32, device=default_device())
    if target == REVERSED:
        a, b = b, a
    chart = chart_of(a)
    tokenizer = read_tokenizer(built["data"])
    return ModelPair(a, b, chart, tokenizer, middle_site(a, chart), step, *heldout_rows(built["data"]))


def load_transfer(job: Job, built: Built) -> Transfer:
    """Load the models and the condition of a job.

    Raises:
        ValueError: The gauge's group is larger than the models' exact group, or the target has no true gauge.
    """
    task, measurement = job.task, job.measurement
    if task["target"] == "independent":
        raise ValueError(
            "task.target=independent has no true gauge to score against; allowed: self, identical, finetuned"
        )
    # 1) both models, and the evidence between them
    pair = load_models(job, built)
    evidence: SelfEvidence | PlantedEvidence
    losses = None
    if task["target"] == SELF:
        evidence = PlantedEvidence(built["self_evidence"], measurement.positive_share)
        nodes = list(NODES)
        losses = json.loads((built["self_evidence"] / "losses.json").read_text())
    elif task["target"] == "identical":
        evidence = SelfEvidence(
            pair.a,
            pair.step,
            calibration_batches(job, pair.rows_fit),
            sites=measurement.sites,
            skip_first=measurement.skip_first,
            massive=measurement.massive,
            positive_share=measurement.positive_share,
            seen=read_seen_tokens(built["A"]),
            seed=job.seed,
        )
        nodes = list(evidence.nodes)
    else:
        evidence = PlantedEvidence(built["evidence"], measurement.positive_share)
        nodes = walk(job.route, pair.step, measurement.spacing)
    # 2) the condition
    check_group(job.gauge, plant_group(evidence))
    kind = "weights" if job.matcher == "weights" else task["evidence"]
    condition = Condition(evidence, job.gauge, job.matcher, pair.site if kind == "site" else kind, job.seed)
    where = {"target": task["target"], "evidence": kind, "site": pair.site, "step": pair.step}
    plants = task["plants"] if condition.depends_on_plant else 1
    return Transfer(**vars(pair), nodes=nodes, condition=condition, plants=plants, where=where, losses=losses)
