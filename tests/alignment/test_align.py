"""``align`` and ``align_along`` on tiny random models: planted gauges come back exactly, bad input is named."""

import copy
import warnings
from itertools import pairwise

import pytest
import torch

from gaugeport.alignment.align import align, align_along
from gaugeport.charts import chart_of, fold_gains
from gaugeport.groups import (
    GlobalSignPermutation,
    MeanPreservingOrthogonal,
    Orthogonal,
    SignedPermutation,
    compose,
    load,
    provenance,
)
from gaugeport.pipeline.measures.gauge_groups import tiny_model, with_unit_gains
from gaugeport.transport import transport_model

D = 32
LLAMA, NEOX = "llama", "gpt_neox"
EVIDENCE = ("activations", "weights", "both")


def gen(seed):
    return torch.Generator().manual_seed(seed)


def model_of(family, seed=0, **config):
    return tiny_model(family, gen(seed), **config)


def batches_of(n=6, rows=8, length=16, seed=0, vocabulary=64):
    generator = gen(seed)
    return [
        {"input_ids": torch.randint(0, vocabulary, (rows, length), generator=generator)} for _ in range(n)
    ]


def planted(family, seed=1):
    return (SignedPermutation if family == LLAMA else GlobalSignPermutation).random(D, gen(seed))


def noisy(model, scale, seed=3):
    """A neighbour in weight space: every parameter moved by ``scale`` of its own standard deviation."""
    moved, generator = copy.deepcopy(model), gen(seed)
    with torch.no_grad():
        for p in moved.parameters():
            p.add_(torch.randn(p.shape, generator=generator) * scale * p.std())
    return moved


@pytest.mark.parametrize("family", [LLAMA, NEOX])
@pytest.mark.parametrize("evidence", EVIDENCE)
@pytest.mark.parametrize("tied", [False, True])
def test_a_planted_gauge_comes_back(family, evidence, tied):
    model = model_of(family, tie_word_embeddings=tied)
    for seed in range(3):
        g = planted(family, seed)
        found = align(model, transport_model(model, g), batches_of(), evidence=evidence)
        assert found.gauge == g and type(found.gauge) is type(g)
        assert float(found.margin.min()) > 0 and found.margin.shape == (D,)
        assert found.group == g.group == chart_of(model).group
        assert found.sites == (() if evidence == "weights" else ("embed", "block0", "block1"))
        assert found.objective == pytest.approx(
            D * (2 if evidence == "both" else 1), rel=1e-4
        )  # correlations of ±1


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("evidence", EVIDENCE)
def test_layernorm_models_have_one_sign(sign, evidence):
    model, g = model_of(NEOX), GlobalSignPermutation(torch.randperm(D, generator=gen(9)), torch.tensor(sign))
    assert align(model, transport_model(model, g), batches_of(), evidence=evidence).gauge == g


@pytest.mark.parametrize("family", [LLAMA, NEOX])
@pytest.mark.parametrize("sites", ["embed", "block1", ["embed", "block1"], ["block0"], "all"])
def test_any_subset_of_sites(family, sites):
    model, g = model_of(family), planted(family)
    found = align(model, transport_model(model, g), batches_of(), sites=sites)
    assert found.gauge == g
    assert found.sites == tuple(
        ["embed", "block0", "block1"] if sites == "all" else [sites] if isinstance(sites, str) else sites
    )


@pytest.mark.parametrize("family", [LLAMA, NEOX])
def test_a_noisy_neighbour_is_aligned_too(family):
    model, g = model_of(family), planted(family)
    other = transport_model(noisy(model, 0.05), g)
    for evidence in EVIDENCE:
        assert align(model, other, batches_of(), evidence=evidence).gauge == g
        back = align(other, model, batches_of(), evidence=evidence)
        assert back.gauge == g.inverse()


@pytest.mark.parametrize("evidence", EVIDENCE)
@pytest.mark.parametrize("family", [LLAMA, NEOX])
@pytest.mark.parametrize("seed", range(2))
def test_folded_models_rotate(family, evidence, seed):
    model = fold_gains(model_of(family))
    cls = Orthogonal if family == LLAMA else MeanPreservingOrthogonal
    g = cls.random(D, gen(seed))
    if family == NEOX and evidence == "activations" and float(g.matrix.sum()) < 0:
        g = cls(g.matrix + 2 / D)  # the sign on the all-ones direction cannot be seen in activations
    found = align(model, transport_model(model, g), batches_of(), evidence=evidence)
    assert type(found.gauge) is cls and found.matcher == "procrustes"
    assert float((found.gauge.matrix - g.matrix).abs().max()) < 1e-4  # float32 models


