"""Test that neuron and head gauges keep the function, and that matching recovers planted ones exactly."""

import copy

import pytest
import torch

from gaugeport.charts import chart_of
from gaugeport.charts.logit_change import logits_of, norms_in_float64, random_tokens, relative_change
from gaugeport.groups import GlobalSignPermutation, Permutation, SignedPermutation
from gaugeport.pipeline.measures.gauge_groups import MODEL_TYPES, tiny_model
from gaugeport.transport import transport_model
from gaugeport.transport.heads import HeadGauge, match_heads
from gaugeport.transport.indices import transport_indices
from gaugeport.transport.neurons import NeuronGauge, match_neurons

GATED = [t for t in MODEL_TYPES if t not in ("gpt_neox", "gpt2")]
families = pytest.mark.parametrize("family", MODEL_TYPES)
BIASES = {"llama": {"attention_bias": True, "mlp_bias": True}}


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def tiny(family, seed=0, **config):
    return tiny_model(family, generator(seed), **BIASES.get(family, {}) | config)


def change(a, b, tokens):
    with norms_in_float64(a), norms_in_float64(b):
        return relative_change(logits_of(a, tokens), logits_of(b, tokens))


def moved_parameters(a, b):
    return {
        n for (n, p), q in zip(a.named_parameters(), b.parameters(), strict=True) if not torch.equal(p, q)
    }


def nearby(model, size, seed=9):
    """Return a copy with noise of ``size`` times each parameter's spread, as if trained a little further."""
    other, noise = copy.deepcopy(model), generator(seed)
    with torch.no_grad():
        for p in other.parameters():
            p.add_(size * p.std().nan_to_num() * torch.randn(p.shape, generator=noise, dtype=p.dtype))
    return other


def average(a, b):
    mean = copy.deepcopy(a)
    with torch.no_grad():
        for p, q in zip(mean.parameters(), b.parameters(), strict=True):
            p.lerp_(q, 0.5)
    return mean


@families
def test_random_neuron_gauges_keep_the_function(family):
    model = tiny(family).double()
    g, tokens = NeuronGauge.random(model, generator(1)), random_tokens(model, generator())
    moved = g.apply(model)
    assert moved is not model
    assert change(model, moved, tokens) <= 1e-12
    moved_names = {n.split(".mlp.")[1] for n in moved_parameters(model, moved)}
    all_names = {n.split(".mlp.")[1] for n, _ in model.named_parameters() if ".mlp." in n}
    has_output_bias = family in (
        "gpt_neox",
        "gpt2",
        "llama",
    )  # it is written to the stream, without a neuron axis
    assert len(moved_names) == len(all_names) - has_output_bias


@families
def test_random_head_gauges_keep_the_function(family):
    model = tiny(family).double()
    g, tokens = HeadGauge.random(model, generator(1)), random_tokens(model, generator())
    moved = g.apply(model)
    assert change(model, moved, tokens) <= 1e-12
    assert moved_parameters(model, moved)
    assert all("attn" in n or "attention" in n for n in moved_parameters(model, moved))


@families
def test_neuron_head_and_residual_gauges_commute(family):
    """The three act on different axes, so neurons and heads are invariant under the residual gauge."""
    model = tiny(family)
    cls = GlobalSignPermutation if chart_of(model).norm == "layer" else SignedPermutation
    g = cls.random(32, generator(3))
    neurons, heads = NeuronGauge.random(model, generator(1)), HeadGauge.random(model, generator(2))
    one = transport_model(heads.apply(neurons.apply(model)), g)
    other = neurons.apply(heads.apply(transport_model(model, g)))
    assert not moved_parameters(one, other)


@families
def test_inverse_composition_and_identity(family):
    model = tiny(family)
    for cls in (NeuronGauge, HeadGauge):
        g, h = cls.random(model, generator(1)), cls.random(model, generator(2))
        assert not moved_parameters(model, g.inverse().apply(g.apply(model)))
        assert not moved_parameters(g.after(h).apply(model), g.apply(h.apply(model)))
        assert moved_parameters(g.after(h).apply(model), h.apply(g.apply(model)))  # control: order matters
        assert g.inverse().after(g) == cls.identity(model)
        assert not moved_parameters(model, cls.identity(model).apply(model))


