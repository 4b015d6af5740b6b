"""Barriers and merges: by hand, between a model and itself, on planted models, and after matching."""

import copy

import pytest
import torch

from gaugeport.charts import chart_of, fold_gains
from gaugeport.charts.logit_change import logits_of, norms_in_float64, random_tokens, relative_change
from gaugeport.groups import GROUPS, Orthogonal, Permutation, SignedPermutation, compose
from gaugeport.pipeline.measures.gauge_groups import tiny_model
from gaugeport.pipeline.measures.losses import heldout_loss
from gaugeport.pipeline.measures.merge_barriers import (
    barrier,
    check_points,
    merge_barrier_rows,
    rematch,
    reorder_at_random,
    share_in_same_place,
    task_arithmetic,
)
from gaugeport.texts import row_batches
from gaugeport.transport import transport_model
from gaugeport.transport.merge import merge

D = 32
ALPHAS = [k / 10 for k in range(11)]
FAMILIES = ("llama", "qwen2", "gpt_neox")
families = pytest.mark.parametrize("family", FAMILIES)


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


def identity():
    return Permutation.identity(D)


def batches(model):
    """Rows that ``model`` continues greedily, so that its loss on them is lower than a worse model's."""
    rows = torch.randint(0, 64, (32, 2), generator=gen(9))
    while rows.shape[1] < 10:
        rows = torch.cat([rows, logits_of(model, rows)[:, -1:].argmax(-1)], dim=1)
    return list(row_batches(rows, 32))


def apart(model, seed, size=0.3):
    """A copy whose every parameter drifted by ``size`` of its standard deviation."""
    other = copy.deepcopy(model)
    with torch.no_grad():
        for p in other.parameters():
            p.add_(
                size * p.std() * torch.randn(p.shape, generator=gen(seed), dtype=torch.float32).to(p.dtype)
            )
    return other


def exact(model, seed):
    return GROUPS[chart_of(model).group].random(D, gen(seed))


def values(rows, metric):
    return [r["value"] for r in rows if r["metric"] == metric]


def same(a, b):
    return all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))


def test_barrier_by_hand():
    assert barrier([0, 0.5, 1], [1.0, 3.0, 2.0]) == 1.5
    assert barrier([0, 0.25, 1], [1.0, 1.5, 3.0]) == 0, "the line itself"
    assert barrier([0, 0.5, 1], [1.0, 0.0, 2.0]) == 0, "below the line, but the ends are on it"
    assert barrier([0, 0.1, 0.7, 1], [0.1] * 4) == 0, "equal ends give exactly their loss"
    assert barrier([0, 0.2, 0.6, 1], [4.0, 5.0, 3.0, 0.0]) == pytest.approx(1.8)


@families
def test_a_perfect_gauge_between_a_model_and_itself_has_no_barrier(family):
    model = tiny_model(family, gen())
    rows = merge_barrier_rows(model, model, [identity()], batches(model))
    assert [r["alpha"] for r in rows if r["metric"] == "loss"] == ALPHAS
    own = heldout_loss(model, batches(model))
    assert (
        set(values(rows, "loss"))
        == {own}
        == set(values(rows, "loss_average"))
        == set(values(rows, "loss_unaligned"))
    )
    assert values(rows, "barrier") == [0.0]
    wrong = merge_barrier_rows(model, model, [exact(model, 1)], batches(model))
    assert values(wrong, "barrier")[0] > 0.1, "the same function in other coordinates"


@families
def test_moving_between_planted_models_equals_moving_by_the_residual(family):
    """Moving by ĝ between planted checkpoints gives, bit by bit, the merge by q_B⁻¹ ∘ ĝ ∘ q_A."""
    a = tiny_model(family, gen())
    b = apart(a, 1)
    q_a, q_b, found = (exact(a, s) for s in (2, 3, 4))
    planted = merge([transport_model(b, q_b), transport_model(a, q_a)], [None, found], (0.25, 0.75)).model
    residual = compose(q_b.inverse(), compose(found, q_a))
    assert same(transport_model(planted, q_b.inverse()), merge([b, a], [None, residual], (0.25, 0.75)).model)
    assert not same(planted, merge([b, a], [None, residual], (0.25, 0.75)).model)


def test_elements_outside_the_group_are_refused():
    """Sign flips change a LayerNorm model, and rotations change any model whose gains are in place."""
    neox = tiny_model("gpt_neox", gen())
    with pytest.raises(ValueError, match="not in the exact group"):
        merge_barrier_rows(neox, neox, [SignedPermutation.random(D, gen(1))], batches(neox))
    llama = tiny_model("llama", gen())
    with pytest.raises(ValueError, match="not in the exact group"):
        merge_barrier_rows(llama, llama, [Orthogonal.random(D, gen(1))], batches(llama))


