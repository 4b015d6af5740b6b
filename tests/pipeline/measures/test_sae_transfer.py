"""SAE transfer: known answers, planted models, plants, and splicing."""

from statistics import fmean, stdev

import pytest
import torch
from sae_lens import StandardSAE, StandardSAEConfig, TopKSAE, TopKSAEConfig

from gaugeport.charts import chart_of
from gaugeport.groups import Orthogonal, SignedPermutation, compose
from gaugeport.pipeline.measures.gauge_groups import tiny_model
from gaugeport.pipeline.measures.losses import heldout_loss
from gaugeport.pipeline.measures.sae_transfer import (
    counted_tokens,
    cross_entropy_rows,
    nmse,
    reconstruct,
    record_stream,
    sae_transfer_rows,
)
from gaugeport.streams.interventions import edited
from gaugeport.texts import row_batches
from gaugeport.transport import transport_model
from gaugeport.transport.sae import transport_sae

D, N = 32, 96


def gen(seed):
    return torch.Generator().manual_seed(seed)


def tokens(n=12, length=10, seed=0):
    return torch.randint(3, 64, (n, length), generator=gen(seed))


def top_k(seed=0, dtype="float32", k=6):
    """A TopK SAE with every parameter random, decoder rows near the encoder's columns."""
    sae = TopKSAE(TopKSAEConfig(d_in=D, d_sae=N, k=k, dtype=dtype))
    with torch.no_grad():
        for p in sae.parameters():
            p.copy_(torch.randn(p.shape, generator=gen(seed), dtype=torch.float64) / D**0.5)
        sae.W_enc.copy_(sae.W_dec.T)
    return sae.eval()


def exact():
    """A standard SAE that reconstructs anything exactly: latents relu(x) and relu(−x)."""
    sae = StandardSAE(StandardSAEConfig(d_in=D, d_sae=2 * D))
    eye = torch.eye(D)
    with torch.no_grad():
        sae.W_enc.copy_(torch.cat([eye, -eye], 1))
        sae.W_dec.copy_(torch.cat([eye, -eye]))
    return sae.eval()


def silent(bias):
    """A standard SAE none of whose latents ever fires: it writes ``bias``."""
    sae = StandardSAE(StandardSAEConfig(d_in=D, d_sae=N))
    with torch.no_grad():
        sae.b_enc.fill_(-1e9)
        sae.b_dec.copy_(bias)
    return sae.eval()


def stream(seed=0, n=40, length=10, mean=0.7, dtype=torch.float32):
    return torch.randn(n, length, D, generator=gen(seed), dtype=dtype) + mean * torch.arange(D).remainder(3)


def signs(seed):
    return SignedPermutation(
        torch.arange(D), torch.where(torch.rand(D, generator=gen(seed)) < 0.5, -1, 1).to(torch.int8)
    )


def values(rows):
    return {r["metric"]: r["value"] for r in rows}


def test_nmse_of_known_guesses():
    x = stream(dtype=torch.float64)
    mean = x.mean((0, 1))
    assert nmse(x, x) == 0
    assert nmse(x, mean.expand_as(x)) == pytest.approx(1, abs=1e-12)
    assert nmse(x - mean, mean - x) == pytest.approx(4, abs=1e-12)
    with pytest.raises(ValueError, match="all 400 tokens are equal"):
        nmse(torch.ones(40, 10, D), x)


def test_the_perfect_gauge_costs_nothing_and_a_wrong_one_does():
    x, sae = stream(), top_k()
    none = values(sae_transfer_rows(sae, [SignedPermutation.identity(D)], x, x))
    assert none["nmse"] == none["nmse_native"] == nmse(x[:, 1:], reconstruct(sae, x)[0][:, 1:])
    assert none["nmse_excess"] == none["nmse_to_oracle"] == 0
    wrong = values(sae_transfer_rows(sae, [SignedPermutation.random(D, gen(5))], x, x))
    assert wrong["nmse_to_oracle"] > 0.1 and wrong["nmse_native"] == none["nmse_native"]
    drifted = x + 0.3 * torch.randn(x.shape, generator=gen(9))
    moved = values(sae_transfer_rows(sae, [SignedPermutation.identity(D)], x, drifted))
    assert moved["nmse_excess"] == moved["nmse"] - none["nmse_native"] != 0 and moved["nmse_to_oracle"] == 0


def test_first_tokens_are_left_out_and_reported():
    """A massive first token that the SAE reconstructs lowers the error that includes first tokens."""
    x, sae = stream(mean=0.0), exact()
    sae.W_dec.data *= 0.5  # half of everything: NMSE about ¼ + ¼‖mean‖²/variance
    small = values(sae_transfer_rows(sae, [SignedPermutation.identity(D)], x, x))
    x[:, 0] *= 0
    x[:, 0, 0] = 1e4
    large = values(sae_transfer_rows(sae, [SignedPermutation.identity(D)], x, x))
    assert large["nmse"] == small["nmse"]
    flat = x.flatten(0, 1).double()
    assert large["nmse_first_token"] == pytest.approx(
        float((flat**2).sum() / 4 / ((flat - flat.mean(0)) ** 2).sum()), rel=1e-6
    )
    everything = sae_transfer_rows(sae, [SignedPermutation.identity(D)], x, x, skip_first=0, massive="keep")
    assert values(everything)["nmse"] == large["nmse_first_token"]