@families
@pytest.mark.parametrize("size", [0.0, 0.1])
def test_planted_gauges_are_recovered_exactly(family, size):
    """B is A or a perturbed A, moved; no planted gauge is the identity, so none is right by default."""
    model = tiny(family)
    neurons, heads = NeuronGauge.random(model, generator(1)), HeadGauge.random(model, generator(2))
    other = neurons.apply(heads.apply(nearby(model, size)))
    assert match_neurons(model, other) == neurons != NeuronGauge.identity(model)
    assert match_heads(model, other) == heads != HeadGauge.identity(model)


def test_matching_needs_shared_residual_coordinates():
    """Control: a residual gauge between the models hides the match until it is undone."""
    model = tiny("llama")
    g, neurons = SignedPermutation.random(32, generator(3)), NeuronGauge.random(model, generator(1))
    other = transport_model(neurons.apply(model), g)
    wrong = match_neurons(model, other).blocks[0].perm
    assert float((wrong == neurons.blocks[0].perm).double().mean()) < 0.5
    assert match_neurons(transport_model(model, g), other) == neurons


@pytest.mark.parametrize("family", GATED)
def test_averages_need_the_joint_sign(family):
    """Either sign keeps the function, but a neuron averaged with its reversed partner cancels."""
    model = tiny(family).double()
    other = NeuronGauge.random(model, generator(1)).apply(model)
    gauge, tokens = match_neurons(other, model), random_tokens(model, generator())
    unsigned = NeuronGauge(tuple(b.without_signs() for b in gauge.blocks))
    assert change(model, average(model, gauge.apply(other)), tokens) <= 1e-12
    assert change(model, unsigned.apply(other), tokens) <= 1e-12
    assert change(model, average(model, unsigned.apply(other)), tokens) > 1e-1
    assert change(model, average(model, other), tokens) > 1e-1


@pytest.mark.parametrize("family", GATED)
@pytest.mark.parametrize("which", ["up", "gate"])
def test_changing_the_sign_of_one_matrix_only_changes_the_function(family, which):
    model = tiny(family).double()
    tokens, broken = random_tokens(model, generator()), copy.deepcopy(model)
    signs = NeuronGauge.random(model, generator(1)).blocks[0].sign.double()[:, None]
    with torch.no_grad():
        for name, p in broken.named_parameters():
            if "gate_up_proj" in name:
                half = p.chunk(2)[0 if which == "gate" else 1]
                half.mul_(signs)
            elif f"{which}_proj.weight" in name:
                p.mul_(signs)
    assert change(model, broken, tokens) > 1e-1
    if which == "up":  # changing the sign of down as well restores the function
        with torch.no_grad():
            for name, p in broken.named_parameters():
                if "down_proj.weight" in name:
                    p.mul_(signs.T)
                elif "up_proj.bias" in name:
                    p.mul_(signs[:, 0])
        assert change(model, broken, tokens) <= 1e-12


@pytest.mark.parametrize("family", ["gpt_neox", "gpt2"])
def test_plain_mlps_refuse_signs(family):
    model = tiny(family)
    assert all(type(b) is Permutation for b in NeuronGauge.random(model, generator(1)).blocks)
    signed = NeuronGauge(tuple(SignedPermutation.random(48, generator(1)) for _ in range(2)))
    with pytest.raises(ValueError, match=f"{family} .*no gate.*allowed: permutations"):
        signed.apply(model)


def test_separated_groups_are_refused_and_would_change_the_function():
    with pytest.raises(ValueError, match=r"block 0: .*\[0, 2, 1, 3\] .*groups of 2"):
        HeadGauge((Permutation(torch.tensor([0, 2, 1, 3])),), groups=2)
    with pytest.raises(ValueError, match=r"3 query heads .*groups of 2"):
        HeadGauge((Permutation.identity(3),), groups=2)
    model = tiny("llama").double()
    broken, order = copy.deepcopy(model), Permutation(torch.tensor([0, 2, 1, 3]))
    rows = (order.perm[:, None] * 8 + torch.arange(8)).flatten()
    with torch.no_grad():
        for block in broken.model.layers:
            block.self_attn.q_proj.weight.copy_(block.self_attn.q_proj.weight[rows])
            block.self_attn.q_proj.bias.copy_(block.self_attn.q_proj.bias[rows])
            block.self_attn.o_proj.weight.copy_(block.self_attn.o_proj.weight[:, rows])
    assert change(model, broken, random_tokens(model, generator())) > 1e-1


