"""Table a5: a sentiment direction of A moved by a gauge, and its effect on B's held-out reviews."""

from __future__ import annotations

from gaugeport.pipeline.job import Job
from gaugeport.pipeline.measures.steering_effects import (
    class_gap_rows,
    steering_effect,
    strength_sweep_rows,
    transported_effect_rows,
)
from gaugeport.pipeline.stages.stage import Built
from gaugeport.pipeline.tasks.shared.directions import check_steering, sentiment_directions, with_gauge
from gaugeport.pipeline.tasks.shared.transfer import load_transfer, transfer_stages
from gaugeport.pipeline.tasks.task import Row, Task
from gaugeport.transport.directions import transport_direction


def measure(job: Job, built: Built) -> list[Row]:
    """Return the effects of one condition, its gauge accuracy and the models' losses."""
    transfer = load_transfer(job, built)
    v = sentiment_directions(job, transfer)
    moved = [transport_direction(v.of_a, r) for r in transfer.residuals()]
    slot = v.slot(transfer.b)
    effect = v.with_known_controls(built, "steering", steering_effect(slot, job.task["strength"]))
    effects = transported_effect_rows(effect, moved, v.of_a, v.of_b, v.random_controls())
    classes = (v.prompts.heldout_positive, v.prompts.heldout_negative)
    apart = class_gap_rows(*(v.slot(transfer.b, texts).log_odds() for texts in classes))
    return with_gauge(transfer, v, [*effects, *strength_sweep_rows(slot, moved, job.task["sweep"]), *apart])


TASK = Task(measure, transfer_stages, check_steering)
