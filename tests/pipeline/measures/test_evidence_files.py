"""Evidence files: written within memory, each checkpoint run once, and moved to other plants."""

import pytest
import torch

from gaugeport.alignment.evidence import pair_moments, weight_evidence
from gaugeport.alignment.matchers import cross_moment
from gaugeport.alignment.moments import MIN_VARIANCE_SHARE
from gaugeport.alignment.routes import ROUTES, links, walk
from gaugeport.charts import fold_gains
from gaugeport.groups import Orthogonal
from gaugeport.pipeline.measures.evidence_files import group_links, replant_evidence, write_evidence
from gaugeport.pipeline.measures.planted_evidence import PlantedEvidence
from planted_checkpoints import FLOAT32, NODES, D, batches_of, checkpoints, planted_model, write


@pytest.fixture(scope="module", params=["llama", "gpt_neox"])
def planted(request, tmp_path_factory):
    return request.param, write(tmp_path_factory.mktemp(request.param), request.param)


def test_evidence_does_not_depend_on_the_memory_limit(tmp_path):
    wide, narrow = write(tmp_path / "wide", "llama", 5), write(tmp_path / "narrow", "llama", 2)
    assert wide.plants == narrow.plants
    for a, b in NODES:
        assert torch.equal(wide.between(a, b, "both"), narrow.between(a, b, "both"))
    other = write(tmp_path / "other", "llama", 5, seed=8)
    assert all(other.plants[k] != wide.plants[k] for k in wide.plants)


@pytest.mark.parametrize("limit", [2, 3, 5, 50])
def test_groups_of_links_respect_memory_and_lose_none(limit):
    many = links([walk(r, s, 100) for r in ROUTES for s in range(100, 1600, 100)])
    groups = group_links(many, limit)
    assert [link for group in groups for link in group] == many
    assert all(0 < len({n for link in group for n in link}) <= limit for group in groups)
    if limit == 50:
        assert len(groups) == 1


def test_fewer_than_two_models_in_memory_are_refused():
    for limit in (1, 0):
        with pytest.raises(ValueError, match=f"models_in_memory={limit}; allowed: 2 or more"):
            group_links(NODES, limit)


def test_error_names_the_sites_of_a_constant_coordinate(tmp_path):
    def dead(node):
        model = checkpoints("llama")(node)
        with torch.no_grad():
            model.model.embed_tokens.weight[:, 4] = 1.0
            for layer in model.model.layers:
                layer.self_attn.o_proj.weight[4] = 0
                layer.mlp.down_proj.weight[4] = 0
        return model

    with pytest.raises(ValueError, match="are constant at embed, block0, block1"):
        write_evidence(
            tmp_path,
            NODES,
            dead,
            batches_of(),
            sites="all",
            skip_first=1,
            seen=torch.arange(9),
            seed=0,
            models_in_memory=9,
        )


def test_models_run_in_the_requested_dtype(planted, tmp_path):
    family, full = planted
    half = write(tmp_path / "bf16", family, dtype=torch.bfloat16)
    a, b = NODES[0]
    found, expected = (e.between(a, b, "block1") for e in (half, full))
    assert 1e-5 < (found - expected).abs().max() < 0.1, "bfloat16 keeps 8 bits: the evidence differs a little"


def test_whitened_evidence_is_that_of_decorrelated_coordinates(planted, tmp_path):
    """Between a model and itself, whitened coordinates correlate only with themselves; raw ones do not."""
    family, full = planted
    same = checkpoints(family)(NODES[0][0])
    streams = pair_moments({"m": same}, [("m", "m")], batches_of(), ["block1"], whiten=True)
    plain = pair_moments({"m": same}, [("m", "m")], batches_of(), ["block1"])
    rank_one_less = family == "gpt_neox"  # the mean is projected out: 1/d is missing everywhere
    identity = torch.eye(D, dtype=torch.float64) - rank_one_less / D
    identity = identity / identity.diagonal().mean()
    found, before = (m["m", "m"]["block1"].correlation() for m in (streams, plain))
    rounding = 1e-7 / MIN_VARIANCE_SHARE  # float32 products, against the least variance that counts
    assert (found - identity).abs().max() < rounding < 0.3 < (before - identity).abs().max()
    a, b = NODES[0]
    whitened = write(tmp_path / "white", family, whiten=True).between(a, b, "block1")
    assert (whitened - full.between(a, b, "block1")).abs().max() > 0.01


