"""Table c2, a column: what the weights place where the neurons and heads of B are in a random order.

B's last checkpoint gets random neuron and head gauges, which leave its function alone, and both checkpoints a
planted residual gauge. The control compares the same weights row by row, as if their order corresponded.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel

from gaugeport.alignment.evidence import weight_evidence
from gaugeport.alignment.matchers import match
from gaugeport.charts import chart_of
from gaugeport.groups import GROUPS, SignedPermutation, compose
from gaugeport.models.loading import load_model
from gaugeport.pipeline.job import Job
from gaugeport.pipeline.measures.conditions import gauge_accuracy, matcher_that_runs, mean_over_plants
from gaugeport.pipeline.stages.evidence import spaced_steps
from gaugeport.pipeline.stages.runs import read_seen_tokens
from gaugeport.pipeline.stages.stage import Built
from gaugeport.pipeline.tasks.shared.checks import check_language_model
from gaugeport.pipeline.tasks.task import Row, Task
from gaugeport.pipeline.training.trainer import checkpoints
from gaugeport.transport import HeadGauge, NeuronGauge, transport_model
from gaugeport.transport.weight_alignment import align_weights
from gaugeport.utils.seeds import generator

STAGES = ("data", "base", "A", "B")


def check(job: Job) -> None:
    """Check that the job matches weights at the endpoint.

    Raises:
        ValueError: The matcher or the route is another, or ``task.orders`` is below 1.
    """
    check_language_model(job)
    for key, value, allowed in (("matcher", job.matcher, "weights"), ("route", job.route, "endpoint")):
        if value != allowed:
            raise ValueError(f"task=reordered with {key}={value}; allowed: {allowed}")
    orders = job.task["orders"]
    if isinstance(orders, bool) or not isinstance(orders, int) or orders < 1:
        raise ValueError(f"task.orders={orders}; allowed: whole numbers from 1")


def measure(job: Job, built: Built) -> list[Row]:
    """Return the accuracy at the last step, in any order and row by row, means over orders."""
    saved = {run: checkpoints(built[run]) for run in ("A", "B")}
    step = spaced_steps(sorted(saved["A"]), job.measurement.spacing)[-1]
    seen_a, seen_b = (read_seen_tokens(built[run]) for run in ("A", "B"))
    seen = seen_a[torch.isin(seen_a, seen_b)]
    a, b = (_float32(saved[run][step]) for run in ("A", "B"))
    of_orders = [_accuracies(job, a, b, seen, order) for order in range(job.task["orders"])]
    return [
        {"evidence": evidence, "site": "", "step": step, "metric": metric, "value": value}
        for evidence in of_orders[0]
        for metric, value in mean_over_plants([found[evidence] for found in of_orders])
    ]


def _accuracies(
    job: Job, a: PreTrainedModel, b: PreTrainedModel, seen: Tensor, order: int
) -> dict[str, dict[str, float]]:
    """Return evidence -> metric -> value, of one random order."""
    # 1) put B's neurons and heads in another order, and plant gauges on both
    draw = generator(job.seed, "reordered", order)
    neurons, heads = NeuronGauge.random(b, draw), HeadGauge.random(b, draw)
    group = GROUPS[chart_of(a).group]
    q_a, q_b = (group.random(chart_of(a).width, draw) for _ in "AB")
    planted_a = transport_model(a, q_a)
    planted_b = transport_model(heads.apply(neurons.apply(b)), q_b)
    truth = compose(q_b, q_a.inverse())
    # 2) recover the gauge, in any order and row by row
    found = align_weights(planted_a, planted_b, seen, job.gauge)
    matcher = matcher_that_runs(job.gauge, "weights")
    evidence = weight_evidence(planted_a, planted_b, seen, cross=matcher.reads_cross_moments)
    row_by_row = match(evidence, job.gauge, matcher.name).gauge
    # 3) and the neurons and heads with it
    of_units = {"neurons_right": _share_right(found.neurons.blocks, neurons.blocks)}
    if found.heads is not None:
        of_units["heads_right"] = _share_right(found.heads.blocks, heads.blocks)
    return {
        "weights_any_order": {
            **gauge_accuracy(found.gauge, truth), **of_units, "rounds": float(len(found.objectives)),
        },
        "weights_row_by_row": gauge_accuracy(row_by_row, truth),
    }  # fmt: skip


def _share_right(found: tuple[SignedPermutation, ...], truth: tuple[SignedPermutation, ...]) -> float:
    right = [(f.perm == t.perm) & (f.sign == t.sign) for f, t in zip(found, truth, strict=True)]
    return float(torch.cat(right).double().mean())


def _float32(folder: Path) -> PreTrainedModel:
    model: PreTrainedModel = load_model(folder, dtype=torch.float32)
    return model


TASK = Task(measure, lambda job: STAGES, check)
"""Measure what weights place where neurons and heads are in any order (a column of table c2)."""
