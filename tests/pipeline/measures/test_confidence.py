"""Calibration of margins: areas by hand, random order as a negative control, margins equal to ``align``'s."""

import itertools

import numpy as np
import pytest
import torch
from scipy import stats

from gaugeport.alignment.align import align
from gaugeport.alignment.along import align_along
from gaugeport.alignment.routes import ROUTES, links, walk
from gaugeport.pipeline.measures.conditions import Condition
from gaugeport.pipeline.measures.confidence import (
    SHARES,
    accuracy_by_share_kept,
    calibration,
    confidence_rows,
    placements_and_margins,
)
from gaugeport.pipeline.measures.evidence_files import write_evidence
from gaugeport.pipeline.measures.gauge_groups import tiny_model
from gaugeport.pipeline.measures.planted_evidence import PlantedEvidence
from gaugeport.pipeline.measures.plants import node_name
from gaugeport.transport import transport_model

D, STEP, SPACING = 32, 200, 100


def gen(seed):
    return torch.Generator().manual_seed(seed)


def batches_of(n=4):
    return [{"input_ids": torch.randint(0, 64, (8, 12), generator=gen(s))} for s in range(n)]


def checkpoint(family):
    def load(node):
        model = tiny_model(family, gen(0))
        with torch.no_grad():
            for p in model.parameters():
                drift = torch.randn(p.shape, generator=gen(1 + (node[0] == "B"))) * p.std()
                p.add_(4.0 * drift * node[1] / 1000)
        return model

    return load


