"""The audit of lists: planting relabels scores; unnamed gauges leave chance; theory by condition."""

import copy
from types import SimpleNamespace

import pytest
import torch

from gaugeport.charts import chart_of
from gaugeport.charts.logit_change import norms_in_float64, permute_neurons
from gaugeport.groups import Orthogonal, Permutation, SignedPermutation, compose
from gaugeport.pipeline.measures.conditions import Condition
from gaugeport.pipeline.measures.gauge_groups import tiny_model
from gaugeport.pipeline.measures.importance import LISTS
from gaugeport.pipeline.measures.index_audit import (
    SPACE_MOVED_BY,
    audit_rows,
    audit_run_rows,
    reliability_rows,
)
from gaugeport.pipeline.measures.list_agreement import agreement_by_chance, compare_lists
from gaugeport.pipeline.measures.self_evidence import SelfEvidence
from gaugeport.pipeline.tasks import audit as audit_task
from gaugeport.pipeline.tasks.shared.lists import theory
from gaugeport.pipeline.tasks.shared.transfer import Transfer
from gaugeport.transport import transport_model
from importance_models import FAMILIES, D, K, N, gen, plant_of, scores, wide
from tiny_models import noisy


@pytest.mark.parametrize("family", FAMILIES)
def test_permutations_and_neurons_relabel_scores(family):
    """A planted model has relabelled scores, for both kinds of gauge; each is the other's control."""
    model, g = wide(family), plant_of(wide(family), 1)
    shuffled = copy.deepcopy(model)
    permute_neurons(chart_of(model), shuffled, gen(2))
    neurons = Permutation(torch.randperm(N, generator=gen(2)))
    carried = transport_model(model, g)
    with norms_in_float64(model), norms_in_float64(shuffled), norms_in_float64(carried):
        here, residual, neuron = scores(model), scores(carried), scores(shuffled)
    for planted, run, plant, wrong in (
        ("residual", residual, g, plant_of(model, 9)),
        ("neuron", neuron, neurons, Permutation.random(N, gen(9))),
    ):
        rows = audit_run_rows(here, here, run, plant, planted, K)
        errors = {r["list"]: r["value"] for r in rows if r["metric"] == "relabelling_error"}
        assert set(errors) == {n for n, kind in LISTS.items() if kind.space == SPACE_MOVED_BY[planted]}
        assert max(errors.values()) < 1e-10
        controls = [r for r in rows if r["list"] not in errors]
        assert {r["metric"] for r in controls} >= {"jaccard", "rank_correlation"}
        assert all(r["value"] == pytest.approx(1.0) for r in controls)
        bad = audit_run_rows(here, here, run, wrong, planted, K)
        assert all(r["value"] > 0.1 for r in bad if r["metric"] == "relabelling_error")


@pytest.mark.parametrize("right", [True, False])
def test_residuals_stand_for_planted_models(right):
    """Comparing planted models through ĝ equals comparing the unplanted ones through q_B⁻¹ ∘ ĝ ∘ q_A."""
    a = wide("llama")
    b = noisy(a, 0.05)
    q_a, q_b = (SignedPermutation.random(D, gen(s)) for s in (1, 2))
    guess = compose(q_b, q_a.inverse()) if right else SignedPermutation.random(D, gen(3))
    planted = [scores(transport_model(m, q)) for m, q in ((a, q_a), (b, q_b))]
    plain = [scores(m) for m in (a, b)]
    residual = compose(q_b.inverse(), compose(guess, q_a))
    for name, kind in LISTS.items():
        if kind.space == "coordinate":
            there = compare_lists(planted[0][name], planted[1][name], guess, K, kind.signed)
            assert there == pytest.approx(
                compare_lists(plain[0][name], plain[1][name], residual, K, kind.signed)
            )
    overlap = compare_lists(plain[0]["activation"], plain[1]["activation"], residual, K)["precision"]
    assert overlap > 0.7 if right else overlap < 0.7


