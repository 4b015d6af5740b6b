"""Table a8: from a moved, functionally identical checkpoint, does AdamW stay on the trajectory of the run it was moved from?

A run is resumed from one of its checkpoints (the reference), and from moved copies of that checkpoint which differ in
what became of the optimizer state. All see the same batches. Training goes through ``transformers.Trainer``, from
checkpoint folders as it writes them.
"""

from __future__ import annotations

import copy
import itertools
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import TrainerCallback

from gaugeport.alignment.align import align
from gaugeport.charts import chart_of
from gaugeport.groups import GROUPS, SignedPermutation
from gaugeport.pipeline.job import Schedule
from gaugeport.pipeline.measures.conditions import gauge_accuracy
from gaugeport.pipeline.measures.displacement import displacement
from gaugeport.pipeline.measures.gauge_groups import generic_element
from gaugeport.pipeline.measures.losses import heldout_loss
from gaugeport.pipeline.training.trainer import resume
from gaugeport.streams.activations import middle_site
from gaugeport.transport.model import transport_model
from gaugeport.transport.neurons import NeuronGauge
from gaugeport.transport.optimizer import transport_optimizer
from gaugeport.transport.optimizer_checkpoint import read_checkpoint, trainer_names, write_checkpoint
from gaugeport.transport.optimizer_checks import refuse_dropout
from gaugeport.utils.seeds import generator

Row = dict[str, Any]
State = dict[str, Any]
Found = dict[tuple[str, int], float]
"""(metric, step) -> value, of one arm."""

FLOOR = "neuron_permuted"
FLOOR_DRAWS = 3
RESOLVED = 0.01
"""Above this, mere summation order takes a run off its trajectory, and divergence says little about the state."""

THEORY = {
    "sign_only": "exactly 0",
    "signed": "at the floor",
    "recovered": "at the floor",
    FLOOR: "the floor",
    "permutation_only": "leaves",
    "zeroed": "leaves",
    "no_state": "leaves",
}
"""Condition -> what the algebra of AdamW says of it. All but two carry the weights by one planted gauge g of the chart's group
and the state: ``signed`` by g; ``recovered`` by what matching finds between the two checkpoints; ``permutation_only`` by
g without its signs; ``zeroed`` with moments of 0 at the step reached; ``no_state`` not at all (the learning rate's
schedule goes on in every arm). ``sign_only`` carries both by signs alone, and ``neuron_permuted``, the noise floor,
reorders MLP neurons in both: the same run, its sums taken in another order; the largest of ``FLOOR_DRAWS`` counts."""


