"""The sign ceiling (paper A): raw accuracy is at most the share of positive signs, that of |C| is not."""

import pytest
import torch

from gaugeport.charts.chart import chart_of
from gaugeport.pipeline.measures import losses
from gaugeport.pipeline.measures.gauge_groups import tiny_model
from gaugeport.pipeline.measures.losses import heldout_loss
from gaugeport.pipeline.measures.sign_ceiling import (
    plant_with_positive_share,
    sign_ceiling_rows,
    synthetic_activations,
    whiten,
)
from gaugeport.utils.seeds import generator

SHARES = [0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0]


def gen(seed):
    return torch.Generator().manual_seed(seed)


def values(rows, **where):
    return [r["value"] for r in rows if all(r[k] == v for k, v in where.items())]


@pytest.mark.parametrize("seed", range(3))
def test_decorrelated_coordinates_meet_the_ceiling(seed):
    a, b = synthetic_activations(256, 4096, False, 0.5, gen(seed))
    rows = sign_ceiling_rows(a, b, SHARES, seed)
    raw = values(rows, matcher="hungarian_raw", metric="index_accuracy")
    assert max(abs(v - p) for v, p in zip(raw, SHARES, strict=True)) <= 0.03
    for metric in ("index_accuracy", "signed_accuracy"):
        assert min(values(rows, matcher="hungarian_abs", metric=metric)) >= 0.99
    assert [
        r["p"] for r in rows if r["matcher"] == "hungarian_raw" and r["metric"] == "index_accuracy"
    ] == SHARES


def test_unpaired_activations_are_matched_by_neither():
    """Negative control: independent rows hold no partner, and nothing above chance is found."""
    a, b = torch.randn(2000, 128, generator=gen(0)), torch.randn(2000, 128, generator=gen(1))
    rows = sign_ceiling_rows(a, b, [0.5, 1.0], 0)
    assert max(values(rows, metric="index_accuracy")) < 8 / 128  # one fixed point is expected


def test_the_share_is_exact_and_at_random_places():
    for d, p in ((256, 0.3), (10, 0.25), (7, 0.0), (7, 1.0)):
        g = plant_with_positive_share(d, p, gen(0))
        assert int((g.sign == 1).sum()) == round(p * d) and g.size == d
    assert plant_with_positive_share(64, 0.5, gen(0)) != plant_with_positive_share(64, 0.5, gen(1))
    first = sum(plant_with_positive_share(8, 0.5, gen(s)).sign.double() for s in range(400)) / 400
    assert float(first.abs().max()) < 5 / 20  # each place positive half of the time: sd 1/√400


def correlations(x):
    return torch.corrcoef(x.T) - torch.eye(x.shape[1], dtype=x.dtype)


def test_synthetic_activations():
    """At noise σ the copies correlate by 1/(1+σ²); off the diagonal there is noise of size 1/√n."""
    n, d = 8000, 64
    for noise in (0.0, 0.5, 1.0):
        a, b = synthetic_activations(d, n, False, noise, gen(0))
        together = torch.corrcoef(torch.cat([a, b], 1).T)[:d, d:]
        assert torch.allclose(together.diagonal(), torch.full((d,), 1 / (1 + noise**2)), atol=6 / n**0.5)
        assert float(correlations(a).abs().max()) < 6 / n**0.5
    a, b = synthetic_activations(d, n, True, 0.0, gen(0))
    assert torch.equal(a, b) and float(correlations(a).abs().max()) > 0.2
    assert torch.allclose(a.std(0), torch.ones(d), atol=1e-5)


def test_whitening_decorrelates_and_stays_near():
    x = synthetic_activations(48, 4000, True, 0.1, gen(0))[0] + 100
    w = whiten(x)
    assert w.dtype == torch.float32 and w.shape == x.shape
    covariance = torch.cov(w.double().T, correction=0)
    assert torch.allclose(covariance, torch.eye(48).double(), atol=1e-4)
    assert float(w.mean(0).abs().max()) < 1e-4
    # ZCA: the symmetric choice, so that coordinate i of w goes with coordinate i of x
    cross = torch.corrcoef(torch.cat([x, w], 1).T.double())[:48, 48:]
    assert torch.allclose(cross * x.std(0)[:, None], (cross * x.std(0)[:, None]).T, atol=1e-3)
    assert bool((cross.argmax(1) == torch.arange(48)).all())


def test_whitened_correlated_coordinates_meet_the_ceiling_too():
    a, b = (whiten(x) for x in synthetic_activations(128, 8192, True, 0.05, gen(0)))
    rows = sign_ceiling_rows(a, b, [0.3, 0.7], 0)
    raw = values(rows, matcher="hungarian_raw", metric="index_accuracy")
    assert abs(raw[0] - 0.3) <= 0.05 and abs(raw[1] - 0.7) <= 0.05
    assert min(values(rows, matcher="hungarian_abs", metric="signed_accuracy")) >= 0.99


def test_the_seed_decides():
    a, b = synthetic_activations(32, 500, False, 1.0, generator(0, "x"))
    assert sign_ceiling_rows(a, b, [0.5], 3) == sign_ceiling_rows(a, b, [0.5], 3)


# held-out loss


def test_heldout_loss_is_the_mean_over_tokens(monkeypatch):
    model = tiny_model("llama", gen(0))
    assert chart_of(model).width == 32
    batches = [
        {"input_ids": torch.randint(0, 64, shape, generator=gen(k))}
        for k, shape in enumerate(((2, 5), (3, 9)))
    ]
    total, n = 0.0, 0
    with torch.no_grad():
        for batch in batches:
            for row in batch["input_ids"]:
                logp = model(row[None]).logits[0].double().log_softmax(-1)
                total -= float(sum(logp[t, row[t + 1]] for t in range(len(row) - 1)))
                n += len(row) - 1
    assert heldout_loss(model, batches) == pytest.approx(total / n, rel=1e-5)

    # a batch whose logits need too much memory is run in parts: here two rows of 9 tokens, then one
    rows_run = []
    model.register_forward_pre_hook(
        lambda m, args, kw: rows_run.append(len(kw["input_ids"])), with_kwargs=True
    )
    monkeypatch.setattr(losses, "MOST_LOGITS", 2 * 9 * 64)
    assert heldout_loss(model, batches) == pytest.approx(total / n, rel=1e-5)
    assert rows_run == [2, 2, 1]