@pytest.fixture(scope="module", params=["llama", "gpt_neox"])
def planted(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    write_evidence(
        folder,
        links([walk(r, STEP, SPACING) for r in ROUTES]),
        checkpoint(request.param),
        batches_of(),
        sites="all",
        skip_first=1,
        seen=torch.arange(64),
        seed=7,
        models_in_memory=8,
    )
    return request.param, PlantedEvidence(folder)


def condition_of(family, evidence, kind="pooled"):
    group, matcher = (
        ("signed_permutation", "hungarian_abs")
        if family == "llama"
        else ("global_sign_permutation", "hungarian_raw")
    )
    return Condition(evidence, group, matcher, kind, 0)


def shuffled(right, margin, seed):
    order = torch.randperm(len(right), generator=gen(seed))
    return right[order], margin[order]


# the areas


def test_areas_by_hand():
    right = torch.tensor([True, False, True, False])
    margin = torch.tensor([0.9, 0.8, 0.3, -0.1])
    for r, m in (shuffled(right, margin, s) for s in range(5)):
        found = calibration(r, m)
        assert found["area_under_curve"] == pytest.approx((1 + 1 / 2 + 2 / 3 + 2 / 4) / 4)
        assert found["area_random"] == 0.5
        assert found["area_best"] == pytest.approx((1 + 1 + 2 / 3 + 2 / 4) / 4)
        assert found["area_gain"] == pytest.approx(found["area_under_curve"] - 0.5)
        assert found["top_half_gain"] == 0.0
        assert found["margin_auroc"] == pytest.approx(3 / 4)


def test_best_and_worst_order():
    right = torch.arange(50) < 30
    best, worst = calibration(right, -torch.arange(50.0)), calibration(right, torch.arange(50.0))
    assert best["area_under_curve"] == pytest.approx(best["area_best"])
    assert (best["margin_auroc"], worst["margin_auroc"]) == (1.0, 0.0)
    assert best["top_half_gain"] == pytest.approx(0.4) and worst["area_gain"] < 0 < best["area_gain"]
    brute = np.mean([min(m, 30) / m for m in range(1, 51)])
    assert best["area_best"] == pytest.approx(brute)


def test_random_margins_gain_nothing():
    """The negative control: over 400 random orders every gain is 0 within 5 standard errors."""
    right = torch.arange(64) < 24
    found = [calibration(right, torch.rand(64, generator=gen(s))) for s in range(400)]
    for metric, null in (("area_gain", 0.0), ("top_half_gain", 0.0), ("margin_auroc", 0.5)):
        values = np.array([f[metric] for f in found])
        assert abs(values.mean() - null) < 5 * values.std(ddof=1) / 20
        assert values.std() > 0


def test_auroc_against_mann_whitney_with_ties():
    right = torch.rand(40, generator=gen(0)) < 0.6
    margin = torch.randint(0, 5, (40,), generator=gen(1)).double()
    u = stats.mannwhitneyu(margin[right].numpy(), margin[~right].numpy()).statistic
    found = calibration(right, margin)["margin_auroc"]
    assert found == pytest.approx(u / (int(right.sum()) * int((~right).sum())))
    assert "margin_auroc" not in calibration(torch.ones(40, dtype=torch.bool), margin)
    assert "margin_auroc" not in calibration(torch.zeros(40, dtype=torch.bool), margin)


def test_threshold_keeps_its_share():
    right = torch.rand(40, generator=gen(0)) < 0.6
    margin = torch.randn(40, generator=gen(1), dtype=torch.float64)
    found = accuracy_by_share_kept(right, margin)
    assert tuple(found) == SHARES
    for share, at in found.items():
        kept = margin >= at["threshold"]
        assert int(kept.sum()) == round(share * 40)
        assert at["kept_accuracy"] == pytest.approx(float(right[kept].double().mean()))
    assert found[1.0]["kept_accuracy"] == pytest.approx(float(right.double().mean()))
    assert accuracy_by_share_kept(right[:3], margin[:3])[0.1]["threshold"] == float(margin[:3].max()), (
        "at least one is kept"
    )


# margins of walks


@pytest.mark.parametrize("route", ROUTES)
def test_margins_equal_those_of_align(planted, route):
    """``align`` and ``align_along`` on planted models give the gauge and margins of the stored evidence."""
    family, evidence = planted
    nodes = walk(route, STEP, SPACING)
    models = [transport_model(checkpoint(family)(n), evidence.plants[node_name(n)]) for n in nodes]
    found = (align if len(models) == 2 else lambda *m: align_along(m[:-1], m[-1]))(*models, batches_of())
    gauge, truth = condition_of(family, evidence).gauge_and_truth(nodes, 0)
    right, margin = placements_and_margins(condition_of(family, evidence), nodes, 0)
    assert found.gauge == gauge
    # float32 streams agree to about 1e-6 of their size, and so do correlations and margins
    assert torch.allclose(found.margin, margin, atol=1e-4)
    assert torch.equal(right, (found.gauge.perm == truth.perm) & (found.gauge.sign == truth.sign))
    if route == "trajectory":
        direct = placements_and_margins(condition_of(family, evidence), [nodes[0], nodes[-1]], 0)[1]
        assert not torch.allclose(direct, margin, atol=1e-2)


def test_margins_belong_to_coordinates_of_the_last_node(planted):
    """A margin is that of the weakest link, followed by hand through the composed gauges."""
    family, evidence = planted
    condition, nodes = condition_of(family, evidence), walk("trajectory", STEP, SPACING)
    margin = placements_and_margins(condition, nodes, 0)[1]
    steps = [condition.local(a, b) for a, b in itertools.pairwise(nodes)]
    for i in range(D):
        here, weakest = i, float("inf")
        for link in reversed(steps):
            weakest = min(weakest, float(link.margin[here]))
            here = int(link.gauge.perm[here])
        assert float(margin[i]) == weakest


def test_signed_matching_does_not_depend_on_the_plant(planted):
    family, evidence = planted
    nodes = walk("trajectory", STEP, SPACING)
    first, second = (
        placements_and_margins(condition_of(family, evidence, "block1"), nodes, p) for p in (0, 1)
    )
    assert torch.allclose(first[1].sort().values, second[1].sort().values)
    assert int(first[0].sum()) == int(second[0].sum())
    if family == "llama":
        raw = Condition(evidence, "permutation", "hungarian_raw", "block1", 0)
        one, two = (placements_and_margins(raw, nodes[:2], p)[1].sort().values for p in (0, 1))
        assert not torch.allclose(one, two), "raw matching sees the signs of the plant"


# rows


def rows_of(evidence, group, matcher, route="endpoint", kinds=("block1", "pooled"), plants=3):
    return confidence_rows(
        evidence,
        kinds,
        group=group,
        matcher=matcher,
        route=route,
        step=STEP,
        spacing=SPACING,
        plants=plants,
        seed=0,
    )


@pytest.mark.parametrize("planted", ["llama"], indirect=True)
def test_rows_of_a_condition(planted):
    _, evidence = planted
    rows = rows_of(evidence, "signed_permutation", "hungarian_abs")
    at = {(r["evidence"], r["site"], r["metric"], r.get("kept")): r["value"] for r in rows}
    assert len(at) == len(rows) and {k[:2] for k in at} == {("site", "block1"), ("pooled", "")}
    assert not any(m.endswith("_plants_sd") for _, _, m, _ in at)
    for where in (("site", "block1"), ("pooled", "")):
        assert at[*where, "kept_accuracy", 1.0] == pytest.approx(at[*where, "area_random", None])
        assert at[*where, "area_under_curve", None] <= at[*where, "area_best", None] + 1e-12
        assert {k for *w, m, k in at if tuple(w) == where and m == "threshold"} == set(SHARES)
    assert 0 < at["site", "block1", "area_random", None] < 1, "drift is large enough for mistakes"
    raw = rows_of(evidence, "permutation", "hungarian_raw")
    assert {"kept_accuracy_plants_sd", "area_gain_plants_sd"} <= {r["metric"] for r in raw}
    weights = rows_of(evidence, "signed_permutation", "weights", kinds=["weights"])
    assert {(r["evidence"], r["site"]) for r in weights} == {("weights", "")}


@pytest.mark.parametrize("planted", ["llama"], indirect=True)
def test_conditions_without_margins_are_refused(planted):
    for group, matcher in (
        ("signed_permutation", "oracle"),
        ("identity", "none"),
        ("orthogonal", "procrustes"),
    ):
        with pytest.raises(ValueError, match=f"gauge={group} with matcher={matcher} has no margin.*allowed"):
            rows_of(planted[1], group, matcher)


@pytest.mark.parametrize("planted", ["gpt_neox"], indirect=True)
def test_group_larger_than_the_exact_one_is_refused(planted):
    with pytest.raises(ValueError, match="larger than this model's exact gauge group"):
        rows_of(planted[1], "signed_permutation", "hungarian_abs")