def test_unnamed_gauges_leave_chance_and_named_ones_the_whole_list():
    """Over 300 random plants, means are within 5 standard errors of chance; the right gauge gives 1."""
    here = scores(tiny_model("llama", gen(0)))
    for planted, n in (("residual", D), ("neuron", N)):
        plants = [SignedPermutation.random(n, gen(s)) for s in range(300)]
        rows = audit_rows(here, here, [p.inverse() for p in plants], planted, K)
        at = {(r["list"], r["metric"]): r["value"] for r in rows}
        for (name, metric), value in at.items():
            if not metric.endswith("_plants_sd"):
                error = at[name, f"{metric}_plants_sd"] / 300**0.5
                assert error > 0 and abs(value - agreement_by_chance(metric, n, K)) < 5 * error, (
                    name,
                    metric,
                )
        named = audit_rows(here, here, [compose(p.inverse(), p) for p in plants[:2]], planted, K)
        assert all(r["value"] == pytest.approx(float(not r["metric"].endswith("_sd"))) for r in named)


# one job


def job_of(group, matcher, **task):
    task = {"target": "identical", "k": K, "plants": 6, **task}
    uniform = SimpleNamespace(positive_share=0.5)
    return SimpleNamespace(gauge=group, matcher=matcher, seed=0, task=task, measurement=uniform)


@pytest.fixture(scope="module")
def models():
    a = tiny_model("llama", gen(0))
    return a, noisy(a, 0.2)


def transfer_of(models, group, matcher, target="identical"):
    a, b = models[0], models[target == "finetuned"]
    batches = [{"input_ids": torch.randint(0, 64, (8, 12), generator=gen(s))} for s in range(6)]
    evidence = SelfEvidence(a, 9, batches, sites="all", skip_first=1, seen=torch.arange(64), seed=0)
    condition = Condition(evidence, group, matcher, "pooled", 0)
    plants = 6 if condition.depends_on_plant else 1
    none = torch.zeros(1, 8, dtype=torch.long)
    return Transfer(
        a=a, b=b, chart=chart_of(a), tokenizer=None, site="block1", step=9, rows_fit=none, rows_test=none,
        nodes=list(evidence.nodes), condition=condition, plants=plants,
        where={"target": target, "evidence": "site"},
    )  # fmt: skip


def measured(models, monkeypatch, group, matcher, target="identical"):
    pair = transfer_of(models, group, matcher, target)
    site = {m: scores(m, site="block1") for m in models}
    monkeypatch.setattr(audit_task, "load_transfer", lambda job, built: pair)
    monkeypatch.setattr(audit_task, "scores_of", lambda job, built, part="": (site[pair.a], site[pair.b]))
    monkeypatch.setattr(audit_task, "measure_scores", lambda model, job, data: scores(model, site="block1"))
    return audit_task.measure(job_of(group, matcher, target=target), {"data": None})


@pytest.mark.parametrize(
    ("group", "matcher", "named"),
    [
        ("identity", "none", "raw"),
        ("signed_permutation", "oracle", "oracle"),
        ("signed_permutation", "hungarian_abs", "recovered"),
        ("permutation", "hungarian_abs", "recovered"),
        ("permutation", "hungarian_raw", "recovered"),
    ],
)
def test_job_of_the_audit(models, monkeypatch, group, matcher, named):
    rows = [r for r in measured(models, monkeypatch, group, matcher) if "list" in r]
    assert {r["named"] for r in rows} == {named}
    # rows of lists on other tokens have no planted gauge
    across = [r for r in rows if "planted" not in r]
    assert bool(across) == (named == "oracle") and all(r["metric"].endswith("_same_model") for r in across)
    at = {(r["planted"], r["list"], r["metric"]): r for r in rows if "planted" in r}
    exact = group == "signed_permutation"
    for (planted, name, metric), row in at.items():
        if row["theory"] == 1.0 and planted == "residual":
            assert row["value"] == pytest.approx(1.0), (name, metric)
        if metric == "relabelling_error":
            assert row["theory"] == 0.0 and row["value"] < 1e-4
    neurons = at["neuron", "neuron_activation", "jaccard"]["value"]
    if exact:
        assert neurons == 1
    elif matcher != "hungarian_raw":  # it places half of the coordinates, enough for this model
        assert neurons < 1, "neurons can be matched only after the residual gauge with its signs"
    signs = at["residual", "mean_activation", "sign_agreement"]["value"]
    assert signs == 1 if exact else 0.1 < signs < 0.9
    raw = at["residual", "activation", "jaccard"]["value"]
    assert raw == 1 if matcher in ("oracle", "hungarian_abs") else raw < 0.9
    if named == "raw":
        assert at["residual", "neuron_activation", "jaccard"]["value"] == 1
        assert at["neuron", "activation", "jaccard"]["value"] == 1