def test_charts_that_differ_share_the_smaller_group():
    """A fresh base has unit gains and hence O(d); what it shares with a trained run is B_d."""
    run = model_of(LLAMA)
    fresh, g = with_unit_gains(run), planted(LLAMA)
    assert chart_of(fresh).group == "orthogonal" != chart_of(run).group
    for a, b, truth in ((fresh, transport_model(run, g), g), (transport_model(run, g), fresh, g.inverse())):
        found = align(a, b, evidence="weights")
        assert found.group == "signed_permutation" and found.gauge == truth
        with pytest.raises(
            ValueError, match="orthogonal is larger than this chart's exact gauge group signed_permutation"
        ):
            align(a, b, evidence="weights", group="orthogonal")


def test_padding_changes_nothing():
    """The same rows, once alone and once padded on the right: the same tokens count, and the same streams."""
    model, g = noisy(model_of(LLAMA), 0.0), planted(LLAMA)
    other = transport_model(noisy(model, 0.2), g)
    rows = [row for b in batches_of() for row in b["input_ids"]]
    lengths = [4 + k % 13 for k in range(len(rows))]
    alone = [{"input_ids": r[None, :n]} for r, n in zip(rows, lengths, strict=True)]
    mask = torch.tensor([[int(t < n) for t in range(16)] for n in lengths])
    ids = torch.stack(rows) * mask  # pad id 0
    padded = [
        {"input_ids": i, "attention_mask": m} for i, m in zip(ids.split(12), mask.split(12), strict=True)
    ]
    for sites in ("all", "block0"):
        first, second = (align(model, other, b, sites=sites) for b in (alone, padded))
        assert first.gauge == second.gauge
        assert first.objective == pytest.approx(second.objective, rel=1e-5)
        assert torch.allclose(first.margin, second.margin, atol=1e-5)
    unmasked = align(model, other, [{"input_ids": i} for i in ids.split(12)])
    assert unmasked.objective != pytest.approx(first.objective, rel=1e-5)  # negative control


def test_token_ids_restrict_the_rows_that_count():
    """B's unseen rows are a fingerprint of another gauge: with them B aligns to it, without them to the truth."""
    model, truth, trap = model_of(LLAMA), planted(LLAMA, 1), planted(LLAMA, 2)
    seen = torch.arange(0, 16)
    other = transport_model(model, truth)
    with torch.no_grad():
        for p in other.model.layers.parameters():
            p.zero_()  # the blocks say nothing: their cosines are 0
        for name in ("model.embed_tokens.weight", "lm_head.weight"):
            other.get_parameter(name)[16:] = trap.act(model.get_parameter(name)[16:])
    assert align(model, other, evidence="weights").gauge == trap
    assert align(model, other, evidence="weights", token_ids=seen).gauge == truth


@pytest.mark.parametrize("evidence", EVIDENCE)
def test_along_a_walk_is_the_composition_of_its_links(evidence):
    base = model_of(LLAMA)
    plants = [SignedPermutation.random(D, gen(s)) for s in range(4)]
    models = [transport_model(noisy(base, 0.1 * k, seed=k), g) for k, g in enumerate(plants)]
    batches = batches_of()
    whole = align_along(models, batches, evidence=evidence)
    links = [align(a, b, batches, evidence=evidence) for a, b in pairwise(models)]
    gauge, margin = links[0].gauge, links[0].margin
    for link in links[1:]:
        gauge = compose(link.gauge, gauge)
        margin = torch.minimum(
            margin[link.gauge.perm], link.margin
        )  # carried to the next model's coordinates
    assert whole.gauge == gauge and torch.equal(whole.margin, margin)
    assert whole.gauge == compose(plants[3], plants[0].inverse())
    opened = []
    lazy = align_along(
        [lambda k=k: opened.append(k) or models[k] for k in range(4)], batches, evidence=evidence
    )
    assert lazy.gauge == gauge and opened == [0, 1, 2, 3]
    with pytest.raises(ValueError, match=r"at least two checkpoints.*got 1"):
        align_along(models[:1], batches)


def test_what_is_saved_says_how_it_was_found(tmp_path):
    model, g = model_of(LLAMA), planted(LLAMA)
    found = align(model, transport_model(model, g), batches_of(), sites=["block0"])
    path = found.gauge.save(tmp_path / "g.safetensors", found.provenance())
    assert load(path) == g
    kept = provenance(path)
    assert (kept["group"], kept["matcher"], kept["sites"]) == (
        "signed_permutation",
        "hungarian_abs",
        ["block0"],
    )
    assert kept["evidence"] == "activations"