def test_folded_checkpoints_are_planted_with_rotations(tmp_path):
    def folded(node):
        return fold_gains(checkpoints("llama")(node))

    pair = [(("A", 100), ("B", 100))]
    write_evidence(
        tmp_path,
        pair,
        folded,
        batches_of(),
        sites=["block1"],
        skip_first=1,
        seen=torch.arange(9),
        seed=0,
        models_in_memory=2,
    )
    evidence = PlantedEvidence(tmp_path)
    assert evidence.sites == ["block1"] and type(evidence.truth(pair[0])) is Orthogonal


def test_every_checkpoint_runs_once_however_often_it_is_loaded(tmp_path):
    loaded, ran = [], []

    def counted(node):
        model = checkpoints("llama")(node)
        loaded.append(node)
        model.model.layers[0].register_forward_hook(lambda *_: ran.append(node))
        return model

    options = {"sites": "all", "skip_first": 1, "seen": torch.arange(9), "seed": 0}
    write_evidence(tmp_path, NODES, counted, batches_of(3), models_in_memory=2, **options)
    nodes = {n for link in NODES for n in link}
    assert len(loaded) > len(nodes), "two models in memory: some checkpoints are loaded again"
    assert {node: ran.count(node) for node in nodes} == dict.fromkeys(nodes, 3)
    assert not list(tmp_path.glob("gaugeport-streams-*")), "kept streams are deleted"


@pytest.mark.parametrize("share", [0.3, 0.9])
def test_replanted_evidence_equals_that_of_models_with_those_plants(planted, tmp_path, share):
    family, source = planted
    replant_evidence(source.folder, tmp_path, share, seed=7)
    moved = PlantedEvidence(tmp_path, share)
    assert moved.plants.keys() == source.plants.keys() and moved.sites == source.sites
    for a, b in (NODES[0], NODES[-1], NODES[0][::-1]):
        models = {"a": planted_model(family, moved, a), "b": planted_model(family, moved, b)}
        moments = pair_moments(models, [("a", "b")], batches_of())["a", "b"]
        for cross in (False, True):
            found = moved.between(a, b, "block1", cross)
            expected = cross_moment(moments["block1"]) if cross else moments["block1"].correlation()
            assert torch.allclose(found, expected, atol=FLOAT32)
        assert torch.allclose(
            moved.between(a, b, "weights"),
            weight_evidence(models["a"], models["b"], torch.arange(40)),
            atol=FLOAT32,
        )
    signs = torch.cat([moved.truth([("A", s), ("B", s)]).sign.double().reshape(-1) for s in (100, 200)])
    if family == "llama":  # 64 independent signs: 4 standard deviations
        assert abs(float((signs > 0).double().mean()) - share) < 4 * (share * (1 - share) / 64) ** 0.5


def test_rotations_have_no_signs_to_choose(tmp_path):
    source, moved = tmp_path / "source", tmp_path / "moved"
    source.mkdir()

    def folded(node):
        return fold_gains(checkpoints("llama")(node))

    options = {"sites": ["block1"], "skip_first": 1, "seen": torch.arange(9), "seed": 0}
    write_evidence(source, NODES[:1], folded, batches_of(), models_in_memory=2, **options)
    with pytest.raises(ValueError, match=r"positive_share=0\.6 with plants of orthogonal; allowed: 0\.5"):
        replant_evidence(source, moved, 0.6, seed=0)