def test_sparsity_counts_tokens_beyond_the_first():
    x = torch.zeros(5, 4, D)
    x[:, :, 0] = 1.0
    x[0, 1, 1] = x[:, 0, 2] = 2.0  # coordinate 2 only in first tokens
    beyond = counted_tokens(x, skip_first=1, massive="leave_out")
    _, l0, dead = reconstruct(exact(), x, beyond)
    assert l0 == pytest.approx(1 + 1 / 15) and dead == (2 * D - 2) / (2 * D)
    assert reconstruct(exact(), x)[2] == (2 * D - 3) / (2 * D)


def test_random_signs_over_silent_latents_average_to_the_reference():
    """It is only a reference: an SAE that reconstructs everything has no error under any gauge."""
    x = stream()
    sae = silent(x.mean((0, 1)))
    with torch.no_grad():  # one latent fires weakly, or reconstructions would have no variance
        sae.b_enc[0] = 0
        sae.W_dec[0] *= 1e-6
    drawn = torch.where(torch.rand(400, D, generator=gen(1)) < 0.5, -1, 1).to(torch.int8)
    plants = [SignedPermutation(torch.arange(D), s) for s in drawn]
    found = values(sae_transfer_rows(sae, plants, x, x))
    error = found["nmse_plants_sd"] / len(plants) ** 0.5
    assert abs(found["nmse"] - found["nmse_silent"]) < 5 * error
    native = values(sae_transfer_rows(sae, [SignedPermutation.identity(D)], x, x))
    assert abs(native["nmse"] - native["nmse_silent"]) > 10 * error
    everything = values(sae_transfer_rows(exact(), plants[:5], x, x))
    assert everything["nmse"] == 0 and everything["nmse_silent"] > 1


def test_plants_are_averaged_within_the_job():
    x, sae, plants = stream(), top_k(), [SignedPermutation.random(D, gen(i)) for i in range(3)]
    rows = list(sae_transfer_rows(sae, plants, x, x))
    each = [values(sae_transfer_rows(sae, [g], x, x)) for g in plants]
    assert len({r["metric"] for r in rows}) == len(rows)
    for metric in ("nmse", "nmse_to_oracle", "dead_latents"):
        singles = [e[metric] for e in each]
        assert values(rows)[metric] == fmean(singles) and values(rows)[f"{metric}_plants_sd"] == stdev(
            singles
        )
    assert not any(m.endswith("_plants_sd") for m in each[0])


def test_moving_between_planted_models_equals_moving_by_the_residual():
    """With sign plants on A and B and a wrong gauge between them, all numbers are equal, losses too."""
    a, rows, sae = tiny_model("llama", gen(0)), tokens(), top_k()
    q_a, q_b, wrong = signs(1), signs(2), signs(3)
    planted = transport_model(a, q_b)
    truth = compose(q_b, q_a.inverse())
    batches = list(row_batches(rows, 4))
    for gauge in (truth, compose(wrong, truth)):
        residual = compose(q_b.inverse(), compose(gauge, q_a))
        assert (residual == SignedPermutation.identity(D)) == (gauge == truth)
        x = record_stream(a, chart_of(a), rows, "block1", 4)
        by_residual = values(sae_transfer_rows(sae, [residual], x, x))
        by_residual |= values(
            cross_entropy_rows(a, chart_of(a), "block1", transport_sae(sae, residual), batches)
        )
        moved = transport_sae(transport_sae(sae, q_a), gauge)
        y = record_stream(planted, chart_of(planted), rows, "block1", 4)
        assert torch.equal(y, q_b.act(x))
        guess, l0, dead = reconstruct(moved, y, counted_tokens(y, skip_first=1, massive="leave_out"))
        directly = {"nmse": nmse(y[:, 1:], guess[:, 1:]), "nmse_first_token": nmse(y, guess), "l0": l0}
        directly |= {"dead_latents": dead}
        directly |= values(cross_entropy_rows(planted, chart_of(planted), "block1", moved, batches))
        assert directly == {m: by_residual[m] for m in directly} and "ce_spliced" in directly