def test_random_head_gauges_move_groups_and_their_members():
    model = tiny("llama", num_attention_heads=8, num_key_value_heads=4, head_dim=4)
    drawn = [HeadGauge.random(model, generator(s)) for s in range(20)]
    assert {g.groups for g in drawn} == {2}
    assert len({tuple(g.key_values(0).perm.tolist()) for g in drawn}) > 5
    assert len({tuple((g.blocks[0].perm % 2).tolist()) for g in drawn}) > 5


@pytest.mark.parametrize(
    "config", [{"num_key_value_heads": 1}, {"num_key_value_heads": 4}, {"num_hidden_layers": 3}]
)
def test_other_groupings_and_depths_are_matched(config):
    model = tiny("qwen2", **config).double()
    heads, neurons = HeadGauge.random(model, generator(1)), NeuronGauge.random(model, generator(1))
    other = neurons.apply(heads.apply(model))
    assert change(model, other, random_tokens(model, generator())) <= 1e-12
    assert (match_heads(model, other), match_neurons(model, other)) == (heads, neurons)


def test_apply_keeps_memory_dtype_ties_and_flags():
    model = tiny("qwen2", tie_word_embeddings=True).bfloat16()
    model.model.norm.weight.requires_grad_(False)
    pointers, g = [p.data_ptr() for p in model.parameters()], NeuronGauge.random(model, generator(1))
    copied = g.apply(model)
    assert copied.lm_head.weight is copied.model.embed_tokens.weight
    assert [p.requires_grad for p in copied.parameters()] == [p.requires_grad for p in model.parameters()]
    model(torch.arange(5)[None], labels=torch.arange(5)[None]).loss.backward()
    assert g.apply(model, inplace=True) is model
    assert [p.data_ptr() for p in model.parameters()] == pointers
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert all(p.grad is None for p in model.parameters())
    assert not moved_parameters(model, copied)


def test_neuron_lists_follow_the_gauge_of_their_block():
    """The moved list names the most active neurons of the moved model."""
    model = tiny("llama")
    g, tokens = NeuronGauge.random(model, generator(1)), random_tokens(model, generator())

    def most_active(m):
        inputs = []
        handle = m.model.layers[1].mlp.down_proj.register_forward_pre_hook(lambda _, x: inputs.append(x[0]))
        logits_of(m, tokens)
        handle.remove()
        return inputs[0].flatten(0, 1).abs().mean(0).topk(5).indices

    before, after = most_active(model), most_active(g.apply(model))
    assert torch.equal(transport_indices(before, g.blocks[1]).index, after)
    assert not torch.equal(before, after)


def test_models_that_do_not_fit_are_refused():
    model = tiny("llama")
    neurons, heads = NeuronGauge.random(model, generator(1)), HeadGauge.random(model, generator(1))
    with pytest.raises(ValueError, match=r"gauge has \[48, 48\], the model \[40, 40\]"):
        neurons.apply(tiny("llama", intermediate_size=40))
    with pytest.raises(ValueError, match=r"gauge has \[48, 48\], the model \[48\]"):
        neurons.apply(tiny("llama", num_hidden_layers=1))
    with pytest.raises(ValueError, match=r"groups of 2; the model has \[4, 4\], in groups of 1"):
        heads.apply(tiny("llama", num_key_value_heads=4))
    with pytest.raises(ValueError, match=r"shape \(48, 32\) in A and \(40, 32\) in B"):
        match_neurons(model, tiny("llama", intermediate_size=40))
    with pytest.raises(ValueError, match=r"query and key/value heads: .*\(4, 2\), .*\(4, 1\)"):
        match_heads(model, tiny("llama", num_key_value_heads=1))
    with pytest.raises(ValueError, match="same number of blocks"):
        match_heads(model, tiny("llama", num_hidden_layers=1))
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight[0, 0] = torch.nan
    with pytest.raises(ValueError, match="finite values only"):
        match_neurons(model, tiny("llama"))