def test_rotations_are_symmetries_of_folded_models():
    a = fold_gains(tiny_model("llama", gen()).double())
    r, tokens = Orthogonal.random(D, gen(2)), random_tokens(a, gen(3))
    end, middle = (merge([a, a], [None, r], (x, 1 - x)).model for x in (0.0, 0.5))
    with norms_in_float64(a), norms_in_float64(end), norms_in_float64(middle):
        assert relative_change(logits_of(a, tokens), logits_of(end, tokens)) < 1e-10
        assert relative_change(logits_of(a, tokens), logits_of(middle, tokens)) > 0.1
    right, wrong = (
        merge_barrier_rows(a, a, [g], batches(a), points=3) for g in (Orthogonal(torch.eye(D)), r)
    )
    assert values(right, "barrier") == [0.0] and values(wrong, "barrier")[0] > 0.1


@families
@pytest.mark.parametrize("planted", ["neurons", "both"])
def test_matching_undoes_a_reordering(family, planted):
    """B is A in other coordinates, with neurons (and heads) reordered: matching needs the residual gauge."""
    a = tiny_model(family, gen())
    g = exact(a, 1)
    b = transport_model(a, g)
    matched = merge_barrier_rows(a, b, [g], batches(a), points=3, planted=planted, matched="both", seed=5)
    assert values(matched, "barrier") == [0.0] and len(set(values(matched, "loss"))) == 1
    assert values(matched, "neurons_matched") == [1.0] == values(matched, "heads_matched")
    for short in ["none", "heads"] if planted == "neurons" else ["none", "heads", "neurons"]:
        rows = merge_barrier_rows(a, b, [g], batches(a), points=3, planted=planted, matched=short, seed=5)
        assert values(rows, "barrier")[0] > 0.01, f"matching {short} is not enough"
    astray = merge_barrier_rows(
        a, b, [exact(a, 2)], batches(a), points=3, planted=planted, matched="both", seed=5
    )
    assert values(astray, "neurons_matched")[0] < 0.5, "without shared coordinates nothing matches"


def test_reordering_keeps_the_function_and_can_be_undone():
    a, tokens = tiny_model("llama", gen()).double(), random_tokens(tiny_model("llama", gen()), gen(1))
    moved, plants = reorder_at_random(a, "both", 3)
    with norms_in_float64(a), norms_in_float64(moved):
        assert relative_change(logits_of(a, tokens), logits_of(moved, tokens)) < 1e-10
    assert not same(a, moved)
    back, found = rematch(moved, a, identity(), "both")
    assert same(back, a)
    assert all(share_in_same_place(found[kind], plants[kind].inverse()) == 1 for kind in plants)
    untouched, none = reorder_at_random(a, "none", 3)
    assert same(untouched, a) and all(g == type(g).identity(a) for g in none.values())


def test_task_arithmetic_at_one_half_is_the_average_and_moves_its_base():
    base = tiny_model("llama", gen()).double()
    a, b = apart(base, 1), apart(base, 2)
    g = exact(base, 3)
    average = merge([b, a], [None, None]).model
    half = task_arithmetic(a, b, base, identity(), identity(), 0.5).model
    for p, q in zip(half.parameters(), average.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-12, atol=1e-12)
    whole = task_arithmetic(a, b, base, identity(), identity(), 1.0).model
    elsewhere = transport_model(base, g)
    assert same(task_arithmetic(a, b, elsewhere, identity(), g.inverse(), 1.0).model, whole)
    assert not same(task_arithmetic(a, b, elsewhere, identity(), identity(), 1.0).model, whole)
    rows = merge_barrier_rows(
        a,
        b,
        [identity()],
        batches(base),
        points=3,
        base=base,
        base_residuals=[identity()],
        scalings=[0.0, 0.5],
    )
    sums = {r["scaling"]: r["value"] for r in rows if r["metric"] == "loss_task_arithmetic"}
    assert sums[0.0] == heldout_loss(base, batches(base))
    assert sums[0.5] == pytest.approx(values(rows, "loss_average")[0], abs=1e-6), (
        "losses are computed in float32"
    )


def test_several_plants_are_averaged():
    a = tiny_model("llama", gen())
    plants = [exact(a, 1), exact(a, 2)]
    both = merge_barrier_rows(a, a, plants, batches(a), points=3)
    each = [values(merge_barrier_rows(a, a, [r], batches(a), points=3), "barrier")[0] for r in plants]
    assert values(both, "barrier")[0] == pytest.approx(sum(each) / 2, rel=1e-12)
    assert values(both, "barrier_plants_sd")[0] == pytest.approx(abs(each[0] - each[1]) / 2**0.5, rel=1e-9)
    assert len([r for r in both if r["metric"] == "loss"]) == 3, "one row per metric, not one per plant"


@pytest.mark.parametrize("points", [2, 4, 1, "11", 3.0])
def test_a_line_has_two_ends_and_a_middle(points):
    with pytest.raises(ValueError, match="odd whole number from 3"):
        check_points(points)
