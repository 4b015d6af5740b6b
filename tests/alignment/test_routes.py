"""Walks between checkpoints, their links, and the order in which local gauges compose."""

import itertools

import pytest
import torch

from gaugeport.alignment.routes import BASE, ROUTES, compose_along, links, loop, storage_order, walk
from gaugeport.groups import (
    AffineGauge,
    MeanPreservingOrthogonal,
    Orthogonal,
    Permutation,
    SignedPermutation,
    compose,
)


def test_walks_visit_the_expected_nodes():
    assert walk("endpoint", 300, 100) == [("A", 300), ("B", 300)]
    assert walk("via_base", 300, 100) == [("A", 300), BASE, ("B", 300)]
    assert walk("trajectory", 300, 100) == [
        ("A", 300), ("A", 200), ("A", 100), BASE, ("B", 100), ("B", 200), ("B", 300),
    ]  # fmt: skip


def test_spacing_need_not_divide_the_last_step():
    assert walk("trajectory", 250, 100) == [
        ("A", 250),
        ("A", 200),
        ("A", 100),
        BASE,
        ("B", 100),
        ("B", 200),
        ("B", 250),
    ]
    for step, spacing in ((100, 100), (70, 100)):
        assert (
            walk("trajectory", step, spacing)
            == walk("via_base", step, spacing)
            == [("A", step), BASE, ("B", step)]
        )


def test_links_are_distinct_and_in_storage_order():
    walks = [walk(r, s, 100) for r in ROUTES for s in (100, 200, 250)]
    distinct = links(walks)
    assert distinct == sorted(set(distinct)) and all(a < b for a, b in distinct)
    crossed = {frozenset(p) for w in walks for p in itertools.pairwise(w)}
    assert {frozenset(link) for link in distinct} == crossed and len(distinct) == len(crossed)
    assert links([w[::-1] for w in walks]) == distinct
    for a, b in distinct:
        assert storage_order(a, b) == storage_order(b, a) == (a, b)


@pytest.mark.parametrize(
    "cls", [Permutation, SignedPermutation, Orthogonal, MeanPreservingOrthogonal, AffineGauge]
)
@pytest.mark.parametrize("route", ROUTES)
def test_gauge_of_a_walk_composes_its_links(cls, route):
    """The composition moves x as all links do one after the other, also if the elements do not commute."""
    nodes = walk(route, 350, 100)
    generator = torch.Generator().manual_seed(0)
    local = {pair: cls.random(7, generator) for pair in itertools.pairwise(nodes)}
    x = torch.randn(4, 7, generator=generator, dtype=torch.float64)
    moved = x
    for pair in itertools.pairwise(nodes):
        moved = local[pair].act(moved)
    whole = compose_along(nodes, lambda a, b: local[a, b])
    assert torch.allclose(whole.act(x), moved, rtol=0, atol=1e-11)
    if len(nodes) > 2:
        backwards = compose_along(nodes[::-1], lambda a, b: local[b, a])
        assert not torch.allclose(backwards.act(x), moved, atol=1e-3)


def test_gauge_of_a_loop_is_the_identity_if_links_are_consistent():
    nodes = loop(250, 100)
    assert nodes == [
        BASE, ("A", 100), ("A", 200), ("A", 250), ("B", 250), ("B", 200), ("B", 100), BASE,
    ]  # fmt: skip
    assert set(links([nodes])) <= set(links([walk("trajectory", 250, 100), walk("endpoint", 250, 100)]))
    plants = {
        n: SignedPermutation.random(9, torch.Generator().manual_seed(i)) for i, n in enumerate(set(nodes))
    }
    consistent = compose_along(nodes, lambda a, b: compose(plants[b], plants[a].inverse()))
    assert consistent == SignedPermutation.identity(9)
    swap = SignedPermutation(torch.tensor([1, 0, *range(2, 9)]), torch.ones(9))

    def one_wrong(a, b):
        right = compose(plants[b], plants[a].inverse())
        return compose(swap, right) if (a, b) == (("A", 250), ("B", 250)) else right

    assert compose_along(nodes, one_wrong) != SignedPermutation.identity(9)


def test_bad_arguments_are_rejected():
    with pytest.raises(ValueError, match="unknown route 'direct'; allowed: endpoint, via_base, trajectory"):
        walk("direct", 100, 10)
    for spacing in (0, -5):
        with pytest.raises(ValueError, match=f"positive checkpoint spacing in steps, got {spacing}"):
            walk("trajectory", 100, spacing)
    for nodes in ([], [BASE]):
        with pytest.raises(ValueError, match="at least two checkpoints in a walk"):
            compose_along(nodes, lambda a, b: Permutation.identity(2))
