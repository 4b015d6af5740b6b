"""Planted gauges: the share of positive signs from A to B is the one asked for, and ½ changes nothing."""

import itertools

import pytest
import torch

from gaugeport.alignment.routes import BASE
from gaugeport.groups import GROUPS, GlobalSignPermutation, Orthogonal, SignedPermutation, compose
from gaugeport.pipeline.measures.conditions import Condition, gauge_accuracy
from gaugeport.pipeline.measures.plants import COPY, draw_plant, further_plants, node_name
from gaugeport.utils.seeds import generator

D = 4096
NODES = [("A", 9), ("A", 5), BASE, ("B", 5), ("B", 9)]
STANDARD_ERRORS = 5


def plants(p, group="signed_permutation", width=D, seed=0):
    return {n: draw_plant(group, width, n, p, generator(seed, "plant", *n)) for n in [*NODES, (COPY, 9)]}


def share(of_a, of_b):
    """The share of positive signs of the gauge from a to b."""
    return float((compose(of_b, of_a.inverse()).sign > 0).double().mean())


def near(value, p, n=D):
    return abs(value - p) <= STANDARD_ERRORS * (p * (1 - p) / n) ** 0.5


@pytest.mark.parametrize("group", ["signed_permutation", "global_sign_permutation", "orthogonal"])
def test_half_draws_what_was_always_drawn(group):
    for node, plant in plants(0.5, group, width=64).items():
        assert plant == GROUPS[group].random(64, generator(0, "plant", *node))
    for node, plant in further_plants(64, group, NODES, 3, 2).items():
        assert plant == GROUPS[group].random(64, generator(3, "replant", 2, *node))


@pytest.mark.parametrize("p", [0.0, 0.2, 0.5, 0.6, 1.0])
def test_share_of_the_gauge_from_a_to_b(p):
    drawn = plants(p)
    for a, b in itertools.product([("A", 9), ("A", 5), BASE], [("B", 5), ("B", 9), (COPY, 9)]):
        assert near(share(drawn[a], drawn[b]), p), (a, b)
        assert near(share(drawn[b], drawn[a]), p), "of its inverse too"
    within = p if p >= 0.5 else 1 - p
    for one, other in ((("A", 9), ("A", 5)), (("A", 9), BASE), (("B", 5), ("B", 9))):
        assert near(share(drawn[one], drawn[other]), within)


def test_plants_hide_the_places_of_coordinates():
    for plant in plants(0.6).values():
        assert float((plant.perm == torch.arange(D)).double().mean()) < 0.01


@pytest.mark.parametrize("p", [0.2, 0.6])
def test_further_plants_keep_the_share(p):
    stored = {node_name(n): plant for n, plant in plants(p).items()}
    for k in (1, 2):
        further = further_plants(D, "signed_permutation", NODES, 7, k, p, stored)
        a, b = (compose(further[n], stored[node_name(n)]) for n in (NODES[0], NODES[-1]))
        assert near(share(a, b), p)
        assert near(share(stored["A9"], a), 0.5 + (2 * max(p, 1 - p) - 1) / 2), "a draw of its own"


def test_one_sign_for_all_is_positive_with_that_probability():
    drawn = [plants(0.7, "global_sign_permutation", 8, seed) for seed in range(300)]
    positive = [share(d["A", 9], d["B", 9]) for d in drawn]
    assert type(drawn[0]["A", 9]) is GlobalSignPermutation and set(positive) == {0.0, 1.0}
    assert near(sum(positive) / 300, 0.7, 300)


def test_rotations_have_no_signs_to_choose():
    with pytest.raises(ValueError, match=r"positive_share=0\.6 with plants of orthogonal; allowed: 0\.5"):
        draw_plant("orthogonal", 8, BASE, 0.6, generator(0))
    assert type(draw_plant("orthogonal", 8, BASE, 0.5, generator(0))) is Orthogonal


class Exact:
    """Evidence between checkpoints that compute the same: white noise, in planted coordinates."""

    width = 256

    def __init__(self, p):
        self.positive_share = p
        self.plants = {node_name(n): q for n, q in plants(p, width=self.width).items()}

    def truth(self, nodes):
        return compose(self.plants[node_name(nodes[-1])], self.plants[node_name(nodes[0])].inverse())

    def between(self, a, b, kind, cross=False):
        return self.truth([a, b]).act(torch.eye(self.width, dtype=torch.float64), axis=0)


@pytest.mark.parametrize("p", [0.1, 0.6, 0.9])
def test_raw_matching_is_capped_at_p_and_dropped_signs_keep_2p_minus_1(p):
    evidence, nodes = Exact(p), [("A", 9), ("B", 9)]
    x = torch.ones(evidence.width)
    found = {}
    for group, matcher in (("permutation", "hungarian_raw"), ("permutation", "hungarian_abs")):
        condition = Condition(evidence, group, matcher, "block0", seed=0)
        scores = [gauge_accuracy(*condition.gauge_and_truth(nodes, k)) for k in range(8)]
        kept = [float(x @ condition.residual(nodes, k).act(x)) / evidence.width for k in range(8)]
        found[matcher] = sum(s["signed_accuracy"] for s in scores) / 8, sum(kept) / 8
    n = 8 * evidence.width
    # a wrong partner can also be hit by chance: one of those left
    assert found["hungarian_raw"][0] <= p + STANDARD_ERRORS * (p * (1 - p) / n) ** 0.5 + 8 / n
    assert near(found["hungarian_abs"][0], p, n)
    assert abs(found["hungarian_abs"][1] - (2 * p - 1)) <= 2 * STANDARD_ERRORS * (p * (1 - p) / n) ** 0.5
    exact = Condition(evidence, "signed_permutation", "hungarian_abs", "block0", seed=0)
    assert all(exact.residual(nodes, k) == SignedPermutation.identity(evidence.width) for k in range(2))
