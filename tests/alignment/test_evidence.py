"""Evidence from activations and weights: what it measures, which tokens count, how a gauge changes it."""

import pytest
import torch

from gaugeport.alignment.evidence import (
    activation_evidence,
    both,
    pair_moments,
    weight_evidence,
)
from gaugeport.alignment.matchers import cross_moment
from gaugeport.charts import chart_of, fold_gains
from gaugeport.groups import GlobalSignPermutation, MeanPreservingOrthogonal, Orthogonal, SignedPermutation
from gaugeport.pipeline.measures.gauge_groups import tiny_model
from gaugeport.streams.activations import all_sites
from gaugeport.transport import transport_model
from tiny_models import gen

D = 32


def batch(rows=6, length=10, seed=0):
    return {"input_ids": torch.randint(0, 64, (rows, length), generator=gen(seed))}


def test_layernorm_evidence_ignores_a_constant_added_to_all_coordinates():
    """A constant added to every coordinate of a token changes no logit and must change no evidence."""
    model = tiny_model("gpt_neox", gen(0))
    other = transport_model(model, GlobalSignPermutation.identity(D))
    with torch.no_grad():
        other.gpt_neox.embed_in.weight += 3 * torch.randn(64, 1, generator=gen(1))
    batches = [batch(seed=s) for s in range(3)]
    moments = pair_moments({"a": model, "b": other, "c": model}, [("a", "b"), ("a", "c")], batches)
    for site in all_sites(2):
        changed, plain = (moments["a", n][site].correlation() for n in "bc")
        assert torch.allclose(changed, plain, atol=1e-4)


def test_pairs_share_forward_passes():
    models = {n: tiny_model("llama", gen(k)) for k, n in enumerate("xyz")}
    calls = {n: 0 for n in models}
    for n, m in models.items():
        m.model.register_forward_hook(lambda *_, n=n: calls.__setitem__(n, calls[n] + 1))
    batches = [batch(seed=s) for s in range(4)]
    together = pair_moments(models, [("x", "y"), ("y", "z"), ("x", "z")], batches, ["block1"])
    assert calls == {"x": 4, "y": 4, "z": 4}
    alone = pair_moments(models, [("y", "z")], batches, ["block1"])
    assert torch.equal(together["y", "z"]["block1"].correlation(), alone["y", "z"]["block1"].correlation())
    backwards = pair_moments(models, [("z", "y")], batches, ["block1"])["z", "y"]["block1"].correlation()
    assert torch.allclose(backwards, alone["y", "z"]["block1"].correlation().T, atol=1e-12)


def test_pooling_is_the_mean_over_sites():
    models = {n: tiny_model("llama", gen(k)) for k, n in enumerate("xy")}
    moments = pair_moments(models, [("x", "y")], [batch(20)])["x", "y"]
    sites = all_sites(2)
    wanted = sum(moments[s].correlation() for s in sites) / 3
    assert torch.allclose(activation_evidence(moments, sites), wanted)
    assert torch.equal(activation_evidence(moments, ["block1"]), moments["block1"].correlation())
    assert torch.equal(both(wanted, wanted), 2 * wanted)


@pytest.mark.parametrize("family", ["llama", "gpt_neox", "gpt2"])
@pytest.mark.parametrize("tied", [False, True])
def test_weight_evidence_equals_a_calculation_by_hand(family, tied):
    """C[i, j] = mean over matrices of cos(column i of B, column j of A); a tied embedding counts once."""
    a, b = (tiny_model(family, gen(k), tie_word_embeddings=tied) for k in (0, 1))
    pairs = {n: (p, dict(b.named_parameters())[n]) for n, p in a.named_parameters()}
    terms = []
    for name, rule in chart_of(a).rules.items():
        if rule.role not in ("embed", "unembed", "read", "write"):
            continue
        wa, wb = (w.detach().double().movedim(rule.axes.index("vector"), 1) for w in pairs[name])
        terms.append(
            [[float(wb[:, i] @ wa[:, j] / wb[:, i].norm() / wa[:, j].norm()) for j in (0, 5)] for i in (2, 7)]
        )
    assert len(terms) == {"llama": 2 + 7 * 2, "gpt_neox": 2 + 4 * 2, "gpt2": 2 + 4 * 2}[family] - tied
    c = weight_evidence(a, b)
    assert torch.allclose(c[[2, 7]][:, [0, 5]], torch.tensor(terms, dtype=torch.float64).mean(0), atol=1e-6)
    assert c.dtype == torch.float64 and c.shape == (D, D)
    assert torch.allclose(weight_evidence(a, a).diagonal(), torch.ones(D).double(), atol=1e-6)


