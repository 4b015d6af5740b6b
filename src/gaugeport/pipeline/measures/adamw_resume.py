"""Measure whether AdamW stays on its trajectory when resumed from a moved, identical checkpoint (table a8).

A run is resumed from one of its checkpoints: the reference. It is also resumed from moved copies of that
checkpoint, which compute the same function and differ in the treatment of the optimizer state. All runs see
the same batches. Training goes through ``transformers.Trainer``, from checkpoint folders in its format.
"""

from __future__ import annotations

import copy
import itertools
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import TrainerCallback

from gaugeport.pipeline.job import Schedule
from gaugeport.pipeline.measures.displacement import displacement
from gaugeport.pipeline.measures.losses import heldout_loss
from gaugeport.pipeline.measures.moved_checkpoints import THEORY, MovedCheckpoint, moved_checkpoints
from gaugeport.pipeline.measures.noise_floor import FLOOR, LARGEST_RESOLVED_FLOOR
from gaugeport.pipeline.training.trainer import resume
from gaugeport.transport.optimizer_checkpoint import read_checkpoint, write_checkpoint
from gaugeport.transport.optimizer_checks import refuse_dropout

Row = dict[str, Any]
Metrics = dict[tuple[str, int], float]
"""(metric, step) -> value, of one condition."""


def adamw_resume_rows(
    checkpoint: Path,
    rows: Tensor,
    schedule: Schedule,
    *,
    seed: int,
    steps: int,
    at: Sequence[int],
    calibration: Sequence[dict[str, Tensor]],
    evaluation: Sequence[dict[str, Tensor]],
    scratch: Path,
) -> list[Row]:
    """Resume a run from moved copies of a checkpoint, and measure how far each leaves the reference run.

    Metrics, at the steps ``at`` and the last:
        ``divergence``: paper A's resume divergence ‖g⁻¹θ'_t − θ_t‖ / ‖θ_t − θ_resume‖ over all parameters.
        ``loss_gap``: difference of the losses on the batch of step t before this step is taken, in nats per
            token. At t = 1 both models compute the same function.
        ``heldout_gap`` (last step only): difference of the losses on ``evaluation``.
        and those of :func:`compare_with_floor`.

    Args:
        checkpoint: the checkpoint folder to resume from.
        rows: int64[n, length], all rows of the run that wrote it.
        schedule: the schedule of that run.
        seed: seed of that run.
        steps: number of steps to resume for.
        at: steps since the checkpoint to measure at; a copy of the reference's weights is held for each.
        calibration: batches to match on for the condition ``recovered``.
        evaluation: held-out batches of full rows.
        scratch: folder for moved checkpoints; nothing is written elsewhere.

    Returns:
        Rows ``{arm, group, matcher, theory, step, metric, value}``, and one of the reference's held-out loss.
        ``step`` counts from the checkpoint.

    Raises:
        FileNotFoundError: the checkpoint has no ``optimizer.pt``.
        ValueError: the model has dropout, or ``transport_optimizer`` refuses the state.
    """
    model, state = read_checkpoint(checkpoint)
    refuse_dropout(model)
    measured_steps = sorted({steps, *(t for t in at if t <= steps)})
    start, reference = _weights(model), dict[int, dict[str, Tensor]]()

    def follow(folder: Path, work: Any, see: Callable[[int, Any], None]) -> tuple[dict[int, float], float]:
        """Resume a run; return its training losses by step and its held-out loss at the end."""
        watch = StepWatch(steps, measured_steps, see)
        resume(work, rows, folder, schedule, seed, [watch], scratch / "trainer")
        return watch.losses, heldout_loss(work.eval(), evaluation)

    def resume_moved(condition: str, moved: MovedCheckpoint) -> Metrics:
        """Resume a moved checkpoint and compare it with the reference."""
        metrics: Metrics = {}

        def compare(t: int, m: Any) -> None:
            metrics["divergence", t] = displacement(_weights(moved.back(m)), reference[t], start)

        write_checkpoint(checkpoint, scratch / condition, moved.model, moved.state)
        moved_losses, moved_heldout = follow(scratch / condition, moved.model, compare)
        shutil.rmtree(scratch / condition)
        for t in measured_steps:
            metrics["loss_gap", t] = moved_losses[t] - losses[t]
        metrics["heldout_gap", steps] = moved_heldout - heldout
        return metrics

    # 1) run the reference
    losses, heldout = follow(
        checkpoint, copy.deepcopy(model), lambda t, m: reference.update({t: _weights(m)})
    )
    # 2) run every condition; of several draws of one condition, the largest values count
    by_condition, about = dict[str, Metrics](), dict[str, Row]()
    for condition, moved in moved_checkpoints(model, state, seed, calibration):
        about[condition] = {"arm": condition, "group": moved.group, "matcher": moved.matcher}
        about[condition]["theory"] = THEORY[condition]
        metrics = by_condition[moved.repeats] if moved.repeats else resume_moved(condition, moved)
        metrics = metrics | {(name, steps): value for name, value in moved.accuracy.items()}
        earlier = by_condition.get(condition, metrics)
        by_condition[condition] = {key: max(earlier[key], value, key=abs) for key, value in metrics.items()}
    # 3) compare with the noise floor, and make rows
    result: list[Row] = [{"arm": "reference", "step": steps, "metric": "heldout_loss", "value": heldout}]
    for condition, metrics in compare_with_floor(by_condition, measured_steps).items():
        for (metric, t), value in metrics.items():
            result.append({**about[condition], "step": t, "metric": metric, "value": value})
    return result


