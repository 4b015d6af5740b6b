"""Steering regimes of Dyck-3 models: a planted gauge is undone, and shared heads pin a subspace."""

import pytest
import torch

from dyck_models import generic
from gaugeport.groups import Orthogonal, SignedPermutation
from gaugeport.pipeline.config.compose import compose_config, from_config
from gaugeport.pipeline.rotation.features.predictors import reader_span, share_in
from gaugeport.pipeline.rotation.toy import steering_vectors, strings
from gaugeport.pipeline.stages import pairs
from gaugeport.pipeline.tasks import regimes
from gaugeport.pipeline.tasks.shared.paired_vectors import dyck_vectors
from gaugeport.transport import transport_model

SIZES = {"scale": 0.4, "max_position_embeddings": 64, "hidden_size": 32, "intermediate_size": 48}
TOY = ("model=dyck3", "data=dyck3", "training=dyck3", "data.length=64")


def job(*overrides):
    chosen = ["experiment=steering_regimes", "profile=smoke", "seed=1", *overrides]
    return from_config(compose_config(chosen), chosen).job


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


def value(rows, metric, **where):
    """Return the value of the one row with a metric and further columns."""
    (row,) = [r for r in rows if r["metric"] == metric and all(r.get(k) == v for k, v in where.items())]
    return row["value"]


def ratios_of(rows, group):
    cross = [r for r in rows if r.get("arm") == "cross" and r.get("group") == group]
    return [r["value"] for r in cross if r["metric"] == "ratio"]


def with_effective_vectors(model):
    """Return the model with heads that read its own vectors at the last site, which gives these an effect."""
    rows, site = strings.draw_strings(64, (2, 62), 64, gen()), "resid_post_1"
    vectors, _ = steering_vectors.vectors_at(model, rows, [site])[site]
    unit = {name: v / v.norm() for name, v in vectors.items()}
    with torch.no_grad():
        model.lm_head.weight[list(steering_vectors.CLOSERS)] += 2 * unit["closer_signal"]
        model.lm_head.weight[list(steering_vectors.OPENERS)] -= 2 * unit["closer_signal"]
        model.valid_head.weight += 2 * torch.tensor([[1.0], [-1.0]]) * unit["invalid_suppression"]
        model.depth_head.weight += torch.linspace(-2, 2, 9)[:, None] * unit["depth_shift"]
    return model


@pytest.mark.parametrize(
    ("group", "gauge", "folded"),
    [("orthogonal", Orthogonal, True), ("signed_permutation", SignedPermutation, False)],
)
def test_vector_moved_by_the_fitted_map_does_what_it_did(group, gauge, folded):
    """The other model is the anchor in other coordinates, so the map of the gauge's group undoes them."""
    chosen = job("task.cohort=B", *TOY, "task.strengths=[0.5,1.0]")
    model = with_effective_vectors(generic(folded=folded, **SIZES))
    other = transport_model(model, gauge.random(32, gen(3)))
    a, b = (pairs.paired_dyck_model(chosen, m) for m in (model, other))
    vectors = dyck_vectors(chosen, a, b)
    assert [v.site for v in vectors[::3]] == ["resid_mid_0", "resid_post_0", "resid_mid_1", "resid_post_1"]
    rows = regimes.vector_rows(chosen, vectors, *(m.streams("fit", 4096) for m in (a, b)), [])

    # what the vector does on the anchor it does on the other model, if moved
    moved = ({"arm": "cross", "group": group}, {"arm": "cross", "group": "orthogonal"}, {"arm": "native"})
    differing = 0
    for v in vectors:
        at = {"vector": v.name, "site": v.site}
        for strength in (-1.0, -0.5, 0.5, 1.0):
            for metric in ("effect", "accuracy"):
                within = value(rows, metric, arm="within", strength=strength, **at)
                for condition in moved:
                    cross = value(rows, metric, strength=strength, **condition, **at)
                    assert cross == pytest.approx(within, rel=1e-2, abs=2e-3)
            within = value(rows, "effect", arm="within", strength=strength, **at)
            unchanged = value(rows, "effect", arm="cross", group="identity", strength=strength, **at)
            differing += abs(unchanged - within) > 0.05
        assert value(rows, "length_ratio", **at) == pytest.approx(1)
        assert value(rows, "native_cosine", **at) > 0.999
        assert value(rows, "pinned_share", **at) == 0
    assert differing > 30, "of 48 unchanged in other coordinates"

    ratios = ratios_of(rows, group)
    assert len(ratios) >= 2 and ratios == pytest.approx([1] * len(ratios), rel=1e-2)
    assert max(abs(1 - r) for r in ratios_of(rows, "identity")) > 0.5
    assert not [r for r in rows if r["metric"] == "share_transfer_correlation"], "nothing is shared"


def test_share_is_taken_in_the_span_of_shared_heads():
    chosen = job("task.cohort=A", *TOY, "task.strengths=[1.0]", "task.controls=1")
    model = with_effective_vectors(generic(**SIZES))
    a = pairs.paired_dyck_model(chosen, model)
    vectors, streams = dyck_vectors(chosen, a, a), a.streams("fit", 1024)
    readers = steering_vectors.output_readers(model)
    rows = regimes.vector_rows(chosen, vectors, streams, streams, readers)
    basis = reader_span(readers)
    for v in vectors:
        at = {"vector": v.name, "site": v.site}
        assert value(rows, "pinned_share", **at) == pytest.approx(share_in(v.direction, basis))
        assert value(rows, "rotation_cosine", **at) == pytest.approx(1, abs=1e-4)
    assert value(rows, "pinned_share_random") == 17 / 32
    ratios = [r["value"] for r in rows if r["metric"] == "ratio" and r.get("group") == "identity"]
    assert ratios and ratios == pytest.approx([1] * len(ratios))
