"""Table a6: a refusal direction of A moved by the condition's gauge, added to and ablated from B."""

from __future__ import annotations

from gaugeport.pipeline.job import Job
from gaugeport.pipeline.measures.refusal_effects import ablation_effect, addition_effects
from gaugeport.pipeline.measures.steering_effects import (
    class_gap_rows,
    strength_sweep_rows,
    transported_effect_rows,
)
from gaugeport.pipeline.stages.stage import Built
from gaugeport.pipeline.tasks.shared.directions import check_steering, refusal_directions, with_gauge
from gaugeport.pipeline.tasks.shared.transfer import load_transfer, transfer_stages
from gaugeport.pipeline.tasks.task import Row, Task
from gaugeport.transport.directions import transport_direction


def measure(job: Job, built: Built) -> list[Row]:
    """Return one condition's effects (addition, its odd part, ablation), gauge accuracy and losses."""
    transfer = load_transfer(job, built)
    v = refusal_directions(job, transfer)
    moved, controls = [transport_direction(v.of_a, r) for r in transfer.residuals()], v.random_controls()
    # 1) addition to harmless prompts, and its part that is odd in the direction
    harmless = v.slot(transfer.b, v.prompts.heldout_negative)
    addition, its_odd_part = addition_effects(harmless, job.task["strength"])
    whole = v.with_known_controls(built, "addition", addition)
    odd = v.with_known_controls(built, "odd part of addition", its_odd_part)
    added = transported_effect_rows(whole, moved, v.of_a, v.of_b, controls)
    none = any(r["metric"] == "no_effect_to_transport" and r["value"] for r in added)
    signed = transported_effect_rows(odd, moved, v.of_a, v.of_b, controls, "odd_", silent=none)
    # 2) ablation from harmful prompts
    harmful = v.slot(transfer.b, v.prompts.heldout_positive)
    ablation = v.with_known_controls(built, "ablation", ablation_effect(harmful))
    ablated = transported_effect_rows(
        ablation, moved, v.of_a, v.of_b, controls, "ablation_", even=True, silent=none
    )
    sweep = strength_sweep_rows(harmless, moved, job.task["sweep"])
    apart = class_gap_rows(harmful.log_odds(), harmless.log_odds())
    return with_gauge(transfer, v, [*added, *signed, *ablated, *sweep, *apart])


TASK = Task(measure, transfer_stages, check_steering)