def compare_with_floor(by_condition: Mapping[str, Metrics], steps: Sequence[int]) -> dict[str, Metrics]:
    """Add the metrics that refer to the noise floor.

    ``divergence_over_floor`` is the ratio to the floor, at every step where the floor is not 0. ``horizon``
    is the last step up to which the floor stays below ``LARGEST_RESOLVED_FLOOR``; ``divergence_at_horizon``
    and ``over_floor_at_horizon`` are the values there. These three are given under the last step, because
    horizons differ between seeds, and they are left out where there is no horizon.

    Args:
        by_condition: condition -> metrics, the floor's included.
        steps: the steps measured at, ascending.

    Returns:
        condition -> its metrics and the added ones.
    """
    floor = {t: by_condition[FLOOR]["divergence", t] for t in steps}
    resolved = list(itertools.takewhile(lambda t: floor[t] < LARGEST_RESOLVED_FLOOR, steps))
    completed: dict[str, Metrics] = {}
    for condition, metrics in by_condition.items():
        divergence = {t: metrics["divergence", t] for t in steps}
        ratio = {t: divergence[t] / floor[t] for t in steps if floor[t] > 0}
        added: Metrics = {("divergence_over_floor", t): r for t, r in ratio.items()}
        if resolved:
            horizon = resolved[-1]
            added["horizon", steps[-1]] = horizon
            added["divergence_at_horizon", steps[-1]] = divergence[horizon]
            if horizon in ratio:
                added["over_floor_at_horizon", steps[-1]] = ratio[horizon]
        completed[condition] = metrics | added
    return completed


class StepWatch(TrainerCallback):
    """Follows a resumed run: calls back at given steps, keeps the losses, and stops the run."""

    def __init__(self, steps: int, seen_at: Sequence[int], see: Callable[[int, Any], None]):
        """Store what to do.

        Args:
            steps: number of steps after which to stop; steps count from the checkpoint.
            seen_at: steps at which to call ``see``.
            see: called with the step and the model.
        """
        self.steps, self.seen_at, self.see = steps, set(seen_at), see
        self.losses: dict[int, float] = {}
        self._first_step = 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._first_step = state.global_step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        t = state.global_step - self._first_step
        # Trainer reads how often to log from the checkpoint, not from its arguments
        control.should_log = True
        if t in self.seen_at:
            self.see(t, kwargs["model"])
        if t >= self.steps:
            control.should_training_stop = True

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if "loss" in kwargs["logs"]:
            self.losses[state.global_step - self._first_step] = kwargs["logs"]["loss"]


def _weights(model: Any) -> dict[str, Tensor]:
    """Return copies of the parameters on the CPU, tied ones once."""
    return {name: p.detach().to("cpu", copy=True) for name, p in model.named_parameters()}
