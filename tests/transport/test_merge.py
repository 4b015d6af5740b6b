"""Test merges against weighted sums, at their fixed points, and back in each model's coordinates."""

import copy

import pytest
import torch

from gaugeport.charts import chart_of, fold_gains
from gaugeport.charts.logit_change import logits_of, norms_in_float64, random_tokens, relative_change
from gaugeport.groups import AffineGauge, GlobalSignPermutation, Orthogonal, Permutation, SignedPermutation
from gaugeport.pipeline.measures.gauge_groups import MODEL_TYPES, tiny_model
from gaugeport.transport import transport_model
from gaugeport.transport.merge import merge

D = 32
families = pytest.mark.parametrize("family", MODEL_TYPES)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def tiny(family, seed=0, **config):
    return tiny_model(family, generator(seed), **config)


def signed(model, seed=1):
    cls = GlobalSignPermutation if chart_of(model).norm == "layer" else SignedPermutation
    return cls.random(D, generator(seed))


def equal(a, b):
    return all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))


def change(a, b, tokens):
    with norms_in_float64(a), norms_in_float64(b):
        return relative_change(logits_of(a, tokens), logits_of(b, tokens))


def weighted_sum(models, weights):
    """Return the weighted sums of parameters, in float64 and by name."""
    return {
        name: sum(w * dict(m.named_parameters())[name].double() for w, m in zip(weights, models, strict=True))
        for name, _ in models[0].named_parameters()
    }


def perturbed(model, seed, size=0.1):
    other, noise = copy.deepcopy(model), generator(seed)
    with torch.no_grad():
        for p in other.parameters():
            p.add_(size * torch.randn(p.shape, generator=noise).to(p.dtype))
    return other


@pytest.mark.parametrize("family", ["llama", "gpt_neox"])
def test_folded_and_unfolded_models_are_not_merged(family):
    model = tiny(family, tie_word_embeddings=False)
    folded = fold_gains(model)
    for models in ([model, folded], [folded, model]):
        with pytest.raises(ValueError, match="fold both or neither"):
            merge(models, [None, None])
    with pytest.raises(ValueError, match="fold both or neither"):
        merge([model], [None], method="task_arithmetic", base=folded)
    assert equal(merge([folded, folded], [None, None]).model, folded)
    merge([model, folded], [None, None], strict=False)


def test_irrelevant_config_entries_do_not_prevent_a_merge():
    model = tiny("llama")
    other = copy.deepcopy(model)
    other.config.unsloth_version, other.config.task_specific_params = "2025.1", {"a": 1}
    assert equal(merge([model, other], [None, None]).model, model)
    other.config.rms_norm_eps = 1e-3
    with pytest.raises(ValueError, match=r"different configs.*rms_norm_eps"):
        merge([model, other], [None, None])


@families
def test_a_model_merged_with_moved_copies_of_itself_is_itself(family):
    model = tiny(family)
    g, h = signed(model, 1), signed(model, 2)
    models = [model, transport_model(model, g), transport_model(model, h)]
    gauges = [None, g.inverse(), h.inverse()]
    merged = merge(models, gauges)
    assert equal(merged.model, model)
    assert equal(merged.in_coordinates_of(0), model)
    assert equal(merged.in_coordinates_of(1), models[1])
    assert equal(merged.in_coordinates_of(2), models[2])
    assert merged.gauges == tuple(gauges)
    tokens = random_tokens(model, generator())
    unaligned = merge(models, [None, None, None]).model  # control
    assert relative_change(logits_of(model, tokens), logits_of(unaligned, tokens)) > 1e-1


def test_dropping_the_signs_changes_the_merge():
    """Control: without signs every coordinate moves to its place, and about half of them cancel."""
    model = tiny("llama")
    g, tokens = signed(model), random_tokens(model, generator())
    models = [model, transport_model(model, g)]
    dropped = merge(models, [None, g.inverse().without_signs()]).model
    assert relative_change(logits_of(model, tokens), logits_of(dropped, tokens)) > 1e-1


@families
def test_averages_are_weighted_sums_in_the_first_models_coordinates(family):
    model = tiny(family).double()
    a, b, c = model, perturbed(model, 1), perturbed(model, 2)
    g, h = signed(model, 1), signed(model, 2)
    weights = [0.5, 0.2, 0.3]
    merged = merge(
        [a, transport_model(b, g), transport_model(c, h)], [None, g.inverse(), h.inverse()], weights
    )
    expected = weighted_sum([a, b, c], weights)
    for name, p in merged.model.named_parameters():
        torch.testing.assert_close(p.detach(), expected[name], rtol=0, atol=1e-14)
    there = transport_model(merged.model, h)
    assert equal(merged.in_coordinates_of(2), there)
    assert change(merged.model, there, random_tokens(model, generator())) <= 1e-12


