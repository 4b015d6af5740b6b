"""Draw the gauges that are planted on checkpoints, with a given share p of positive signs from A to B.

What decides raw matching is the true gauge between runs A and B, ``q_B ∘ q_A⁻¹``: p is the share of its signs
that are positive, in expectation. Every checkpoint has a plant of its own, so a sign of that gauge is the
product of two independent planted ones, of means m_A and m_B, and positive with probability
(1 + m_A · m_B) / 2. This is p for m_A = √|2p − 1|, and m_B the same with the sign of 2p − 1. The base is
planted like run A, a copy of A like run B. For p ≥ ½ the gauge between any two checkpoints has that share;
below ½, two checkpoints of one run have 1 − p. p = ½ draws uniformly from the group.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from gaugeport.alignment.routes import Node
from gaugeport.groups import GROUPS, Element, GlobalSignPermutation, SignedPermutation, compose
from gaugeport.utils.seeds import generator

UNIFORM = 0.5
"""The share p of positive signs of an element that is drawn uniformly."""

COPY = "copy"
"""The name of the run of A's copy in a walk: ``[("A", 1500), ("copy", 1500)]``."""


def node_name(node: Node) -> str:
    """Return the file name of a checkpoint, such as ``base0`` or ``A1500``."""
    return f"{node[0]}{node[1]}"


def node_of(name: str) -> Node:
    """Return the checkpoint that :func:`node_name` named."""
    run = name.rstrip("0123456789")
    return run, int(name[len(run) :])


def draw_plant(group: str, width: int, node: Node, positive_share: float, draw: torch.Generator) -> Element:
    """Draw the element to plant on a checkpoint.

    Args:
        group: the name of the group to draw from.
        width: the width d of the residual stream.
        node: the checkpoint; its run decides the mean of its signs.
        positive_share: expected share p of positive signs of the true gauge from A to B. Of S_d × {±1}, which
            has one sign for all coordinates, the probability that it is positive.
        draw: random generator.

    Raises:
        ValueError: p is not ½ and the group has no signs to choose.
    """
    cls = GROUPS[group]
    if positive_share == UNIFORM:
        return cls.random(width, draw)
    if cls not in (SignedPermutation, GlobalSignPermutation):
        raise ValueError(
            f"measurement.positive_share={positive_share} with plants of {group}; allowed: {UNIFORM}, or a "
            "model whose group is signed_permutation or global_sign_permutation"
        )
    mean = abs(2 * positive_share - 1) ** 0.5
    if positive_share < UNIFORM and node[0] in ("B", COPY):
        mean = -mean
    perm = torch.randperm(width, generator=draw)
    uniform = torch.rand(1 if cls is GlobalSignPermutation else width, generator=draw)
    sign = torch.where(uniform < (1 + mean) / 2, 1, -1).to(torch.int8)
    return cls(perm, sign.expand(width))  # type: ignore[call-arg]


def further_plants(
    width: int,
    group: str,
    walk: Sequence[Node],
    seed: int,
    plant: int,
    positive_share: float = UNIFORM,
    planted: Mapping[str, Element] | None = None,
) -> dict[Node, Element]:
    """Draw elements to plant on top of the stored plants.

    Args:
        width: the width d of the residual stream.
        group: the name of the group to draw from.
        walk: the checkpoints; one that occurs twice gets one element.
        seed: seed of the draw.
        plant: number of the draw; 0 gives the identity for every checkpoint.
        positive_share: expected share p of positive signs from A to B of both plants together.
        planted: name of a checkpoint -> the stored plant, required where p is not ½: uniform elements on top
            of any plants are uniform together, others are not.

    Returns:
        checkpoint -> element. It depends on the checkpoint, its stored plant, the seed and the number alone,
        not on the walk.
    """
    if plant == 0:
        return {node: GROUPS[group].identity(width) for node in walk}
    drawn = {
        node: draw_plant(group, width, node, positive_share, generator(seed, "replant", plant, *node))
        for node in walk
    }
    if positive_share == UNIFORM:
        return drawn
    assert planted is not None
    return {node: compose(new, planted[node_name(node)].inverse()) for node, new in drawn.items()}
