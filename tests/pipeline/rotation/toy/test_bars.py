"""The bars: thresholds, what Bar B averages, the decoy, cohorts whose boundary must be shared."""

import copy
import math

import pytest
import torch

from dyck_models import generic
from gaugeport.charts import certify, fold_gains
from gaugeport.models.dyck import IGNORED, DyckConfig, DyckModel, by_head, losses
from gaugeport.pipeline.rotation.matching.search import comparable_rows, tensor_mse
from gaugeport.pipeline.rotation.toy import bars
from gaugeport.pipeline.rotation.toy.strings import heldout
from gaugeport.pipeline.stages import cohorts


@pytest.fixture(scope="module")
def model():
    return generic()


def batches(n=96):
    return bars.heldout_batches(n, 18, 20, 0)


def values(rows, **where):
    return [r["value"] for r in rows if all(r.get(k) == v for k, v in where.items())]


def test_bar_b_is_the_mean_over_positions_and_heads(model, monkeypatch):
    monkeypatch.setattr(bars, "STRINGS_PER_BATCH", 32)
    monkeypatch.setattr("gaugeport.pipeline.rotation.toy.strings.LONG_LENGTHS", (12, 18))
    rows = bars.bar_b({"real": model}, batches())
    total, counted, by_split = torch.zeros(3, dtype=torch.float64), 0, {}
    for split, held in batches():
        with torch.no_grad():
            logits = model(held["input_ids"]).logits
        for k, z in enumerate(by_head(logits)):
            kept = held["labels"][..., k] != IGNORED
            nats = -z.double().log_softmax(-1)[kept].gather(1, held["labels"][..., k][kept][:, None])
            total[k] += nats.sum()
            by_split.setdefault(split, []).append(nats)
        counted += int(kept.sum())
    assert values(rows, metric="bar_b") == pytest.approx([float(total.mean() / counted)], rel=1e-6)
    assert values(rows, metric="bar_b_head") == pytest.approx((total / counted).tolist(), rel=1e-6)
    assert values(rows, metric="bar_b_split", split="long") == pytest.approx(
        [float(torch.cat(by_split["long"]).mean())]
    )
    assert [r["samples"] for r in rows if r["metric"] == "bar_b_after"] == [96]


def test_a_model_that_knows_nothing_pays_the_logarithm_of_the_classes(model):
    blank = copy.deepcopy(model)
    with torch.no_grad():
        for head in (blank.lm_head, blank.depth_head, blank.valid_head):
            head.weight.zero_()
    rows = losses(
        blank(heldout("train", 4, 18, 20, 0)["input_ids"]).logits, heldout("train", 4, 18, 20, 0)["labels"]
    )
    assert rows[0, 0].tolist() == pytest.approx([math.log(40), math.log(9), math.log(2)])


def test_divergence_is_zero_of_a_model_from_itself_in_any_coordinates_and_grows_with_distance(
    model, monkeypatch
):
    monkeypatch.setattr("gaugeport.pipeline.rotation.toy.strings.LONG_LENGTHS", (12, 18))
    same = bars.divergence(model, fold_gains(model), batches())
    near, far = copy.deepcopy(model), copy.deepcopy(model)
    with torch.no_grad():
        for other, size in ((near, 0.01), (far, 0.1)):
            noise = torch.Generator().manual_seed(0)
            for p in other.parameters():
                p.add_(size * torch.randn(p.shape, generator=noise))
    found = [values(bars.divergence(model, m, batches()), metric="bar_b")[0] for m in (near, far)]
    assert abs(values(same, metric="bar_b")[0]) < torch.finfo(torch.float32).eps < found[0] < found[1]


