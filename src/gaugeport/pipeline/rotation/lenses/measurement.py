"""Declare what every lens returns: flat measurements of components, sites and tensors."""

from __future__ import annotations

from typing import Any

Row = dict[str, Any]
"""One measurement: ``lens``, ``component``, ``metric``, ``value``, and further columns of text."""

NONE = "none"
"""Text of a column where there is nothing to name."""


def row(lens: str, component: str, metric: str, value: float, **text: str) -> Row:
    """Make one measurement.

    Args:
        lens: Name of the lens.
        component: A component, a site, a tensor, or ``model``.
        metric: What was measured.
        value: The number.
        **text: Further columns.

    Returns:
        The row.
    """
    return {"lens": lens, "component": component, "metric": metric, "value": float(value), **text}


def check_threshold(threshold: float) -> None:
    """Raise ``ValueError`` unless a threshold is a positive, finite number of nats."""
    if not 0 < threshold < float("inf"):
        raise ValueError(f"threshold={threshold} nats; allowed: positive numbers")
