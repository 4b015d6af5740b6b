"""Routes: which local gauges, composed in which order, lead from the coordinates of A to those of B.

Nodes are saved checkpoints, ``("A", 1500)``, ``("B", 100)``, and the common base ``BASE``. A route is a walk from
A's checkpoint to B's; the gauge of a walk is the composition of the local gauges of its links.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

from gaugeport.groups import Element, compose

Node = tuple[str, int]
BASE: Node = ("base", 0)
ROUTES = ("endpoint", "via_base", "trajectory")


def walk(route: str, step: int, spacing: int) -> list[Node]:
    """The nodes from A's checkpoint at ``step`` to B's.

    ``endpoint`` A→B directly; ``via_base`` A→base→B; ``trajectory`` back along A's checkpoints every ``spacing``
    steps to the base and out along B's (paper A's composition of local gauges). Raises ``ValueError`` on an unknown
    route or a spacing that is not positive.
    """
    if route not in ROUTES:
        raise ValueError(f"unknown route {route!r}; allowed: {', '.join(ROUTES)}")
    if spacing <= 0:
        raise ValueError(f"checkpoint spacing must be a positive number of steps, found {spacing}")
    if route == "endpoint":
        return [("A", step), ("B", step)]
    between = list(range(spacing, step, spacing)) if route == "trajectory" else []
    steps = [*between, step]
    return [*(("A", s) for s in reversed(steps)), BASE, *(("B", s) for s in steps)]


def links(walks: Sequence[Sequence[Node]]) -> list[tuple[Node, Node]]:
    """The distinct links of some walks, each in the direction in which its evidence is stored (:func:`stored`)."""
    return sorted({stored(a, b) for nodes in walks for a, b in pairwise(nodes)})


def stored(a: Node, b: Node) -> tuple[Node, Node]:
    """A link's two nodes in the one order its evidence is kept in; the other direction is the transpose."""
    return (a, b) if a <= b else (b, a)


def compose_along(nodes: Sequence[Node], local: Callable[[Node, Node], Element]) -> Element:
    """The gauge of a walk: ``local(a, b)`` must give the g with ``g·x_a ≈ x_b``. Raises on a walk of one node."""
    if len(nodes) < 2:
        raise ValueError(f"a walk needs at least two checkpoints, found {list(nodes)}")
    gauge: Element | None = None
    for a, b in pairwise(nodes):
        step = local(a, b)
        gauge = step if gauge is None else compose(step, gauge)
    assert gauge is not None
    return gauge


def loop(step: int, spacing: int) -> list[Node]:
    """The closed walk base→…→A→B→…→base, crossing from A to B by the direct link.

    The gauge of a closed walk is the identity wherever recovery is consistent: a check that needs no ground truth.
    """
    back_and_out = walk("trajectory", step, spacing)
    middle = back_and_out.index(BASE)
    to_a, to_b = back_and_out[middle::-1], back_and_out[middle:]
    return [*to_a, *reversed(to_b)]