def test_divergence_is_forward_from_the_first_model(model, monkeypatch):
    """Against −log of what the second gives, weighted by what the first does, head by head, by hand."""
    monkeypatch.setattr("gaugeport.pipeline.rotation.toy.strings.LONG_LENGTHS", (12, 18))
    other, held = generic(1), heldout("train", 40, 18, 20, 0)
    found = values(bars.divergence(model, other, iter([("train", held)])), metric="bar_b")[0]
    with torch.no_grad():
        pair = [by_head(m(held["input_ids"]).logits) for m in (model, other)]
    kept = held["labels"][..., 0] != IGNORED

    def forward(first, second):
        return sum(float((p[kept].softmax(-1) * (p[kept].log_softmax(-1) - q[kept].log_softmax(-1))).sum(-1).mean())
                   for p, q in zip(first, second, strict=True)) / 3  # fmt: skip

    assert found == pytest.approx(forward(*pair), rel=1e-5) and found != pytest.approx(
        forward(*pair[::-1]), rel=1e-2
    )


def test_the_decoy_differs_in_its_depth_unembedding_alone(model):
    fake = bars.make_decoy(model)
    tensors = tensor_mse(*comparable_rows(fake, model))
    assert [n for n, v in tensors.items() if v > 0] == ["depth_head.weight"]
    w, theirs = fake.depth_head.weight, model.depth_head.weight
    assert (
        torch.equal(w[0], w[1])
        and torch.allclose(w[6], (theirs[6] + theirs[7]) / 2)
        and torch.equal(w[8], theirs[8])
    )


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
def test_status(bar, value, status):
    assert bars.Thresholds().status(bar, value) == status


@pytest.mark.parametrize(
    "wrong", [{"b": -1e-4}, {"p": 0.0}, {"c": 1.5}, {"pr": -0.99}, {"near": 0.5}, {"b": float("inf")}]
)
def test_thresholds_of_the_wrong_sign_are_refused(wrong):
    (name, value), *_ = wrong.items()
    with pytest.raises(ValueError, match=f"threshold {name}={value}; allowed"):
        bars.Thresholds(**wrong)


def test_a_threshold_that_is_no_number_is_refused():
    with pytest.raises(ValueError, match="threshold b='abc'; allowed: a finite number"):
        bars.Thresholds(b="abc")


def test_pearson_of_constants_is_none_at_all():
    assert bars.pearson([1, 2, 3], [2, 4, 6]) == pytest.approx(1) and bars.pearson(
        [1, 2, 3], [3, 2, 1]
    ) == pytest.approx(-1)
    assert math.isnan(bars.pearson([1, 1, 1], [1, 2, 3]))


def test_the_chart_certifies_signed_permutations_raw_and_rotations_folded(model):
    raw, folded = certify(model), certify(fold_gains(model))
    assert (raw.group, raw.exact, raw.outside_breaks) == ("signed_permutation", True, True)
    assert (folded.group, folded.exact) == ("orthogonal", True)


def test_a_cohort_whose_boundary_differs_is_refused(model):
    other = generic(1)
    cohorts.freeze(other, model)
    cohorts.check_frozen({"seed 0": model, "seed 1": other})
    assert not other.lm_head.weight.requires_grad and other.model.norm.weight.requires_grad
    with torch.no_grad():
        other.depth_head.weight[3, 2] += 1e-7
    with pytest.raises(
        ValueError, match=r"depth_head.weight of seed 1 differs from seed 0's.*allowed: bit-identical"
    ):
        cohorts.check_frozen({"seed 0": model, "seed 1": other})


def test_models_of_another_size_are_refused(model):
    wider = DyckModel(
        DyckConfig(hidden_size=32, num_attention_heads=2, intermediate_size=24, max_position_embeddings=20)
    )
    with pytest.raises(ValueError, match=r"has shape \(40, 32\) in seed 1 and \(40, 16\) in seed 0"):
        cohorts.check_frozen({"seed 0": model, "seed 1": wider})


def test_rows_the_model_cannot_read_are_refused(model):
    with pytest.raises(ValueError, match="has 20 positions, got rows of"):
        model(torch.ones(1, 21, dtype=torch.long))
    with pytest.raises(ValueError, match="padded on the right"):
        model(torch.ones(1, 4, dtype=torch.long), attention_mask=torch.tensor([[0, 1, 1, 1]]))