# bad input


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("evidence", EVIDENCE)
def test_the_sign_along_the_mean_of_a_folded_layer_norm_is_recovered(seed, evidence):
    """No reader sees it, but directions and SAEs on the stream do: half of these rotations turn it round."""
    a = fold_gains(model_of(NEOX))
    planted = MeanPreservingOrthogonal.random(D, gen(seed))
    found = align(a, transport_model(a, planted), batches_of(n=12), evidence=evidence)
    assert torch.allclose(found.gauge.matrix, planted.matrix, atol=1e-3)


def test_coordinates_that_no_matrix_reads_are_named():
    model = model_of(LLAMA)
    with torch.no_grad():
        for name, _, axis in chart_of(model).matrices():
            model.get_parameter(name).movedim(axis, -1)[..., [3, 7]] = 0
    with pytest.warns(
        UserWarning, match=r"2 coordinate\(s\) of B, the first \[3, 7\], are 0 in every matrix"
    ):
        align(model_of(LLAMA), model, evidence="weights")


def test_autocast_does_not_reach_the_evidence():
    a = model_of(LLAMA)
    b = transport_model(a, SignedPermutation.random(D, gen(1)))
    for evidence in EVIDENCE:
        plain = align(a, b, batches_of(), evidence=evidence)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            cast = align(a, b, batches_of(), evidence=evidence)
        assert torch.equal(plain.margin, cast.margin) and plain.gauge == cast.gauge


def test_models_that_cannot_be_compared():
    model = model_of(LLAMA)
    cases = {
        "residual width: A has 32, B has 40": tiny_model(LLAMA, gen(0), width=40),
        "vocabulary size: A has 64, B has 80": model_of(LLAMA, vocab_size=80),
        "number of blocks: A has 2, B has 3": model_of(LLAMA, num_hidden_layers=3),
        "architecture: A has llama, B has gpt_neox": model_of(NEOX),
    }
    for message, other in cases.items():
        for evidence in EVIDENCE[1:] if "vocabulary" in message else EVIDENCE:
            with pytest.raises(ValueError, match=f"must have the same {message}"):
                align(model, other, batches_of(), evidence=evidence)


def test_tokens_added_to_one_vocabulary_do_not_keep_activations_or_chosen_rows_from_being_compared():
    model = model_of(LLAMA)
    g = SignedPermutation.random(D, gen(1))
    longer = transport_model(model, g)
    longer.resize_token_embeddings(80)
    assert align(model, longer, batches_of()).gauge == g
    assert align(model, longer, evidence="weights", token_ids=torch.arange(64)).gauge == g
    with pytest.raises(ValueError, match="the batches hold token id 79; this model has 0 to 63"):
        align(model, longer, [{"input_ids": torch.full((2, 4), 79)}])


def test_weights_that_cannot_be_compared():
    model = model_of(LLAMA)
    wider = model_of(LLAMA, intermediate_size=56)
    with pytest.raises(
        ValueError, match=r"mlp.gate_proj.weight has shape \(48, 32\) in A and \(56, 32\) in B"
    ):
        align(model, wider, evidence="weights")
    align(model, wider, batches_of())  # activations need no such thing
    for a, b in (
        (model, model_of(LLAMA, tie_word_embeddings=True)),
        (model_of(LLAMA, tie_word_embeddings=True), model),
    ):
        with pytest.raises(ValueError, match="must both tie their embeddings or neither"):
            align(a, b, evidence="weights")


class Words:
    def __init__(self, *words):
        self.words = words

    def get_vocab(self):
        return {w: i for i, w in enumerate(self.words)}


def test_tokenizers_that_differ():
    model = model_of(LLAMA)
    align(model, model, evidence="weights", tokenizers=(Words("a", "b"), Words("a", "b")))
    with pytest.raises(ValueError, match=r"share a tokenizer.*2 entries differ, the first \['a', 'b'\]"):
        align(model, model, evidence="weights", tokenizers=(Words("a", "b"), Words("b", "a")))


def test_names_that_are_unknown():
    model, batches = model_of(LLAMA), batches_of()
    for sites, named in (("block2", "block2"), (["embed", "final"], "final"), ([], r"\[\]")):
        with pytest.raises(ValueError, match=rf"unknown site .*{named}.*allowed: all, embed, block0, block1"):
            align(model, model, batches, sites=sites)
    with pytest.raises(ValueError, match="unknown evidence 'gradients'; allowed: activations, weights, both"):
        align(model, model, batches, evidence="gradients")
    for group in ("B_d", "affine"):
        with pytest.raises(
            ValueError, match=f"unknown gauge group '{group}'; allowed: permutation, global_sign"
        ):
            align(model, model, batches, group=group)
    with pytest.raises(
        ValueError, match="matcher 'procrustes' does not recover an element of 'permutation'; allowed:"
    ):
        align(model, model, batches, group="permutation", matcher="procrustes")
    for evidence in ("activations", "both"):
        with pytest.raises(ValueError, match=r"needs batches.*allowed.*evidence='weights'"):
            align(model, model, evidence=evidence)


