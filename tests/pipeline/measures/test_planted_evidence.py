"""Planted evidence: stored, read in either direction, and planted again without running a model."""

import itertools

import pytest
import torch

from gaugeport.alignment.evidence import pair_moments, weight_evidence
from gaugeport.alignment.matchers import cross_moment, hungarian_abs
from gaugeport.alignment.routes import BASE, loop, walk
from gaugeport.groups import GlobalSignPermutation, Orthogonal, Permutation, SignedPermutation, compose
from gaugeport.pipeline.measures.planted_evidence import relabel_evidence, replanted_truth
from gaugeport.pipeline.measures.plants import further_plants, node_name
from gaugeport.transport import transport_model
from planted_checkpoints import FLOAT32, NODES, SITES, D, batches_of, gen, planted_model, write


@pytest.fixture(scope="module", params=["llama", "gpt_neox"])
def planted(request, tmp_path_factory):
    return request.param, write(tmp_path_factory.mktemp(request.param), request.param)


def test_every_checkpoint_carries_its_own_plant(planted):
    family, evidence = planted
    nodes = {n for link in NODES for n in link}
    assert set(evidence.plants) == {node_name(n) for n in nodes} and node_name(BASE) in evidence.plants
    cls = SignedPermutation if family == "llama" else GlobalSignPermutation
    assert all(type(g) is cls for g in evidence.plants.values())
    assert len(set(evidence.plants.values())) == len(nodes)
    assert cls.identity(D) not in evidence.plants.values()
    assert evidence.width == D and evidence.sites == SITES


def test_evidence_equals_that_of_the_planted_models(planted):
    family, evidence = planted
    for a, b in (
        (("A", 200), ("B", 200)),
        (("B", 100), BASE),
        (BASE, ("A", 100)),
    ):  # one of these is stored backwards
        models = {"a": planted_model(family, evidence, a), "b": planted_model(family, evidence, b)}
        moments = pair_moments(models, [("a", "b")], batches_of())["a", "b"]
        for site in SITES:
            assert torch.allclose(evidence.between(a, b, site), moments[site].correlation(), atol=FLOAT32)
            assert torch.allclose(
                evidence.between(a, b, site, cross=True), cross_moment(moments[site]), atol=FLOAT32
            )
        pooled = sum(moments[s].correlation() for s in SITES) / 3
        weights = weight_evidence(models["a"], models["b"], torch.arange(40))
        assert torch.allclose(evidence.between(a, b, "pooled"), pooled, atol=FLOAT32)
        assert torch.allclose(evidence.between(a, b, "weights"), weights, atol=FLOAT32)
        assert torch.allclose(evidence.between(a, b, "both"), pooled + weights, atol=FLOAT32)
        every = weight_evidence(models["a"], models["b"])
        assert torch.allclose(evidence.between(a, b, "weights_all_rows"), every, atol=FLOAT32)
        assert not torch.allclose(every, weights, atol=1e-2)


def test_evidence_backwards_is_the_transpose(planted):
    _, evidence = planted
    for a, b in NODES:
        for kind in ("block1", "pooled", "weights", "both"):
            for cross in (False, True):
                assert torch.equal(evidence.between(a, b, kind, cross), evidence.between(b, a, kind, cross).T)


def test_the_truth_carries_one_planted_model_to_another(planted):
    """Without drift x_A' = h_A·x and x_B' = h_B·x, so the truth of any walk from A to B maps x_A' to x_B'."""
    _, evidence = planted
    x = torch.randn(5, D, generator=gen(0), dtype=torch.float64)
    here = {n: evidence.plants[node_name(n)].act(x) for n in {n for link in NODES for n in link}}
    for nodes in (
        walk("trajectory", 200, 100),
        walk("endpoint", 100, 100),
        [("B", 200), BASE],
        loop(200, 100),
    ):
        truth = evidence.truth(nodes)
        assert torch.equal(truth.act(here[nodes[0]]), here[nodes[-1]])
        links_of = itertools.pairwise(nodes)
        composed = type(truth).identity(D)
        for link in links_of:
            composed = compose(evidence.truth(link), composed)
        assert composed == truth
    assert evidence.truth(loop(200, 100)) == type(truth).identity(D)


