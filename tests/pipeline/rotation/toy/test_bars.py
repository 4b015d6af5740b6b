"""The bars: what Bar B averages, the divergence of two models, the decoy, and thresholds."""

import copy
import math

import pytest
import torch

from dyck_models import generic
from gaugeport.charts import fold_gains
from gaugeport.models.dyck import IGNORED, by_head
from gaugeport.pipeline.rotation.matching.search import comparable_rows, tensor_mse
from gaugeport.pipeline.rotation.toy import bars, strings
from gaugeport.pipeline.rotation.toy.strings import heldout


@pytest.fixture(scope="module")
def model():
    return generic()


@pytest.fixture
def short_long_split(monkeypatch):
    """Let the split ``long`` fit the rows of 20 tokens of these tests."""
    monkeypatch.setattr(strings, "LONG_LENGTHS", (12, 18))


def batches(n=96):
    return bars.heldout_batches(n, 18, 20, 0)


def values(rows, **where):
    return [r["value"] for r in rows if all(r.get(k) == v for k, v in where.items())]


def test_bar_b_is_the_mean_over_positions_and_heads(model, short_long_split, monkeypatch):
    monkeypatch.setattr(bars, "STRINGS_PER_BATCH", 32)
    rows = bars.bar_b({"real": model}, batches())
    total, positions, by_split = torch.zeros(3, dtype=torch.float64), 0, {}
    for split, batch in batches():
        with torch.no_grad():
            logits = model(batch["input_ids"]).logits
        for k, z in enumerate(by_head(logits)):
            labels = batch["labels"][..., k]
            kept = labels != IGNORED
            nats = -z.double().log_softmax(-1)[kept].gather(1, labels[kept][:, None])
            total[k] += nats.sum()
            by_split.setdefault(split, []).append(nats)
        positions += int(kept.sum())
    assert values(rows, metric="bar_b") == pytest.approx([float(total.mean() / positions)], rel=1e-6)
    assert values(rows, metric="bar_b_head") == pytest.approx((total / positions).tolist(), rel=1e-6)
    of_long = float(torch.cat(by_split["long"]).mean())
    assert values(rows, metric="bar_b_split", split="long") == pytest.approx([of_long])
    assert [r["samples"] for r in rows if r["metric"] == "bar_b_after"] == [96]


def test_divergence_grows_with_distance_and_is_zero_of_a_model_in_other_coordinates(model, short_long_split):
    same = bars.divergence(model, fold_gains(model), batches())
    near, far = copy.deepcopy(model), copy.deepcopy(model)
    with torch.no_grad():
        for other, size in ((near, 0.01), (far, 0.1)):
            noise = torch.Generator().manual_seed(0)
            for p in other.parameters():
                p.add_(size * torch.randn(p.shape, generator=noise))
    of_near, of_far = (values(bars.divergence(model, m, batches()), metric="bar_b")[0] for m in (near, far))
    assert abs(values(same, metric="bar_b")[0]) < torch.finfo(torch.float32).eps < of_near < of_far


def test_divergence_is_forward_from_the_first_model(model):
    other, batch = generic(1), heldout("train", 40, 18, 20, 0)
    kept = batch["labels"][..., 0] != IGNORED
    with torch.no_grad():
        pair = [
            [z[kept].log_softmax(-1) for z in by_head(m(batch["input_ids"]).logits)] for m in (model, other)
        ]

    def forward_kl(first, second):
        by_head_means = [
            float((p.exp() * (p - q)).sum(-1).mean()) for p, q in zip(first, second, strict=True)
        ]
        return sum(by_head_means) / 3

    divergence = values(bars.divergence(model, other, iter([("train", batch)])), metric="bar_b")[0]
    assert divergence == pytest.approx(forward_kl(*pair), rel=1e-5)
    assert divergence != pytest.approx(forward_kl(*pair[::-1]), rel=1e-2)


def test_the_decoy_differs_in_its_depth_unembedding_alone(model):
    decoy = bars.make_decoy(model)
    errors = tensor_mse(*comparable_rows(decoy, model))
    assert [name for name, error in errors.items() if error > 0] == ["depth_head.weight"]
    rows, original = decoy.depth_head.weight, model.depth_head.weight
    assert torch.equal(rows[0], rows[1])
    assert torch.allclose(rows[6], (original[6] + original[7]) / 2)
    assert torch.equal(rows[8], original[8])


@pytest.mark.parametrize(
    ("bar", "value", "status"),
    [
        ("b", 1e-4, "PASS"),
        ("b", 1.74e-4, "NEAR-MISS"),
        ("b", 1.1e-3, "FAIL"),
        ("p", 0.28, "FAIL"),
        ("c", 0.9995, "PASS"),
        ("c", 0.95, "NEAR-MISS"),
        ("pr", 0.69, "FAIL"),
        ("c", float("nan"), "FAIL"),
    ],
)
def test_status_of_a_value(bar, value, status):
    assert bars.Thresholds().status(bar, value) == status


@pytest.mark.parametrize(
    "wrong", [{"b": -1e-4}, {"p": 0.0}, {"c": 1.5}, {"pr": -0.99}, {"near": 0.5}, {"b": float("inf")}]
)
def test_thresholds_of_the_wrong_sign_or_size_are_refused(wrong):
    (name, value), *_ = wrong.items()
    with pytest.raises(ValueError, match=f"threshold {name}={value}; allowed"):
        bars.Thresholds(**wrong)


def test_a_threshold_that_is_not_a_number_is_refused():
    with pytest.raises(ValueError, match="threshold b='abc'; allowed: a finite number"):
        bars.Thresholds(b="abc")


def test_the_correlation_with_a_constant_is_undefined():
    assert bars.pearson([1, 2, 3], [2, 4, 6]) == pytest.approx(1)
    assert bars.pearson([1, 2, 3], [3, 2, 1]) == pytest.approx(-1)
    assert math.isnan(bars.pearson([1, 1, 1], [1, 2, 3]))
