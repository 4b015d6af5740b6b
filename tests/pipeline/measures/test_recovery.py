"""Recovery scored against planted gauges: the metrics, the controls, and where a plant can matter."""

import math
from itertools import pairwise

import pytest
import torch

from gaugeport.alignment.routes import ROUTES, links, walk
from gaugeport.charts import fold_gains
from gaugeport.groups import (
    GlobalSignPermutation,
    MeanPreservingOrthogonal,
    Orthogonal,
    Permutation,
    SignedPermutation,
    compose,
)
from gaugeport.pipeline.measures.conditions import Condition, gauge_accuracy
from gaugeport.pipeline.measures.evidence_files import write_evidence
from gaugeport.pipeline.measures.gauge_groups import tiny_model
from gaugeport.pipeline.measures.planted_evidence import PlantedEvidence
from gaugeport.pipeline.measures.recovery import recovery_rows

D = 32
STEPS, SPACING = [100, 200], 100
GROUPED = ("signed_permutation", "hungarian_abs")


def gen(seed):
    return torch.Generator().manual_seed(seed)


def evidence_of(folder, family, size=1.0, folded=False):
    """Plant two runs from one base that drift by ``size`` standard deviations per 1000 steps."""

    def checkpoint(node):
        model = tiny_model(family, gen(0))
        model = fold_gains(model) if folded else model
        with torch.no_grad():
            for p in model.parameters():
                if folded and bool((p == 1).all()):
                    continue
                p.add_(
                    torch.randn(p.shape, generator=gen(1 + (node[0] == "B")))
                    * p.std()
                    * size
                    * node[1]
                    / 1000
                )
        return model

    folder.mkdir(exist_ok=True)
    batches = [{"input_ids": torch.randint(0, 64, (8, 12), generator=gen(s))} for s in range(4)]
    write_evidence(
        folder,
        links([walk(r, s, SPACING) for r in ROUTES for s in STEPS]),
        checkpoint,
        batches,
        sites="all",
        skip_first=1,
        seen=torch.arange(64),
        seed=0,
        models_in_memory=8,
    )
    return PlantedEvidence(folder)


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return evidence_of(tmp_path_factory.mktemp("llama"), "llama")


@pytest.fixture(scope="module")
def neox(tmp_path_factory):
    return evidence_of(tmp_path_factory.mktemp("neox"), "gpt_neox")


def rows_of(planted, group, matcher, route="endpoint", plants=4, seed=0, **where):
    rows = recovery_rows(
        planted,
        group=group,
        matcher=matcher,
        route=route,
        steps=STEPS,
        spacing=SPACING,
        plants=plants,
        seed=seed,
    )
    return [r for r in rows if all(r[k] == v for k, v in where.items())]


def values(rows, metric):
    return [r["value"] for r in rows if r["metric"] == metric]


# score


def test_metrics_by_hand():
    truth = SignedPermutation(torch.tensor([0, 1, 2, 3, 4]), torch.tensor([1, 1, -1, -1, 1]))
    found = SignedPermutation(torch.tensor([0, 1, 2, 4, 3]), torch.tensor([1, -1, -1, -1, 1]))
    assert gauge_accuracy(found, truth) == pytest.approx(
        {"index_accuracy": 3 / 5, "signed_accuracy": 2 / 5, "sign_accuracy": 2 / 3}
    )
    assert gauge_accuracy(truth, truth) == {"index_accuracy": 1, "signed_accuracy": 1, "sign_accuracy": 1}
    assert gauge_accuracy(found.without_signs(), truth)["index_accuracy"] == pytest.approx(3 / 5)
    away = SignedPermutation(torch.tensor([1, 2, 3, 4, 0]), torch.ones(5))
    assert gauge_accuracy(away, truth) == {
        "index_accuracy": 0,
        "signed_accuracy": 0,
    }  # no right index, no sign accuracy


def test_the_identity_scores_by_chance():
    """E[fixed points of a random permutation] = 1, its variance 1: a mean over n plants is within 5/√n."""
    truths = [SignedPermutation.random(D, gen(s)) for s in range(100)]
    scores = [gauge_accuracy(SignedPermutation.identity(D), t) for t in truths]
    assert abs(sum(s["index_accuracy"] * D for s in scores) / 100 - 1) < 0.5
    assert abs(sum(s["signed_accuracy"] * D for s in scores) / 100 - 0.5) < 5 * math.sqrt(0.5 / 100)