def test_small_drift_is_recovered_against_the_truth(planted):
    _, evidence = planted
    for a, b in (*NODES, *(link[::-1] for link in NODES)):
        found, truth = hungarian_abs(evidence.between(a, b, "both")).gauge, evidence.truth([a, b])
        assert torch.equal(found.perm, truth.perm) and torch.equal(found.sign, truth.sign)


@pytest.mark.parametrize("plant", [1, 2])
def test_relabelled_evidence_equals_that_of_models_planted_again(planted, plant):
    """Planting again on stored statistics equals planting again on the models and running them."""
    family, evidence = planted
    nodes = [("A", 200), BASE, ("B", 200)]
    group = next(iter(evidence.plants.values())).group
    new = further_plants(D, group, nodes, seed=3, plant=plant)
    for a, b in itertools.pairwise(nodes):
        models = {
            n: transport_model(planted_model(family, evidence, node), new[node])
            for n, node in (("a", a), ("b", b))
        }
        moments = pair_moments(models, [("a", "b")], batches_of())["a", "b"]
        for site in SITES:
            again = relabel_evidence(evidence.between(a, b, site), new[a], new[b])
            assert torch.allclose(again, moments[site].correlation(), atol=FLOAT32)
            crossed = relabel_evidence(evidence.between(a, b, site, cross=True), new[a], new[b])
            assert torch.allclose(crossed, cross_moment(moments[site]), atol=FLOAT32)
        weights = weight_evidence(models["a"], models["b"], torch.arange(40))
        assert torch.allclose(
            relabel_evidence(evidence.between(a, b, "weights"), new[a], new[b]), weights, atol=FLOAT32
        )
        truth = replanted_truth(evidence.truth([a, b]), new[a], new[b])
        found = hungarian_abs(weights).gauge
        assert torch.equal(found.perm, truth.perm) and torch.equal(found.sign, truth.sign)
        assert not torch.allclose(
            relabel_evidence(evidence.between(a, b, "weights"), new[b], new[a]), weights, atol=1e-2
        )


def test_cross_moments_are_relabelled_by_rotations():
    q_a, q_b = (Orthogonal.random(6, gen(k)) for k in (0, 1))
    x, y = (torch.randn(50, 6, generator=gen(k), dtype=torch.float64) for k in (2, 3))
    assert torch.allclose(relabel_evidence(y.T @ x, q_a, q_b), q_b.act(y).T @ q_a.act(x))


def test_further_plants():
    nodes = walk("trajectory", 200, 100)
    none = further_plants(D, "signed_permutation", nodes, 0, 0)
    assert set(none) == set(nodes) and set(none.values()) == {SignedPermutation.identity(D)}
    some = further_plants(D, "signed_permutation", nodes, 0, 1)
    assert len(set(some.values())) == len(nodes)
    assert (
        further_plants(D, "signed_permutation", [BASE], 0, 1)[BASE] == some[BASE]
    )  # by node, whatever the walk
    for seed, plant in ((1, 1), (0, 2)):
        assert further_plants(D, "signed_permutation", nodes, seed, plant)[BASE] != some[BASE]
    assert type(further_plants(D, "permutation", [BASE], 0, 1)[BASE]) is Permutation


def test_a_walk_that_visits_a_node_twice_plants_it_once():
    nodes = loop(200, 100)
    plants = further_plants(D, "signed_permutation", nodes, 0, 1)
    truth = replanted_truth(SignedPermutation.identity(D), plants[nodes[0]], plants[nodes[-1]])
    assert truth == SignedPermutation.identity(D)