@families
def test_task_arithmetic_is_the_weighted_sum_of_differences(family):
    """The base has a gauge of its own."""
    base = tiny(family).double()
    a, b = perturbed(base, 1), perturbed(base, 2)
    g, h = signed(base, 1), signed(base, 2)
    merged = merge(
        [a, transport_model(b, g)],
        [None, g.inverse()],
        weights=[1, 0.5],
        method="task_arithmetic",
        base=transport_model(base, h),
        scaling=0.4,
        base_gauge=h.inverse(),
    )
    expected = weighted_sum([base, a, b], [1 - 0.4 - 0.2, 0.4, 0.2])
    for name, p in merged.model.named_parameters():
        torch.testing.assert_close(p.detach(), expected[name], rtol=0, atol=1e-13)
    nothing = merge([a, b], [None, None], method="task_arithmetic", base=base, scaling=0.0)
    assert equal(nothing.model, base)
    one = merge([a], [None], method="task_arithmetic", base=base).model
    torch.testing.assert_close(dict(one.named_parameters()), dict(a.named_parameters()), rtol=0, atol=1e-14)


def test_weights_trace_a_line_through_both_models():
    a = tiny("llama").double()
    b = perturbed(a, 1)
    assert equal(merge([a, b], [None, None], [1, 0]).model, a)
    end = merge([a, b], [None, None], [0, 1]).model
    torch.testing.assert_close(dict(end.named_parameters()), dict(b.named_parameters()), rtol=0, atol=1e-15)
    beyond = merge([a, b], [None, None], [-0.5, 1.5]).model
    expected = weighted_sum([a, b], [-0.5, 1.5])
    torch.testing.assert_close(
        {n: p.detach() for n, p in beyond.named_parameters()}, expected, rtol=0, atol=1e-14
    )


def test_folded_models_merge_to_a_folded_model():
    """Gains stay exactly 1 whatever the weights, so that a rotation still moves the merge back."""
    model = fold_gains(tiny("llama").double())
    other = fold_gains(perturbed(tiny("llama").double(), 1))
    q = Orthogonal.random(D, generator(1))
    merged = merge([model, transport_model(other, q)], [None, q.inverse()], [0.3, 0.7])
    assert chart_of(merged.model).folded
    back, tokens = merged.in_coordinates_of(1), random_tokens(model, generator())
    assert change(merged.model, back, tokens) <= 1e-12
    thirds = merge([model, other, other], [None, None, None], [0.1, 0.2, 0.7]).model
    assert chart_of(thirds).folded


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_16_bit_models_are_summed_in_float32_and_rounded_once(dtype):
    models = [tiny("llama", seed).to(dtype) for seed in range(5)]
    merged = merge(models, [None] * 5).model
    wide = weighted_sum(models, [0.2] * 5)
    first = dict(models[0].named_parameters())
    too_far = 0
    for name, p in merged.named_parameters():
        assert p.dtype == dtype
        # one rounding of the true mean; the slack is for ties, where float32's own error decides
        step = torch.finfo(dtype).eps * wide[name].abs()
        assert bool(((p.double() - wide[name]).abs() <= 0.5 * step * (1 + 1e-3) + 1e-7).all()), name
        running = first[name].clone()
        for m in models[1:]:
            running = running + 0.2 * (dict(m.named_parameters())[name] - first[name])
        too_far += int(((running.double() - wide[name]).abs() > 0.5 * step * (1 + 1e-3) + 1e-7).sum())
    assert too_far  # control: sums in the dtype itself exceed that bound


def test_merge_keeps_ties_flags_and_inputs():
    a = tiny("qwen2", tie_word_embeddings=True)
    a.model.norm.weight.requires_grad_(False)
    b = perturbed(a, 1)
    b.lm_head.weight = b.model.embed_tokens.weight
    before = [copy.deepcopy(m.state_dict()) for m in (a, b)]
    a(torch.arange(5)[None], labels=torch.arange(5)[None]).loss.backward()
    merged = merge([a, b], [None, signed(a)]).model
    assert merged.lm_head.weight is merged.model.embed_tokens.weight
    assert [p.requires_grad for p in merged.parameters()] == [p.requires_grad for p in a.parameters()]
    assert all(p.grad is None for p in merged.parameters())
    for m, old in zip((a, b), before, strict=True):
        assert all(torch.equal(v, old[k]) for k, v in m.state_dict().items())