@pytest.mark.parametrize("group", [SignedPermutation, Orthogonal])
def test_moving_by_the_residual_in_float64(group):
    """For any plants of the group, float64 sums in another order differ by 1e-10 at most."""
    x, sae = stream(dtype=torch.float64), top_k(dtype="float64")
    q_a, q_b, gauge = (group.random(D, gen(i)) for i in range(3))
    residual = compose(q_b.inverse(), compose(gauge, q_a))
    by_residual = values(sae_transfer_rows(sae, [residual], x, x))
    y = q_b.act(x)
    beyond = counted_tokens(y, skip_first=1, massive="leave_out")
    guess, l0, dead = reconstruct(transport_sae(transport_sae(sae, q_a), gauge), y, beyond)
    assert nmse(y[:, 1:], guess[:, 1:]) == pytest.approx(by_residual["nmse"], rel=1e-10)
    oracle = reconstruct(transport_sae(sae, q_b), y)[0]
    assert nmse(oracle[:, 1:], guess[:, 1:]) == pytest.approx(by_residual["nmse_to_oracle"], rel=1e-10)
    assert (l0, dead) == (by_residual["l0"], by_residual["dead_latents"])
    assert by_residual["nmse_to_oracle"] > 0.1


@pytest.mark.parametrize("family", ["llama", "gpt_neox"])
def test_loss_recovered_by_perfect_and_by_silent_saes(family):
    model = tiny_model(family, gen(0)).double()
    rows = tokens()[:, :2]
    # rows that the model continues greedily, so that removing anything raises its loss
    while rows.shape[1] < 8:
        rows = torch.cat([rows, model(input_ids=rows).logits[:, -1:].argmax(-1)], dim=1)
    chart, batches = chart_of(model), list(row_batches(rows, 4))

    def recovered(sae, skip_first=1):
        return values(cross_entropy_rows(model, chart, "block0", sae.to(torch.float64), batches, skip_first))

    # LayerNorm models: the SAE never sees the component along 1, and nothing reads it
    everything = recovered(exact())
    assert everything["ce_ablated"] > everything["ce_clean"]
    assert everything["ce_recovered"] == pytest.approx(1, abs=1e-10)
    assert everything["ce_spliced"] == pytest.approx(everything["ce_clean"], abs=1e-10)
    nothing = recovered(silent(torch.zeros(D)))
    assert nothing["ce_spliced"] == nothing["ce_ablated"] != nothing["ce_clean"]
    assert nothing["ce_recovered"] == 0
    untouched = recovered(silent(torch.zeros(D)), skip_first=10)
    assert untouched["ce_spliced"] == untouched["ce_clean"] and "ce_recovered" not in untouched


@pytest.mark.parametrize("skip_first", [0, 1])
def test_massive_tokens_leave_every_metric_that_of_the_others(skip_first):
    """One massive token in mid-row and two at the start of rows."""
    x, sae, g = stream(), top_k(), SignedPermutation.random(D, gen(5))
    for place in ((3, 5), (0, 0), (7, 0)):
        x[place] *= 1000
    beyond = x[:, skip_first:].flatten(0, 1)
    clean = beyond[beyond.norm(dim=1) < 1000][None]
    expected = values(sae_transfer_rows(sae, [g], clean, clean, skip_first=0))
    found = values(sae_transfer_rows(sae, [g], x, x, skip_first))
    for metric in (
        "nmse",
        "nmse_native",
        "nmse_excess",
        "nmse_to_oracle",
        "nmse_silent",
        "l0",
        "dead_latents",
    ):
        assert found[metric] == pytest.approx(expected[metric], rel=1e-5), metric
    assert found["massive_in_nmse"] == (1 if skip_first else 3)
    assert "massive_in_nmse" not in expected and "nmse_massive" not in expected
    kept = values(sae_transfer_rows(sae, [g], x, x, skip_first, massive="keep"))
    assert kept["nmse"] == found["nmse_massive"] != pytest.approx(found["nmse"], rel=0.1)
    assert kept["nmse_first_token"] == found["nmse_first_token"]
    drifted = x + 0.3 * stream(1)
    drifted[4, 4] *= 1000
    assert values(sae_transfer_rows(sae, [g], x, drifted))["massive_in_nmse"] == 2, "massive in A or B"


def test_massive_tokens_keep_their_stream_where_an_sae_is_spliced_in():
    model, rows = tiny_model("llama", gen(0)), tokens()
    rows.clamp_(max=60)[3, 5] = 63
    with torch.no_grad():
        model.model.embed_tokens.weight[63] *= 1000
    loud, chart = rows == 63, chart_of(model)

    def spliced(x):
        return torch.where(loud[..., None] | (torch.arange(10) < 1)[:, None], x, 0.0)

    with edited(model, chart, "block0", spliced):
        expected = heldout_loss(model, [{"input_ids": rows}])
    zero, batches = silent(torch.zeros(D)), [{"input_ids": rows}]
    found, kept = (
        values(cross_entropy_rows(model, chart, "block0", zero, batches, massive=m))["ce_spliced"]
        for m in ("leave_out", "keep")
    )
    assert found == expected and abs(kept - expected) > 1e-3
