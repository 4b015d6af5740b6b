"""Measure how far a moved run is from the run it was moved from, per distance travelled (tables a8, c4)."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

Weights = Mapping[str, Tensor]


def displacement(moved: Weights, reference: Weights, start: Weights) -> float:
    """Return paper A's resume divergence ‖θ' − θ‖ / ‖θ − θ_resume‖ over all parameters, computed in float64.

    Args:
        moved: parameters θ' of the moved run, carried back to the coordinates of the reference.
        reference: parameters θ of the reference run at the same step.
        start: parameters θ_resume that both runs started from.
    """
    return _distance(moved, reference) / _distance(reference, start)


def _distance(a: Weights, b: Weights) -> float:
    squares = ((p.detach().double() - b[name].detach().double()).square().sum() for name, p in a.items())
    return float(sum(squares)) ** 0.5