def test_configs_may_differ_where_the_function_does_not():
    a, b = tiny("llama"), tiny("llama", 1, eos_token_id=5, attention_dropout=0.1)
    b.config._name_or_path = "somewhere"
    merge([a, b], [None, None])
    merge([a, tiny("llama", 2, max_position_embeddings=99)], [None, None])


@pytest.mark.parametrize("rope", ["dynamic", "longrope"])
def test_length_is_compared_where_rotary_embeddings_use_it(rope):
    scaling = {"rope_type": rope, "rope_theta": 1e4, "original_max_position_embeddings": 8}
    scaling |= (
        {"short_factor": [1.0] * 4, "long_factor": [1.0] * 4} if rope == "longrope" else {"factor": 2.0}
    )
    config = {"rope_parameters": scaling, "original_max_position_embeddings": 8}
    a, b = (
        tiny("phi3" if rope == "longrope" else "llama", max_position_embeddings=n, **config) for n in (16, 64)
    )
    tokens = torch.randint(3, 60, (2, 40), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert (a(tokens).logits - b(tokens).logits).abs().max() > 0.1, "equal parameters, another function"
    with pytest.raises(ValueError, match="max_position_embeddings: 16 and 64"):
        merge([a, b], [None, None])
    merge([a, tiny(a.config.model_type, 1, max_position_embeddings=16, **config)], [None, None])


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (lambda: tiny("llama", rms_norm_eps=1e-5), r"different configs .*rms_norm_eps: 1e-06 and 1e-05"),
        (lambda: tiny("llama", hidden_act="gelu"), r"hidden_act: 'silu' and 'gelu'"),
        (lambda: tiny("llama", num_key_value_heads=4), r"num_key_value_heads: 2 and 4"),
        (lambda: tiny("mistral", head_dim=8), r"model_type: 'llama' and 'mistral'"),
        (
            lambda: tiny("llama", tie_word_embeddings=True),
            r"must both tie .*: models\[0\] False, models\[1\] True",
        ),
    ],
)
def test_differing_configs_are_named(other, message):
    with pytest.raises(ValueError, match=message):
        merge([tiny("llama"), other()], [None, None])


def test_differing_shapes_are_named():
    a, b = tiny("llama"), tiny("llama")
    b.model.embed_tokens.weight = torch.nn.Parameter(torch.zeros(70, D))
    with pytest.raises(ValueError, match=r"embed_tokens.weight: \(64, 32\) and \(70, 32\)"):
        merge([a, b], [None, None])


def test_invalid_arguments_are_named():
    a, b = tiny("llama"), tiny("llama", 1)
    pair, none = [a, b], [None, None]
    for message, call in {
        r"unknown merge method 'slerp'; allowed: average, task_arithmetic": lambda: merge(
            pair, none, method="slerp"
        ),
        r"no models were given": lambda: merge([], []),
        r"2 gauges.*got 1": lambda: merge(pair, [None]),
        r"first gauge moves": lambda: merge(pair, [signed(a), None]),
        r"'task_arithmetic' needs a base": lambda: merge(pair, none, method="task_arithmetic"),
        r"'average' does not use a base": lambda: merge(pair, none, base=a),
        r"base_gauge .*without a base": lambda: merge(pair, none, base_gauge=signed(a)),
        r"2 finite weights.*got \[1.0\]": lambda: merge(pair, none, [1.0]),
        r"2 finite weights.*got \[nan": lambda: merge(pair, none, [float("nan"), 1.0]),
        r"sum to 1, got \[1.0, 1.0\], .*2.0": lambda: merge(pair, none, [1.0, 1.0]),
        r"width 31; expected 32": lambda: merge(pair, [None, SignedPermutation.identity(31)]),
        r"'orthogonal' is not in the exact group": lambda: merge(
            pair, [None, Orthogonal.random(D, generator())]
        ),
        r"linear gauge, got .*'affine'": lambda: merge(pair, [None, AffineGauge.random(D, generator())]),
    }.items():
        with pytest.raises(ValueError, match=message):
            call()
    with pytest.raises(IndexError, match=r"2 models were merged.*no model 2"):
        merge(pair, none).in_coordinates_of(2)
    merge(pair, [Permutation.identity(D), None])


def test_merge_accepts_gauges_outside_the_group_if_not_strict():
    a, q = tiny("llama"), Orthogonal.random(D, generator())
    merged = merge([a, a], [None, q], strict=False)
    with pytest.raises(ValueError, match="not in the exact group"):
        merged.in_coordinates_of(1)
    assert not equal(merged.in_coordinates_of(1, strict=False), a)
