"""Moved lists: exact under right gauges, drifted under the oracle, refused under rotations."""

import copy
from types import SimpleNamespace

import pytest
import torch

from gaugeport.charts import chart_of
from gaugeport.groups import SignedPermutation
from gaugeport.pipeline.measures.conditions import Condition
from gaugeport.pipeline.measures.gauge_groups import tiny_model
from gaugeport.pipeline.measures.importance import LISTS, score_importance
from gaugeport.pipeline.measures.index_lists import METRICS, moved_list_rows
from gaugeport.pipeline.measures.self_evidence import SelfEvidence
from gaugeport.pipeline.stages import lists
from gaugeport.pipeline.tasks import indices as indices
from gaugeport.pipeline.tasks.shared.transfer import Transfer
from gaugeport.transport import transport_indices
from tiny_models import batches_of, gen

D, K, PLANTS = 32, 8, 40
COORDINATES = [name for name, kind in LISTS.items() if kind.space == "coordinate"]
SIGNED = [name for name, kind in LISTS.items() if kind.signed]


@pytest.fixture(scope="module")
def model():
    return tiny_model("llama", gen(0))


@pytest.fixture(scope="module")
def evidence(model):
    return SelfEvidence(model, 9, batches_of(), sites="all", skip_first=1, seen=torch.arange(64), seed=0)


@pytest.fixture(scope="module")
def here(model):
    return score_importance(model, batches_of(2), "block1", ig_steps=2)


@pytest.fixture(scope="module")
def drifted(model):
    b = copy.deepcopy(model)
    with torch.no_grad():
        for p in b.parameters():
            p.add_(torch.randn(p.shape, generator=gen(3)) * 0.2 * p.std())
    return score_importance(b, batches_of(2), "block1", ig_steps=2)


def rows_of(evidence, a, b, group, matcher):
    condition = Condition(evidence, group, matcher, "pooled", 0)
    plants = PLANTS if condition.depends_on_plant else 1
    rows = moved_list_rows(a, b, [condition.residual(evidence.nodes, p) for p in range(plants)], K)
    return {(r["list"], r["metric"]): r["value"] for r in rows}


def test_right_gauges_name_the_targets_own_lists(evidence, here):
    for group, matcher in (("signed_permutation", "oracle"), ("signed_permutation", "hungarian_abs")):
        found = rows_of(evidence, here, here, group, matcher)
        assert set(found) == {(n, m) for n in LISTS for m in METRICS if m != "sign_agreement" or n in SIGNED}
        assert all(v == pytest.approx(1.0) for v in found.values())


def test_no_gauge_is_chance(evidence, here):
    found = rows_of(evidence, here, here, "identity", "none")
    for name in COORDINATES:
        error = found[name, "precision_plants_sd"] / PLANTS**0.5
        assert error > 0 and abs(found[name, "precision"] - K / D) < 5 * error
    assert found["neuron_activation", "precision"] == 1, "neurons are invariant: no gauge is needed"


def test_signs_dropped_keep_the_index_and_lose_the_sign(evidence, here):
    found = rows_of(evidence, here, here, "permutation", "hungarian_abs")
    assert all(found[name, "precision"] == 1 for name in COORDINATES)
    for name in SIGNED:
        # a uniform sign per entry and plant: 5 standard errors of the mean of K · PLANTS coins
        assert abs(found[name, "sign_agreement"] - 0.5) < 5 * 0.5 / (K * PLANTS) ** 0.5


def test_raw_matching_loses_indices(evidence, here):
    raw = rows_of(evidence, here, here, "permutation", "hungarian_raw")
    chance = rows_of(evidence, here, here, "identity", "none")
    for name in COORDINATES:
        assert chance[name, "precision"] < raw[name, "precision"] < 1