@pytest.mark.parametrize("tied", [False, True])
def test_weight_evidence_of_some_tokens_ignores_the_others(tied):
    """The values in rows that do not count have no effect."""
    a, b = (tiny_model("llama", gen(k), tie_word_embeddings=tied) for k in (0, 1))
    seen = torch.tensor([3, 9, 11, 40])
    before, everything = weight_evidence(a, b, seen), weight_evidence(a, b)
    unseen = [i for i in range(64) if i not in seen.tolist()]
    with torch.no_grad():
        for name in ("model.embed_tokens.weight", "lm_head.weight"):
            b.get_parameter(name)[unseen] = 100.0
    assert torch.equal(weight_evidence(a, b, seen), before)
    assert not torch.allclose(weight_evidence(a, b), everything, atol=1e-2)
    assert torch.equal(weight_evidence(a, b, torch.arange(64)), weight_evidence(a, b))


def test_weight_evidence_follows_gauges_of_both_models():
    a, b = (tiny_model("llama", gen(k)) for k in (0, 1))
    h_a, h_b = (SignedPermutation.random(D, gen(k)) for k in (2, 3))
    moved = weight_evidence(transport_model(a, h_a), transport_model(b, h_b))
    assert torch.allclose(moved, h_b.act(h_a.act(weight_evidence(a, b), axis=1), axis=0), atol=1e-6)


@pytest.mark.parametrize("family", ["llama", "gpt_neox"])
def test_cross_moments_follow_rotations_and_cosines_do_not(family):
    """Under rotations Q_A, Q_B the cross moments become Q_B C Q_Aᵀ; cosines do not (negative control)."""
    cls = Orthogonal if family == "llama" else MeanPreservingOrthogonal
    a, b = (fold_gains(tiny_model(family, gen(k))) for k in (0, 1))
    q_a, q_b = (cls.random(D, gen(k)) for k in (2, 3))
    moved_a, moved_b = transport_model(a, q_a), transport_model(b, q_b)

    def turned(c):
        return q_b.matrix @ c @ q_a.matrix.T

    assert torch.allclose(
        weight_evidence(moved_a, moved_b, cross=True), turned(weight_evidence(a, b, cross=True)), atol=1e-6
    )
    assert not torch.allclose(weight_evidence(moved_a, moved_b), turned(weight_evidence(a, b)), atol=1e-2)
    batches = [batch(16, seed=s) for s in range(3)]
    first = pair_moments({"A": a, "B": b}, [("A", "B")], batches)["A", "B"]
    second = pair_moments({"A": moved_a, "B": moved_b}, [("A", "B")], batches)["A", "B"]
    for site in all_sites(2):
        assert torch.allclose(cross_moment(second[site]), turned(cross_moment(first[site])), atol=1e-5)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_folded_copy_of_a_tied_model_is_named_as_folded(family):
    """Folding unties; the reason that is given is the folding, not the tying that follows from it."""
    tied = tiny_model(family, gen(0), tie_word_embeddings=True)
    for a, b, folded, other in ((fold_gains(tied), tied, "A", "B"), (tied, fold_gains(tied), "B", "A")):
        with pytest.raises(
            ValueError, match=f"^{folded} is folded .* and {other} is not.*fold_gains\\({other}\\)"
        ):
            weight_evidence(a, b)
    weight_evidence(fold_gains(tied), fold_gains(tied))
    untied = tiny_model(family, gen(0), tie_word_embeddings=False)
    with pytest.raises(ValueError, match="must both tie their embeddings or neither: A True, B False"):
        weight_evidence(tied, untied)  # negative control: nothing is folded here


@pytest.mark.parametrize("token", [-100, -1, 64])
def test_token_ids_outside_the_vocabulary_are_refused(token):
    """A negative id must not count from the end."""
    a, b = (tiny_model("llama", gen(k)) for k in (0, 1))
    with pytest.raises(ValueError, match=f"token id {token} is not in the model's vocabulary, 0 to 63"):
        weight_evidence(a, b, torch.tensor([3, token]))
    every_other = torch.arange(0, 64, 2)
    mask = torch.arange(64) % 2 == 0
    assert torch.equal(weight_evidence(a, b, every_other), weight_evidence(a, b, mask))