def test_rotations_are_scored_by_their_distance():
    """‖Q − Q*‖ is 0 for the truth, and √(2d) in the mean for an independent Haar rotation (E tr = 0)."""
    q, other = (Orthogonal.random(200, gen(s)) for s in (0, 1))
    assert gauge_accuracy(q, q) == {"rotation_error": 0}
    assert gauge_accuracy(other, q)["rotation_error"] == pytest.approx(
        1, abs=5 / 400
    )  # E[(tr)²] = 1: sd of the error is 1/2d
    assert gauge_accuracy(Orthogonal(-q.matrix), q)["rotation_error"] == pytest.approx(2 / 2**0.5)
    g = SignedPermutation.random(D, gen(2))
    assert set(gauge_accuracy(g, Orthogonal.random(D, gen(3)))) == {"rotation_error"}
    read = gauge_accuracy(Orthogonal(g.dense()), g)
    assert read == {"rotation_error": 0, "index_accuracy": 1, "signed_accuracy": 1, "sign_accuracy": 1}
    mirrored = SignedPermutation(g.perm, -g.sign)
    assert gauge_accuracy(Orthogonal(mirrored.dense()), g)["sign_accuracy"] == 0
    m = MeanPreservingOrthogonal.random(8, gen(4))
    assert gauge_accuracy(m, m) == {"rotation_error": 0}


def test_a_global_sign_is_a_sign():
    truth = GlobalSignPermutation(torch.randperm(D, generator=gen(0)), torch.tensor(-1))
    assert gauge_accuracy(Permutation(truth.perm), truth) == {
        "index_accuracy": 1,
        "signed_accuracy": 0,
        "sign_accuracy": 0,
    }


# recovery


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("group", ["permutation", "signed_permutation", "identity", "orthogonal"])
def test_oracle_scores_one_and_no_gauge_scores_chance(llama, route, group):
    rows = rows_of(llama, group, "oracle", route)
    for metric in ("index_accuracy", "signed_accuracy", "sign_accuracy"):
        assert values(rows, metric) == [1.0] * len(STEPS)
    for row in rows_of(llama, group, "none", route, metric="index_accuracy"):
        assert row["value"] < 5 / D  # P(a random permutation has 5 fixed points or more) < 0.4 %
    assert {(r["evidence"], r["site"]) for r in rows} == {("", "")}


@pytest.mark.parametrize("route", ROUTES)
def test_a_small_drift_is_recovered_by_every_route(llama, neox, route):
    for evidence, group, matchers in (
        (llama, "signed_permutation", ("hungarian_abs", "weights")),
        (neox, "global_sign_permutation", ("hungarian_raw", "weights")),
    ):
        for matcher in matchers:
            rows = rows_of(evidence, group, matcher, route)
            kinds = (
                ["weights", "weights_all_rows"] if matcher == "weights" else ["site"] * 3 + ["pooled", "both"]
            )
            signed = [r for r in rows if r["metric"] == "signed_accuracy"]
            assert [r["evidence"] for r in signed] == [k for k in kinds for _ in STEPS]
            assert [r["step"] for r in signed] == STEPS * len(kinds)
            assert all(r["value"] == 1 for r in signed)
            loops = values(rows, "loop_consistency")
            assert loops == ([1.0] * len(kinds) if route == "trajectory" else [])


def test_one_plant_suffices_where_matching_is_equivariant(llama):
    once = rows_of(llama, *GROUPED, plants=1)
    assert rows_of(llama, *GROUPED, plants=8) == once
    assert rows_of(llama, *GROUPED, plants=8, seed=5) == once
    assert not any(r["metric"].endswith("_plants_sd") for r in once)


def test_raw_matching_depends_on_the_signs_of_the_plant(llama):
    """Over B_d plants raw matching averages the share of positive signs, ½ (sd of a plant's share ½/√d)."""
    for group, matcher in (("permutation", "hungarian_raw"), ("signed_permutation", "hungarian_raw")):
        rows = rows_of(llama, group, matcher, plants=12, evidence="both", step=100)
        assert values(rows, "index_accuracy_plants_sd")[0] > 0
        # correlated coordinates may do a little better or worse than decorrelated ones
        assert abs(values(rows, "index_accuracy")[0] - 0.5) < 0.25
    dropped = rows_of(llama, "permutation", "hungarian_abs", plants=12, evidence="both", step=100)
    assert values(dropped, "index_accuracy") == [1.0] and values(dropped, "index_accuracy_plants_sd") == [0.0]
    assert abs(values(dropped, "sign_accuracy")[0] - 0.5) < 5 * 0.5 / math.sqrt(12 * D)