def test_rotations_refuse_and_leave_neurons_alone(evidence, here):
    found = rows_of(evidence, here, here, "orthogonal", "procrustes")
    assert {n for n, m in found if m == "refused"} == set(COORDINATES)
    assert all(m == "refused" for n, m in found if n in COORDINATES)
    assert found["neuron_activation", "precision"] == 1


def test_the_oracle_shows_drift(evidence, here, drifted):
    found = rows_of(evidence, here, drifted, "signed_permutation", "oracle")
    for name in LISTS:
        mine, theirs = (set(s[name].abs().topk(K).indices.tolist()) for s in (here, drifted))
        assert found[name, "precision"] == pytest.approx(len(mine & theirs) / K)
    assert min(found[name, "precision"] for name in COORDINATES) < 1
    assert all(found[name, "rank_correlation"] < 1 for name in LISTS)


def test_a_list_moved_by_hand(here):
    g = SignedPermutation.random(D, gen(4))
    listed = here["activation"].topk(K).indices
    moved = transport_indices(listed, g)
    assert torch.equal(g.act(torch.eye(D)[listed]).abs().argmax(1), moved.index)
    native = set(listed.tolist())
    rows = {(r["list"], r["metric"]): r["value"] for r in moved_list_rows(here, here, [g], K)}
    assert rows["activation", "precision"] == len(native & set(moved.index.tolist())) / K


def test_a_job(model, evidence, here, drifted, monkeypatch):
    none = torch.zeros(1, 8, dtype=torch.long)

    def rows_of(group, matcher, target):
        condition = Condition(evidence, group, matcher, "pooled", 0)
        found = Transfer(
            a=model, b=model, chart=chart_of(model), tokenizer=None, site="block1", step=9, rows_fit=none,
            rows_test=none, nodes=list(evidence.nodes), condition=condition, plants=1,
            where={"target": target, "evidence": "site"},
        )  # fmt: skip
        monkeypatch.setattr(indices, "load_transfer", lambda job, built: found)
        b = here if target == "identical" else drifted
        monkeypatch.setattr(indices, "scores_of", lambda job, built: (here, b))
        task = {"target": target, "k": K, "plants": 1}
        uniform = SimpleNamespace(positive_share=0.5)
        job = SimpleNamespace(gauge=group, matcher=matcher, seed=0, task=task, measurement=uniform)
        return indices.measure(job, None)

    for group, matcher in (
        ("signed_permutation", "hungarian_abs"),
        ("identity", "none"),
        ("orthogonal", "procrustes"),
    ):
        for target in ("identical", "finetuned"):
            rows = rows_of(group, matcher, target)
            lists = [r for r in rows if "list" in r]
            assert all(r["target"] == target and r["k"] == K for r in lists)
            neurons = next(
                r for r in lists if r["list"] == "neuron_activation" and r["metric"] == "precision"
            )
            assert neurons["theory"] == (1.0 if target == "identical" else None)
            if target == "identical" and group != "identity":
                assert all(r["value"] == pytest.approx(1.0) for r in lists if r["theory"] == 1.0)
            assert {"loss_A", "loss_B"} <= {r["metric"] for r in rows}


def test_bad_input(here):
    with pytest.raises(ValueError, match=f"the top 40 of {D}; allowed: 1 to {D}"):
        moved_list_rows(here, here, [SignedPermutation.identity(D)], 40)
    with pytest.raises(ValueError, match="width"):
        moved_list_rows(here, here, [SignedPermutation.identity(D + 1)], K)


def test_the_halves_are_the_whole_and_share_no_row():
    job = SimpleNamespace(task={"tokens": 44}, measurement=SimpleNamespace(skip_first=1, batch_size=3))
    rows = torch.arange(20 * 12).view(20, 12)
    whole, first, second = (
        torch.cat([b["input_ids"] for b in lists._batches(job, rows, p)]) for p in lists.PARTS
    )
    assert torch.equal(whole, rows[:4]) and torch.equal(torch.cat([first, second]), whole)
    assert len(first) == len(second) == 2