@pytest.mark.parametrize(
    ("family", "group", "inside"),
    [
        (NEOX, "signed_permutation", "permutation, global_sign_permutation;"),
        (NEOX, "mean_preserving_orthogonal", "permutation, global_sign_permutation;"),
        (NEOX, "orthogonal", "permutation, global_sign_permutation;"),
        (LLAMA, "orthogonal", "permutation, global_sign_permutation, signed_permutation;"),
        (LLAMA, "mean_preserving_orthogonal", "permutation, global_sign_permutation, signed_permutation;"),
    ],
)
def test_a_group_larger_than_the_charts(family, group, inside):
    model = model_of(family)
    other = transport_model(model, planted(family))
    with pytest.raises(
        ValueError, match=f"{group} is larger than this chart's exact gauge group .*Allowed here: {inside}"
    ):
        align(model, other, batches_of(), group=group)
    found = align(model, other, batches_of(), group=group, allow_larger=True)
    assert found.group == group == found.gauge.group


def test_a_larger_group_allowed_still_finds_the_smaller_truth():
    model, g = model_of(NEOX), planted(NEOX)
    found = align(
        model, transport_model(model, g), batches_of(), group="signed_permutation", allow_larger=True
    )
    assert torch.equal(found.gauge.perm, g.perm) and torch.equal(found.gauge.sign, g.sign)
    smaller = align(
        model, transport_model(model, g), batches_of(), group="permutation", matcher="hungarian_abs"
    )
    assert torch.equal(smaller.gauge.perm, g.perm)


@pytest.mark.parametrize("side", ["A", "B"])
def test_weights_that_are_not_finite(side):
    models = {s: model_of(LLAMA) for s in "AB"}
    with torch.no_grad():
        models[side].model.layers[0].mlp.down_proj.weight[3, 5] = float("nan")
    with pytest.raises(ValueError, match=rf"down_proj.weight of {side} is not finite"):
        align(models["A"], models["B"], evidence="weights")
    with pytest.raises(
        ValueError,
        match=rf"activations of {side} at block0 are not finite in 1 coordinate\(s\), the first \[3\]",
    ):
        align(models["A"], models["B"], batches_of(), sites="block0")


def with_dead_coordinate(model, i):
    """Coordinate ``i`` is never written to, at any site."""
    dead = copy.deepcopy(model)
    with torch.no_grad():
        dead.model.embed_tokens.weight[:, i] = 0.75
        for layer in dead.model.layers:
            layer.self_attn.o_proj.weight[i] = 0
            layer.mlp.down_proj.weight[i] = 0
    return dead


def test_a_coordinate_that_is_constant_everywhere():
    model = model_of(LLAMA)
    dead = with_dead_coordinate(model, 13)
    for a, b, side in ((dead, model, "A"), (model, dead, "B")):
        with pytest.raises(
            ValueError,
            match=rf"coordinates \[13\] of {side} \(1 in all\) are constant at embed, block0, block1",
        ):
            align(a, b, batches_of())
    g = planted(LLAMA)
    assert align(dead, transport_model(dead, g), evidence="weights").gauge == g


def test_a_coordinate_that_is_constant_somewhere_is_placed_elsewhere():
    model, g = model_of(LLAMA), planted(LLAMA)
    with torch.no_grad():
        model.model.embed_tokens.weight[:, 13] = 0.75
    other = transport_model(model, g)
    with pytest.raises(ValueError, match="are constant at embed"):
        align(model, other, batches_of(), sites="embed")
    assert align(model, other, batches_of()).gauge == g


def test_too_few_tokens_are_warned_of():
    model = model_of(LLAMA)
    with pytest.warns(UserWarning, match="only 30 tokens for 32 coordinates.*margins unreliable"):
        align(model, model, batches_of(n=2, rows=1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        align(model, model, batches_of(n=3, rows=1))


def test_no_tokens():
    model = model_of(LLAMA)
    masked = {
        "input_ids": torch.ones(2, 4, dtype=torch.long),
        "attention_mask": torch.zeros(2, 4, dtype=torch.long),
    }
    for batches in ([], [masked], batches_of(length=1)):
        with pytest.raises(
            ValueError, match="no tokens were accumulated: the batches were empty or fully masked"
        ):
            align(model, model, batches)


def test_the_models_are_left_alone():
    model, other = model_of(LLAMA), model_of(LLAMA, 1)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    align(model, other, batches_of(), evidence="both")
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