def test_a_drifted_target_has_no_theory_but_chance(models, monkeypatch):
    for group, matcher in (("identity", "none"), ("signed_permutation", "oracle")):
        rows = measured(models, monkeypatch, group, matcher, "finetuned")
        lists = [r for r in rows if r.get("planted") == "residual" and r["list"] == "activation"]
        by_metric = {r["metric"]: r for r in lists}
        if matcher == "none":
            assert by_metric["jaccard"]["theory"] == pytest.approx(agreement_by_chance("jaccard", D, K))
        else:
            assert by_metric["jaccard"]["theory"] is None and by_metric["rank_correlation"]["value"] < 1


def test_theory_of_conditions():
    def of(group, matcher, metric="sign_agreement", exact="signed_permutation", target="identical"):
        return theory(job_of(group, matcher, target=target), exact, metric, D)

    assert of("identity", "none", "precision") == K / D and of("identity", "none") == 0.5
    assert (
        of("signed_permutation", "hungarian_abs") == 1 and of("signed_permutation", "hungarian_raw") is None
    )
    assert of("permutation", "hungarian_abs") == 0.5 and of("permutation", "hungarian_abs", "jaccard") == 1
    assert of("permutation", "hungarian_raw") is None and of("permutation", "weights") is None
    assert of("global_sign_permutation", "hungarian_raw", exact="global_sign_permutation") == 1
    assert of("global_sign_permutation", "hungarian_raw") is None, "the plants have more signs"
    assert of("signed_permutation", "oracle", target="finetuned") is None
    assert of("signed_permutation", "oracle", "jaccard_plants_sd") is None


# bad input


def test_bad_input():
    here = scores(tiny_model("llama", gen(0)))
    with pytest.raises(ValueError, match=f"the top 33 of {D}; allowed: 1 to {D}"):
        audit_rows(here, here, [SignedPermutation.identity(D)], "residual", 33)
    with pytest.raises(ValueError, match="planted='head'; allowed: residual, neuron"):
        audit_rows(here, here, [], "head", K)
    with pytest.raises(ValueError, match=r"'orthogonal' mixes coordinates.*allowed groups: permutation"):
        audit_rows(here, here, [Orthogonal.random(D, gen(0))], "residual", K)


def test_reliability_separates_noise_from_drift():
    """Noisy scores agree by chance within a model too; drifted scores agree within it but not across."""
    width, k = 4000, 400

    def drawn(seed):
        return torch.randn(width, generator=gen(seed), dtype=torch.float64)

    stable = [drawn(s) for s in (0, 1)]
    halves = []
    for half in (0, 1):
        noise = [{name: drawn(10 + 2 * half + m) for name in LISTS} for m in (0, 1)]
        halves.append(
            tuple(
                {**n, "activation": s, "mean_activation": stable[0]}
                for n, s in zip(noise, stable, strict=True)
            )
        )
    found = {(r["list"], r["metric"]): r["value"] for r in reliability_rows(halves, k)}
    luck = agreement_by_chance("jaccard", width, k)
    assert found["activation", "jaccard_same_model"] == 1
    assert found["activation", "jaccard_other_model"] == pytest.approx(luck, abs=0.03)
    assert (
        found["mean_activation", "jaccard_other_model"]
        == found["mean_activation", "sign_agreement_other_model"]
        == 1
    )
    for which in ("same_model", "other_model"):
        assert found["mean_gradient", f"jaccard_{which}"] == pytest.approx(luck, abs=0.03)
        assert found["mean_gradient", f"sign_agreement_{which}"] == pytest.approx(0.5, abs=0.1)
    one = [(a, a) for a, _ in halves]
    assert {
        m.rpartition("_other")[1] for _, m in ((r["list"], r["metric"]) for r in reliability_rows(one, k))
    } == {""}
