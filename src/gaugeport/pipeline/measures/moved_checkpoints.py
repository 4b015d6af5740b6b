"""Move a checkpoint by a gauge, and treat its AdamW state in the ways that table a8 compares."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gaugeport.alignment.align import align
from gaugeport.charts import chart_of
from gaugeport.groups import GROUPS, SignedPermutation
from gaugeport.pipeline.measures.conditions import gauge_accuracy
from gaugeport.pipeline.measures.gauge_groups import generic_element
from gaugeport.pipeline.measures.noise_floor import FLOOR
from gaugeport.streams.activations import middle_site
from gaugeport.transport.model import transport_model
from gaugeport.transport.neurons import NeuronGauge
from gaugeport.transport.optimizer import transport_optimizer
from gaugeport.transport.optimizer_checkpoint import trainer_names
from gaugeport.utils.seeds import generator

State = dict[str, Any]
"""The state dictionary of an AdamW optimizer, parameters numbered as Trainer numbers them."""

FLOOR_DRAWS = 3
"""Number of reorderings for the noise floor; the largest divergence counts."""

THEORY = {
    "sign_only": "exactly 0",
    "signed": "at the floor",
    "recovered": "at the floor",
    FLOOR: "the floor",
    "permutation_only": "leaves",
    "zeroed": "leaves",
    "no_state": "leaves",
}
"""Condition -> what the algebra of AdamW predicts: how the resumed run relates to the reference run.

In all but two conditions the weights are moved by one planted gauge g of the chart's group. They differ in
the state:
``signed``: moved by g.
``recovered``: moved by the gauge that matching recovers between the two checkpoints.
``permutation_only``: moved by g without its signs.
``zeroed``: moments of 0, at the step reached.
``no_state``: no state. (The schedule of the learning rate continues in every condition.)
In the other two, weights and state are moved alike:
``sign_only``: by the signs of g alone.
``neuron_permuted``: by a reordering of the MLP neurons. It is the noise floor: only the order of sums
    differs.
"""


@dataclass(frozen=True)
class MovedCheckpoint:
    """A moved checkpoint of one condition."""

    model: Any
    """The moved model."""
    state: State
    """Its optimizer state."""
    back: Callable[[Any], Any]
    """Returns a copy of a model carried back to the coordinates of the reference."""
    group: str
    """The group of the move."""
    matcher: str
    """Where the gauge of the state comes from."""
    accuracy: Mapping[str, float]
    """Accuracy of a recovered gauge."""
    repeats: str | None = None
    """An earlier condition that is equal bit by bit, so that this one need not run."""


def moved_checkpoints(
    model: Any, state: State, seed: int, calibration: Sequence[dict[str, Tensor]]
) -> Iterator[tuple[str, MovedCheckpoint]]:
    """Move a checkpoint under every condition of :data:`THEORY`.

    Args:
        model: the model of the checkpoint; it is left unchanged.
        state: its optimizer state; it is left unchanged.
        seed: seed of the planted gauge and the reorderings.
        calibration: batches to match on, at the mid-stack block, for ``recovered``.

    Yields:
        ``(condition, moved checkpoint)``, one at a time; ``neuron_permuted`` ``FLOOR_DRAWS`` times.
    """
    # 1) plant a gauge; it is generic, so it has signs that matter (also on a chart of S_d × {±1})
    chart, names, draw = chart_of(model), trainer_names(model), generator(seed, "resume", "plant")
    g = generic_element(GROUPS[chart.group], chart.width, draw)  # type: ignore[arg-type]
    assert isinstance(g, SignedPermutation), f"expected a chart with its gains in place, got {chart.group}"
    signs, permutation = type(g)(torch.arange(chart.width), g.sign), g.without_signs()

    def moved(
        by: SignedPermutation, its_state: State, group: str, matcher: str = "oracle", **more: Any
    ) -> MovedCheckpoint:
        def back(m: Any) -> Any:
            return transport_model(m, by.inverse())

        details = {"accuracy": {}, **more}
        return MovedCheckpoint(transport_model(model, by), its_state, back, group, matcher, **details)

    def state_moved_by(gauge: Any) -> State:
        return transport_optimizer(state, gauge, model, names=names)

    # 2) move by the planted gauge, and treat the state in several ways
    yield "sign_only", moved(signs, state_moved_by(signs), signs.group)
    yield "signed", moved(g, state_moved_by(g), g.group)
    yield "permutation_only", moved(g, state_moved_by(permutation), permutation.group)
    yield "zeroed", moved(g, with_zero_moments(state), g.group)
    yield "no_state", moved(g, {**copy.deepcopy(state), "state": {}}, g.group)
    # 3) recover the gauge by matching
    match = align(model, transport_model(model, g), calibration, sites=[middle_site(model, chart)])
    repeats = "signed" if match.gauge == g else None
    accuracy = gauge_accuracy(match.gauge, g)
    its_state = state_moved_by(match.gauge)
    yield "recovered", moved(g, its_state, match.group, match.matcher, accuracy=accuracy, repeats=repeats)
    # 4) reorder neurons, for the noise floor
    for _ in range(FLOOR_DRAWS):
        neurons = NeuronGauge.random(model, draw, signs=False)
        its_state = with_moved_neurons(state, neurons, model, names)
        back = neurons.inverse().apply
        yield FLOOR, MovedCheckpoint(neurons.apply(model), its_state, back, "identity", "none", {})


def with_zero_moments(state: State) -> State:
    """Return a copy of an AdamW state with moments of 0; its steps are kept."""
    zeroed = copy.deepcopy(state)
    for of_parameter in zeroed["state"].values():
        for key in of_parameter.keys() & {"exp_avg", "exp_avg_sq", "max_exp_avg_sq"}:
            of_parameter[key].zero_()
    return zeroed


@torch.no_grad()
def with_moved_neurons(state: State, neurons: NeuronGauge, model: Any, names: Sequence[str]) -> State:
    """Return a copy of an AdamW state with the moments of MLP neurons reordered like their weights.

    Args:
        state: the state.
        neurons: the reordering, without signs.
        model: the model of the state; it is left unchanged.
        names: names of the parameters, in the order of the state.
    """
    moved, holder = copy.deepcopy(state), copy.deepcopy(model)
    parameters = dict(holder.named_parameters())
    for key in ("exp_avg", "exp_avg_sq"):
        # put the moments in the place of the weights, move them as weights, and take them out
        for index, of_parameter in moved["state"].items():
            parameters[names[index]].copy_(of_parameter[key])
        neurons.apply(holder, inplace=True)
        for index, of_parameter in moved["state"].items():
            of_parameter[key].copy_(parameters[names[index]])
    return moved
