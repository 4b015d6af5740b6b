"""Evidence from activations and weights: what is recorded where, which tokens count, and how it turns with a gauge."""

import pytest
import torch

from gaugeport.alignment.evidence import (
    activation_evidence,
    both,
    check_tokenizers,
    pair_moments,
    weight_evidence,
)
from gaugeport.alignment.matchers import cross_moment
from gaugeport.charts import chart_of, fold_gains
from gaugeport.groups import GlobalSignPermutation, MeanPreservingOrthogonal, Orthogonal, SignedPermutation
from gaugeport.pipeline.measures.gauge_groups import tiny_model
from gaugeport.streams.activations import all_sites, check_sites, streams_at
from gaugeport.transport import transport_model
from gaugeport.utils.seeds import derive, generator

D = 32


def gen(seed):
    return torch.Generator().manual_seed(seed)


def batch(rows=6, length=10, seed=0):
    return {"input_ids": torch.randint(0, 64, (rows, length), generator=gen(seed))}


def hidden_states(model, inputs):
    with torch.no_grad():
        return model(**inputs, output_hidden_states=True).hidden_states


@pytest.mark.parametrize("family", ["llama", "gpt_neox", "gpt2", "gemma2"])
def test_sites_are_what_enters_and_leaves_the_blocks(family):
    model = tiny_model(family, gen(0))
    chart = chart_of(model)
    found = streams_at(model, chart, batch(), all_sites(2), skip_first=0)
    states = hidden_states(model, batch())
    for site, state in zip(("embed", "block0"), states, strict=False):
        rows = state.flatten(0, 1)
        if chart.norm == "layer":
            rows = rows - rows.mean(1, keepdim=True)
        assert torch.allclose(found[site], rows, atol=1e-5)
    last = found["block1"]
    assert not torch.allclose(last, states[-1].flatten(0, 1), atol=1e-2)  # that one is after the final norm
    with torch.no_grad():
        normed = chart.final_norm(model)(last)
    assert torch.allclose(normed, states[-1].flatten(0, 1), atol=1e-4)


def test_first_tokens_and_padding_are_left_out():
    model = tiny_model("llama", gen(0))
    ids, chart = batch(3, 8)["input_ids"], chart_of(model)
    right = torch.tensor([[1] * 8, [1] * 5 + [0] * 3, [1] * 1 + [0] * 7])
    left = right.flip(1)
    for mask, kept in (
        (None, [range(1, 8)] * 3),
        (right, [range(1, 8), range(1, 5), []]),
        (left, [range(1, 8), range(4, 8), []]),
    ):
        inputs = {"input_ids": ids} if mask is None else {"input_ids": ids, "attention_mask": mask}
        rows = streams_at(model, chart, inputs, ["embed"])["embed"]
        wanted = torch.cat([model.model.embed_tokens(ids[i, list(k)]) for i, k in enumerate(kept) if len(k)])
        assert torch.equal(rows, wanted.detach())
    assert len(streams_at(model, chart, {"input_ids": ids}, ["embed"], skip_first=3)["embed"]) == 3 * 5
    assert len(streams_at(model, chart, {"input_ids": ids}, ["embed"], skip_first=0)["embed"]) == 3 * 8


@pytest.mark.parametrize("family", ["llama", "gpt_neox"])
def test_streams_turn_with_the_model(family):
    model = tiny_model(family, gen(0))
    g = (SignedPermutation if family == "llama" else GlobalSignPermutation).random(D, gen(1))
    moved, chart = transport_model(model, g), chart_of(model)
    a, b = (streams_at(m, chart, batch(), all_sites(2)) for m in (model, moved))
    for site in a:
        assert torch.allclose(b[site], g.act(a[site]), atol=1e-4)


