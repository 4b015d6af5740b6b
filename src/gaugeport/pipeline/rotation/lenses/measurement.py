"""What every lens gives: flat measurements of components, sites and tensors."""

from __future__ import annotations

from typing import Any

Row = dict[str, Any]
"""One measurement: ``lens``, ``component``, ``metric``, ``value``, and text columns beside."""


def row(lens: str, component: str, metric: str, value: float, **text: str) -> Row:
    """One measurement of a component (or site, or tensor, or ``model``) through a lens."""
    return {"lens": lens, "component": component, "metric": metric, "value": float(value), **text}