@dataclass(frozen=True)
class MovedCheckpoint:
    """A moved checkpoint: weights, optimizer state, how a copy of its weights is brought back, and by what it moved.

    ``repeats`` names an earlier arm that is the same, bit by bit, so that it need not be run again.
    """

    model: Any
    state: State
    back: Callable[[Any], Any]
    group: str
    matcher: str
    accuracy: Mapping[str, float]
    repeats: str | None = None


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
    """How far every arm goes from the reference run, over ``steps`` steps from ``checkpoint``.

    ``rows`` int64[n, length] are all rows of the run that wrote the checkpoint, ``schedule`` its schedule. Measured ``at``
    these steps (for each of which a copy of the reference's weights is held) and at the last; ``step`` counts from the
    checkpoint. ``calibration`` batches are what ``recovered`` is matched on, at the mid-stack block.

    Metrics: ``divergence``, ‖g⁻¹θ'_t − θ_t‖ / ‖θ_t − θ_resume‖ over all parameters; ``loss_gap``, the difference in nats
    per token on the batch of step t, before that step is taken (at t = 1, of functions that are identical);
    ``heldout_gap``, that of the losses on the ``evaluation`` batches at the end; and those of :func:`against_floor`.

    Raises ``FileNotFoundError`` for a checkpoint without ``optimizer.pt``, and ``ValueError`` for one with dropout on
    or that ``transport_optimizer`` refuses. Writes below ``scratch`` only. Source: PAPER_CLAIMS, "Resume divergence".
    """
    model, state = read_checkpoint(checkpoint)
    refuse_dropout(model)
    wanted = sorted({steps, *(t for t in at if t <= steps)})
    start, reference = _weights(model), dict[int, dict[str, Tensor]]()

    def follow(folder: Path, work: Any, see: Callable[[int, Any], None]) -> tuple[dict[int, float], float]:
        watch = ReferenceWatch(steps, wanted, see)
        resume(work, rows, folder, schedule, seed, [watch], scratch / "trainer")
        return watch.losses, heldout_loss(work.eval(), evaluation)

    def go(name: str, arm: MovedCheckpoint) -> Found:
        here: Found = {}

        def compare(t: int, m: Any) -> None:
            here["divergence", t] = displacement(_weights(arm.back(m)), reference[t], start)

        write_checkpoint(checkpoint, scratch / name, arm.model, arm.state)
        arm_losses, arm_heldout = follow(scratch / name, arm.model, compare)
        shutil.rmtree(scratch / name)
        gaps = {("loss_gap", t): arm_losses[t] - losses[t] for t in wanted}
        return {**here, **gaps, ("heldout_gap", steps): arm_heldout - heldout}

    losses, heldout = follow(
        checkpoint, copy.deepcopy(model), lambda t, m: reference.update({t: _weights(m)})
    )
    found, about = dict[str, Found](), dict[str, Row]()
    for name, arm in moved_checkpoints(model, state, seed, calibration):
        about[name] = {"arm": name, "group": arm.group, "matcher": arm.matcher, "theory": THEORY[name]}
        here = found[arm.repeats] if arm.repeats else go(name, arm)
        here = here | {(metric, steps): value for metric, value in arm.accuracy.items()}
        before = found.get(name, here)  # another draw of the floor
        found[name] = {key: max(before[key], value, key=abs) for key, value in here.items()}
    found = against_floor(found, wanted)
    measured = [
        {**about[name], "step": t, "metric": metric, "value": value}
        for name, values in found.items()
        for (metric, t), value in values.items()
    ]
    return [{"arm": "reference", "step": steps, "metric": "heldout_loss", "value": heldout}, *measured]


def against_floor(found: Mapping[str, Found], wanted: Sequence[int]) -> dict[str, Found]:
    """The arms with what needs the noise floor beside them, at the ``wanted`` steps.

    ``divergence_over_floor`` is the ratio at every step where the floor is not 0. The ``horizon`` is the last step up to
    which the floor stays below ``RESOLVED``; ``divergence_at_horizon`` and ``over_floor_at_horizon`` are the values
    there, given under the last step since horizons differ between seeds (and not given where there is none).
    """
    floor = {t: found[FLOOR]["divergence", t] for t in wanted}
    below = list(itertools.takewhile(lambda t: floor[t] < RESOLVED, wanted))
    whole: dict[str, Found] = {}
    for name, values in found.items():
        divergence = {t: values["divergence", t] for t in wanted}
        ratio = {t: divergence[t] / floor[t] for t in wanted if floor[t] > 0}
        more: Found = {("divergence_over_floor", t): r for t, r in ratio.items()}
        if below:
            more["horizon", wanted[-1]] = below[-1]
            more["divergence_at_horizon", wanted[-1]] = divergence[below[-1]]
            if below[-1] in ratio:
                more["over_floor_at_horizon", wanted[-1]] = ratio[below[-1]]
        whole[name] = values | more
    return whole