def test_one_global_sign_cannot_recover_a_signed_plant(llama, neox):
    """S_d × {±1} on a B_d chart depends on the plant's signs; on its own chart it does not."""
    rows = rows_of(llama, "global_sign_permutation", "hungarian_raw", plants=6, evidence="both", step=100)
    assert values(rows, "signed_accuracy_plants_sd")[0] > 0 and values(rows, "signed_accuracy")[0] < 0.9
    rows = rows_of(neox, "global_sign_permutation", "hungarian_raw", plants=6, evidence="both", step=100)
    assert values(rows, "signed_accuracy") == [1.0] and not values(rows, "signed_accuracy_plants_sd")


def test_accuracy_of_sign_free_matching_does_not_depend_on_the_plant(tmp_path):
    """With drift strong enough for errors, other plants give exactly the same share of errors."""

    evidence = evidence_of(tmp_path / "far", "llama", size=8.0)
    for kind in ("block1", "pooled", "weights"):
        solver = Condition(evidence, *GROUPED, kind, seed=0)
        for route in ROUTES:
            nodes = walk(route, 200, SPACING)
            scores = [gauge_accuracy(*solver.gauge_and_truth(nodes, plant)) for plant in range(4)]
            assert all(s == scores[0] for s in scores)
            found = [solver.gauge_and_truth(nodes, plant)[0] for plant in range(2)]
            assert found[0] != found[1]
    assert (
        scores[0]["index_accuracy"] < 1
        or values(rows_of(evidence, *GROUPED, evidence="site"), "index_accuracy")[-1] < 1
    )


@pytest.mark.parametrize("family", ["llama", "gpt_neox"])
def test_folded_checkpoints_are_scored_as_rotations(tmp_path, family):
    """Planted rotations have no share of coordinates, and no loop consistency either."""
    evidence = evidence_of(tmp_path / family, family, size=0.1, folded=True)
    group = evidence.plants["base0"].group
    assert group == ("orthogonal" if family == "llama" else "mean_preserving_orthogonal")
    for route in ROUTES:
        rows = rows_of(evidence, group, "procrustes", route)
        assert {r["metric"] for r in rows} == {"rotation_error"}
        # the sign along 1 that LayerNorm hides costs ‖2·11ᵀ/d‖/√(2d) = 2/√(2d)
        blind = 0 if family == "llama" else 2 / math.sqrt(2 * D)
        assert all(r["value"] < 0.1 + blind for r in rows)
        assert values(rows_of(evidence, group, "oracle", route), "rotation_error") == [0.0] * len(STEPS)
    none = values(rows_of(evidence, group, "none"), "rotation_error")
    assert all(v > 0.7 for v in none)


def test_weights_on_rotation_groups(llama):
    rows = rows_of(llama, "orthogonal", "weights", "trajectory")
    assert all(v > 0.9 for v in values(rows, "signed_accuracy")) and all(
        v < 0.3 for v in values(rows, "rotation_error")
    )


def test_both_weighs_activations_and_weights_alike(llama):
    """Cross moments have total variance 1 per site; so must weights, or 'both' would be weights alone."""
    a, b = ("A", 200), ("B", 200)
    parts = [torch.linalg.svdvals(llama.between(a, b, k, cross=True)).sum() for k in ("pooled", "weights")]
    assert all(0.5 < float(p) <= 1 + 1e-6 for p in parts)
    total = llama.between(a, b, "pooled", True) + llama.between(a, b, "weights", True)
    assert torch.allclose(llama.between(a, b, "both", True), total)


@pytest.mark.parametrize(
    ("group", "matcher"), [("affine", "weights"), ("affine", "procrustes"), ("orthogonal", "hungarian_abs")]
)
def test_invalid_pairs_are_refused(llama, group, matcher):
    with pytest.raises(
        ValueError, match=f"does not recover an element of '{group}'; allowed: permutation with hungarian_raw"
    ):
        rows_of(llama, group, matcher)


def test_composition_follows_the_walk(llama):
    """The trajectory's gauge is composed of its links' gauges, each matched on its own evidence."""
    from gaugeport.alignment.matchers import hungarian_abs

    nodes = walk("trajectory", 200, SPACING)
    gauge = SignedPermutation.identity(D)
    for a, b in pairwise(nodes):
        gauge = compose(hungarian_abs(llama.between(a, b, "block0")).gauge, gauge)
    assert Condition(llama, *GROUPED, "block0", seed=0).gauge_and_truth(nodes, 0)[0] == gauge


def test_residual_without_a_gauge_is_in_the_exact_group(neox):
    """The residual is the planted gauges, so it can be applied to the model."""
    residual = Condition(neox, "identity", "none", "", seed=0).residual(walk("endpoint", 200, SPACING), 0)
    assert isinstance(residual, GlobalSignPermutation) and residual != GlobalSignPermutation.identity(D)
