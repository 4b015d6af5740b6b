"""How far a moved run has left the run it was moved from, in units of the distance travelled (tables a8, c4)."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

Weights = Mapping[str, Tensor]


def displacement(moved: Weights, reference: Weights, start: Weights) -> float:
    """‖θ' − θ‖ / ‖θ − θ_resume‖ over all parameters, accumulated in float64; ``moved`` in the reference's coordinates.

    Source: PAPER_CLAIMS, "Resume divergence".
    """
    return _distance(moved, reference) / _distance(reference, start)


def _distance(a: Weights, b: Weights) -> float:
    return (
        float(sum((p.detach().double() - b[name].detach().double()).square().sum() for name, p in a.items()))
        ** 0.5
    )