def test_the_mean_over_coordinates_is_projected_out_on_layernorm_only():
    neox, llama = (tiny_model(f, gen(0)) for f in ("gpt_neox", "llama"))
    assert float(streams_at(neox, chart_of(neox), batch(), ["block0"])["block0"].mean(1).abs().max()) < 1e-6
    assert float(streams_at(llama, chart_of(llama), batch(), ["block0"])["block0"].mean(1).abs().max()) > 1e-2


def test_layernorm_evidence_does_not_see_what_is_added_along_ones():
    """Writing a constant to every coordinate of each token changes no logit, and must change no evidence."""
    model = tiny_model("gpt_neox", gen(0))
    other = transport_model(model, GlobalSignPermutation.identity(D))
    with torch.no_grad():
        other.gpt_neox.embed_in.weight += 3 * torch.randn(64, 1, generator=gen(1))
    batches = [batch(seed=s) for s in range(3)]
    moments = pair_moments({"a": model, "b": other, "c": model}, [("a", "b"), ("a", "c")], batches)
    for site in all_sites(2):
        changed, plain = (moments["a", n][site].correlation() for n in "bc")
        assert torch.allclose(changed, plain, atol=1e-4)


def test_pairs_share_their_forward_passes():
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
def test_weight_evidence_by_hand(family, tied):
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
def test_weight_evidence_of_some_tokens(tied):
    """Rows that do not count may hold anything."""
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


def test_weight_evidence_turns_with_both_models():
    a, b = (tiny_model("llama", gen(k)) for k in (0, 1))
    h_a, h_b = (SignedPermutation.random(D, gen(k)) for k in (2, 3))
    moved = weight_evidence(transport_model(a, h_a), transport_model(b, h_b))
    assert torch.allclose(moved, h_b.act(h_a.act(weight_evidence(a, b), axis=1), axis=0), atol=1e-6)


@pytest.mark.parametrize("family", ["llama", "gpt_neox"])
def test_cross_evidence_rotates_along(family):
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


def test_a_model_in_training_is_measured_without_dropout():
    model = tiny_model("gpt2", gen(0), resid_pdrop=0.5, embd_pdrop=0.5)
    chart = chart_of(model)
    quiet = streams_at(model, chart, batch(), ["block1"])["block1"]
    model.train()
    model.transformer.h[0].eval()
    assert torch.equal(streams_at(model, chart, batch(), ["block1"])["block1"], quiet)
    assert model.training and model.transformer.h[1].training and not model.transformer.h[0].training


def test_check_sites():
    assert all_sites(2) == ["embed", "block0", "block1"]
    assert check_sites("all", 2) == all_sites(2) and check_sites("block1", 2) == ["block1"]
    assert check_sites(("block1", "embed"), 2) == ["block1", "embed"]
    with pytest.raises(ValueError, match=r"unknown site \['block2'\]; allowed: all, embed, block0, block1"):
        check_sites(["embed", "block2"], 2)


def test_tokenizers_are_compared_string_by_string():
    class Tokenizer:
        def __init__(self, vocabulary):
            self.get_vocab = lambda: vocabulary

    check_tokenizers(Tokenizer({"a": 0, "b": 1}), Tokenizer({"b": 1, "a": 0}))
    with pytest.raises(ValueError, match=r"1 entries differ, the first \['c'\]"):
        check_tokenizers(Tokenizer({"a": 0}), Tokenizer({"a": 0, "c": 1}))


def test_seeds_are_derived_from_what_they_are_for():
    assert derive(0, "run", "A") == derive(0, "run", "A")
    others = {
        derive(s, *p)
        for s in range(20)
        for p in ((), ("run",), ("run", "A"), ("run", "B"), ("A", "run"), (0.1,), (1,))
    }
    assert len(others) == 20 * 7 and all(0 <= s < 2**31 for s in others)
    state = torch.get_rng_state()
    draws = [torch.rand(3, generator=generator(4, "plant", "A", 100)) for _ in range(2)]
    assert torch.equal(*draws) and torch.equal(torch.get_rng_state(), state)