def moved_checkpoints(
    model: Any, state: State, seed: int, calibration: Sequence[dict[str, Tensor]]
) -> Iterator[tuple[str, MovedCheckpoint]]:
    """The arms by name, one at a time; ``model`` and ``state`` (as Trainer numbers it) are left as they are."""
    chart, names, draw = chart_of(model), trainer_names(model), generator(seed, "resume", "plant")
    # generic: with a sign that matters, the one of S_d × {±1} included
    g = generic_element(GROUPS[chart.group], chart.width, draw)  # type: ignore[arg-type]
    assert isinstance(g, SignedPermutation), (
        f"a trained model's gains are in place, found the group {chart.group}"
    )
    signs, dropped = type(g)(torch.arange(chart.width), g.sign), g.without_signs()

    def moved(
        by: SignedPermutation, its_state: State, group: str, matcher: str = "oracle", **more: Any
    ) -> MovedCheckpoint:
        def back(m: Any) -> Any:
            return transport_model(m, by.inverse())

        return MovedCheckpoint(
            transport_model(model, by), its_state, back, group, matcher, **{"accuracy": {}, **more}
        )

    def carried(by: Any) -> State:
        return transport_optimizer(state, by, model, names=names)

    yield "sign_only", moved(signs, carried(signs), signs.group)
    yield "signed", moved(g, carried(g), g.group)
    yield "permutation_only", moved(g, carried(dropped), dropped.group)
    yield "zeroed", moved(g, zeroed(state), g.group)
    yield "no_state", moved(g, {**copy.deepcopy(state), "state": {}}, g.group)
    match = align(model, transport_model(model, g), calibration, sites=[middle_site(model, chart)])
    same = "signed" if match.gauge == g else None
    accuracy = gauge_accuracy(match.gauge, g)
    yield (
        "recovered",
        moved(g, carried(match.gauge), match.group, match.matcher, accuracy=accuracy, repeats=same),
    )
    for _ in range(FLOOR_DRAWS):
        neurons = NeuronGauge.random(model, draw, signs=False)
        its_state = neurons_moved(state, neurons, model, names)
        yield (
            FLOOR,
            MovedCheckpoint(neurons.apply(model), its_state, neurons.inverse().apply, "identity", "none", {}),
        )


def zeroed(state: State) -> State:
    """A copy of an AdamW state with its moments 0 and its steps kept."""
    fresh = copy.deepcopy(state)
    for held in fresh["state"].values():
        for key in held.keys() & {"exp_avg", "exp_avg_sq", "max_exp_avg_sq"}:
            held[key].zero_()
    return fresh


@torch.no_grad()
def neurons_moved(state: State, neurons: NeuronGauge, model: Any, names: Sequence[str]) -> State:
    """A copy of an AdamW state with MLP neurons reordered (no signs), so that its moments go with their weights."""
    moved, holder = copy.deepcopy(state), copy.deepcopy(model)
    parameters = dict(holder.named_parameters())
    for key in ("exp_avg", "exp_avg_sq"):
        for index, held in moved["state"].items():
            parameters[names[index]].copy_(held[key])
        neurons.apply(holder, inplace=True)
        for index, held in moved["state"].items():
            held[key].copy_(parameters[names[index]])
    return moved


class ReferenceWatch(TrainerCallback):
    """Shows the model to ``see`` at the ``wanted`` steps since the checkpoint, keeps losses, stops after ``steps``."""

    def __init__(self, steps: int, wanted: Sequence[int], see: Callable[[int, Any], None]):
        self.steps, self.wanted, self.see = steps, set(wanted), see
        self.losses: dict[int, float] = {}
        self._from = 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._from = state.global_step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        t = state.global_step - self._from
        control.should_log = True  # how often to log is read from the checkpoint, whatever the arguments say
        if t in self.wanted:
            self.see(t, kwargs["model"])
        if t >= self.steps:
            control.should_training_stop = True

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if "loss" in kwargs["logs"]:
            self.losses[state.global_step - self._from] = kwargs["logs"]["loss"]


def _weights(model: Any) -> dict[str, Tensor]:
    """Copies of the parameters on the CPU; a tied one once."""
    return {name: p.detach().to("cpu", copy=True) for name, p in model.named_parameters()}
