"""Test how exact ``transport_model`` is, for every family, with gains in place and (where possible) folded.

The tolerances follow from theory: equality for signs and round trips; for permutations a yardstick that the
same test measures; 1e-12 in float64; and more than a tenth of the logits' spread for what must fail.
"""

import copy

import pytest
import torch

from gaugeport.charts import chart_of, fold_gains
from gaugeport.charts.logit_change import (
    logits_of,
    norms_in_float64,
    random_tokens,
    relative_change,
    yardstick_for,
)
from gaugeport.groups import GROUPS, GlobalSignPermutation, Orthogonal, Permutation, SignedPermutation
from gaugeport.pipeline.measures.gauge_groups import MODEL_TYPES, tiny_model, with_unit_gains
from gaugeport.transport import transport_model

POST_NORM = ("gemma2", "gemma3_text", "olmo2")
CASES = [(t, c) for t in MODEL_TYPES for c in ("raw", "folded") if c == "raw" or t not in POST_NORM]
cases = pytest.mark.parametrize(("family", "kind"), CASES)
D = 32


def setting(family, kind, seed=0):
    generator = torch.Generator().manual_seed(seed)
    model = tiny_model(family, generator)
    if kind == "folded":
        model = fold_gains(model)
    return model, chart_of(model), random_tokens(model, generator), generator


def signs_only(chart, generator):
    """Return random signs without a permutation, within the chart's signed permutations."""
    if chart.norm == "layer":
        return GlobalSignPermutation(torch.arange(D), torch.tensor(-1))
    return SignedPermutation(torch.arange(D), SignedPermutation.random(D, generator).sign)


def signed(chart, generator):
    cls = GlobalSignPermutation if chart.norm == "layer" else SignedPermutation
    return cls.random(D, generator)


@cases
def test_signs_leave_the_logits_bit_equal(family, kind):
    model, chart, tokens, generator = setting(family, kind)
    moved = transport_model(model, signs_only(chart, generator))
    assert torch.equal(logits_of(moved, tokens), logits_of(model, tokens))


@cases
@pytest.mark.parametrize("tied", [False, True])
def test_signs_leave_five_optimizer_steps_bit_equal(family, kind, tied):
    """AdamW resumes from a state: exp_avg moves as its parameter, exp_avg_sq is a square and has no sign."""
    generator = torch.Generator().manual_seed(0)
    model = tiny_model(family, generator, tie_word_embeddings=tied)
    if kind == "folded":
        model = fold_gains(model)
    chart, batches = chart_of(model), [random_tokens(model, generator) for _ in range(7)]
    g = signs_only(chart, generator)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    train(model, optimizer, batches[:2])
    moved = transport_model(model, g)
    moved_optimizer = torch.optim.AdamW(moved.parameters(), lr=1e-2)
    moved_optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for name, p in moved.named_parameters():
        for axis, axis_kind in enumerate(chart.axes(name)):
            if axis_kind == "vector":
                moved_optimizer.state[p]["exp_avg"] = g.act(moved_optimizer.state[p]["exp_avg"], axis)
    losses = train(model, optimizer, batches[2:])
    assert torch.equal(losses, train(moved, moved_optimizer, batches[2:]))
    # training moves the gains, so that a folded chart becomes an unfolded one: not strict
    back = transport_model(moved, g.inverse(), strict=False)
    for (name, p), q in zip(model.named_parameters(), back.parameters(), strict=True):
        assert torch.equal(p, q), name


def train(model, optimizer, batches):
    losses = []
    for tokens in batches:
        optimizer.zero_grad()
        loss = model(tokens, labels=tokens).loss
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    return torch.stack(losses)


@cases
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_round_trips_are_bit_equal(family, kind, dtype):
    model, chart, _, generator = setting(family, kind)
    model = model.to(dtype)
    g = signed(chart, generator)
    back = transport_model(transport_model(model, g), g.inverse())
    for (name, p), q in zip(model.named_parameters(), back.named_parameters(), strict=True):
        assert torch.equal(p, q[1]), name


@cases
def test_group_is_exact_up_to_summation_order(family, kind):
    model, chart, tokens, generator = setting(family, kind)
    before = logits_of(model, tokens)
    for cls in (Permutation, type(signed(chart, generator)), GROUPS[chart.group]):
        g = cls.random(D, generator)
        rotation = g if isinstance(g, Orthogonal) else None
        yardstick = yardstick_for(chart, model, copy.deepcopy(model), tokens, generator, rotation)
        assert relative_change(before, logits_of(transport_model(model, g), tokens)) <= yardstick


@cases
def test_group_is_exact_in_float64(family, kind):
    model, chart, tokens, generator = setting(family, kind)
    if kind == "folded":
        model = fold_gains(setting(family, "raw")[0].double())
    model = model.double()
    for cls in (Permutation, type(signed(chart, generator)), GROUPS[chart.group]):
        moved = transport_model(model, cls.random(D, generator))
        with norms_in_float64(model), norms_in_float64(moved):
            assert relative_change(logits_of(model, tokens), logits_of(moved, tokens)) <= 1e-12


@cases
def test_elements_outside_the_group_change_the_function(family, kind):
    model, chart, tokens, generator = setting(family, kind)
    before = logits_of(model, tokens)
    outside = [Orthogonal.random(D, generator)]
    if chart.norm == "layer":
        flips = torch.ones(D)
        flips[torch.randperm(D, generator=generator)[: D // 2]] = -1
        outside.append(SignedPermutation(torch.arange(D), flips))
    for g in outside:
        moved = transport_model(model, g, strict=False)
        if chart.group == "orthogonal":  # the group holds every rotation: leave one tensor unmoved
            moved.get_input_embeddings().weight.data.copy_(model.get_input_embeddings().weight)
        assert relative_change(before, logits_of(moved, tokens)) > 1e-1


@pytest.mark.parametrize(("family", "kind"), [(t, k) for t, k in CASES if t not in ("gpt_neox", "gpt2")])
def test_dropping_signs_on_the_embedding_changes_the_function(family, kind):
    """Control for an incomplete transport: one tensor is permuted, the others are permuted and signed."""
    model, _, tokens, generator = setting(family, kind)
    g = SignedPermutation.random(D, generator)
    before = logits_of(model, tokens)
    mixed = transport_model(model, g)
    with torch.no_grad():
        mixed.get_input_embeddings().weight.copy_(g.without_signs().act(model.get_input_embeddings().weight))
        if chart_of(model).tied:
            mixed.get_output_embeddings().weight.copy_(
                g.without_signs().act(model.get_input_embeddings().weight)
            )
    assert relative_change(before, logits_of(mixed, tokens)) > 1e-1


@pytest.mark.parametrize("family", MODEL_TYPES)
def test_unit_gains_allow_rotations(family):
    """At a fresh initialisation rotations are exact, even with post-norms (refused if strict)."""
    generator = torch.Generator().manual_seed(0)
    model = with_unit_gains(tiny_model(family, generator)).double()
    chart, tokens = chart_of(model), random_tokens(model, generator)
    cls = GROUPS["mean_preserving_orthogonal" if chart.norm == "layer" else "orthogonal"]
    moved = transport_model(model, cls.random(D, generator), strict=not chart.family.post_norm)
    with norms_in_float64(model), norms_in_float64(moved):
        assert relative_change(logits_of(model, tokens), logits_of(moved, tokens)) <= 1e-12
