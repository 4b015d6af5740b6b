"""List the checkpoints on the way from run A to run B, and compose the gauges between them.

A node is a saved checkpoint: ``("A", 1500)``, ``("B", 100)``, or ``BASE``, the base that both runs started
from. A route is a walk from A's checkpoint to B's. The gauge of a walk is the composition of the local gauges
of its links.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

from gaugeport.groups import Element, compose

Node = tuple[str, int]
"""Run (``"A"``, ``"B"`` or ``"base"``) and training step."""

BASE: Node = ("base", 0)
ROUTES = ("endpoint", "via_base", "trajectory")


def walk(route: str, step: int, spacing: int) -> list[Node]:
    """Return the nodes on the way from A's checkpoint to B's.

    Args:
        route: ``"endpoint"`` (A to B directly), ``"via_base"`` (A, base, B) or ``"trajectory"`` (back along
            A's checkpoints to the base, then forward along B's; paper A's composition of local gauges).
        step: training step of both end checkpoints.
        spacing: number of steps between the checkpoints of a trajectory.

    Returns:
        The nodes in walking order.

    Raises:
        ValueError: for an unknown route, or a spacing that is not positive.
    """
    if route not in ROUTES:
        raise ValueError(f"unknown route {route!r}; allowed: {', '.join(ROUTES)}")
    if spacing <= 0:
        raise ValueError(f"expected a positive checkpoint spacing in steps, got {spacing}")
    if route == "endpoint":
        return [("A", step), ("B", step)]
    between = list(range(spacing, step, spacing)) if route == "trajectory" else []
    steps = [*between, step]
    back_along_a = [("A", s) for s in reversed(steps)]
    forward_along_b = [("B", s) for s in steps]
    return [*back_along_a, BASE, *forward_along_b]


def links(walks: Sequence[Sequence[Node]]) -> list[tuple[Node, Node]]:
    """Return the distinct links of some walks, sorted, each in its storage order (:func:`storage_order`)."""
    return sorted({storage_order(a, b) for nodes in walks for a, b in pairwise(nodes)})


def storage_order(a: Node, b: Node) -> tuple[Node, Node]:
    """Return a link's nodes in the order of its stored evidence; the other direction is the transpose."""
    return (a, b) if a <= b else (b, a)


def compose_along(nodes: Sequence[Node], local: Callable[[Node, Node], Element]) -> Element:
    """Return the gauge of a walk.

    Args:
        nodes: the walk, at least two nodes.
        local: function of a link's two nodes that returns the g with ``g·x_a ≈ x_b``.

    Returns:
        The composition of the local gauges, from the first node to the last.

    Raises:
        ValueError: for fewer than two nodes.
    """
    if len(nodes) < 2:
        raise ValueError(f"expected at least two checkpoints in a walk, got {list(nodes)}")
    gauge: Element | None = None
    for a, b in pairwise(nodes):
        step = local(a, b)
        gauge = step if gauge is None else compose(step, gauge)
    assert gauge is not None
    return gauge


def loop(step: int, spacing: int) -> list[Node]:
    """Return the closed walk base, ..., A, B, ..., base, which crosses from A to B by the direct link.

    Its gauge is the identity wherever recovery is consistent, a check that needs no ground truth.

    Args:
        step: training step of the checkpoints between which it crosses.
        spacing: number of steps between checkpoints.

    Returns:
        The nodes in walking order; the base is first and last.
    """
    nodes = walk("trajectory", step, spacing)
    middle = nodes.index(BASE)
    base_to_a, base_to_b = nodes[middle::-1], nodes[middle:]
    return [*base_to_a, *reversed(base_to_b)]
