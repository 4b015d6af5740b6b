"""``align`` and ``align_along`` on tiny random models: planted gauges are recovered exactly."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from aligned_models import EVIDENCE, LLAMA, NEOX, D, model_of, planted
from gaugeport.alignment.align import align
from gaugeport.alignment.along import align_along
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
from gaugeport.pipeline.measures.gauge_groups import with_unit_gains
from gaugeport.transport import transport_model
from tiny_models import batches_of, gen, noisy


@pytest.mark.parametrize("family", [LLAMA, NEOX])
@pytest.mark.parametrize("evidence", EVIDENCE)
@pytest.mark.parametrize("tied", [False, True])
def test_planted_gauge_is_recovered(family, evidence, tied):
    model = model_of(family, tie_word_embeddings=tied)
    for seed in range(3):
        g = planted(family, seed)
        alignment = align(model, transport_model(model, g), batches_of(), evidence=evidence)
        assert alignment.gauge == g and type(alignment.gauge) is type(g)
        assert float(alignment.margin.min()) > 0 and alignment.margin.shape == (D,)
        assert alignment.group == g.group == chart_of(model).group
        assert alignment.sites == (() if evidence == "weights" else ("embed", "block0", "block1"))
        assert alignment.objective == pytest.approx(
            D * (2 if evidence == "both" else 1), rel=1e-4
        )  # correlations of ±1


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("evidence", EVIDENCE)
def test_global_sign_of_layernorm_models_is_recovered(sign, evidence):
    model, g = model_of(NEOX), GlobalSignPermutation(torch.randperm(D, generator=gen(9)), torch.tensor(sign))
    assert align(model, transport_model(model, g), batches_of(), evidence=evidence).gauge == g


@pytest.mark.parametrize("family", [LLAMA, NEOX])
@pytest.mark.parametrize("sites", ["embed", "block1", ["embed", "block1"], ["block0"], "all"])
def test_any_subset_of_sites_recovers_the_gauge(family, sites):
    model, g = model_of(family), planted(family)
    alignment = align(model, transport_model(model, g), batches_of(), sites=sites)
    assert alignment.gauge == g
    one_or_more = [sites] if isinstance(sites, str) else sites
    assert alignment.sites == tuple(["embed", "block0", "block1"] if sites == "all" else one_or_more)


@pytest.mark.parametrize("family", [LLAMA, NEOX])
def test_gauge_of_a_noisy_copy_is_recovered(family):
    model, g = model_of(family), planted(family)
    other = transport_model(noisy(model, 0.05), g)
    for evidence in EVIDENCE:
        assert align(model, other, batches_of(), evidence=evidence).gauge == g
        back = align(other, model, batches_of(), evidence=evidence)
        assert back.gauge == g.inverse()


@pytest.mark.parametrize("evidence", EVIDENCE)
@pytest.mark.parametrize("family", [LLAMA, NEOX])
@pytest.mark.parametrize("seed", range(2))
def test_rotation_between_folded_models_is_recovered(family, evidence, seed):
    model = fold_gains(model_of(family))
    cls = Orthogonal if family == LLAMA else MeanPreservingOrthogonal
    g = cls.random(D, gen(seed))
    if family == NEOX and evidence == "activations" and float(g.matrix.sum()) < 0:
        g = cls(g.matrix + 2 / D)  # the sign on the all-ones direction cannot be seen in activations
    alignment = align(model, transport_model(model, g), batches_of(), evidence=evidence)
    assert type(alignment.gauge) is cls and alignment.matcher == "procrustes"
    assert float((alignment.gauge.matrix - g.matrix).abs().max()) < 1e-4  # float32 models


def test_models_with_different_groups_use_the_smaller_one():
    """A fresh base has unit gains, hence the group O(d); with a trained run it shares only B_d."""
    run = model_of(LLAMA)
    fresh, g = with_unit_gains(run), planted(LLAMA)
    assert chart_of(fresh).group == "orthogonal" != chart_of(run).group
    for a, b, truth in ((fresh, transport_model(run, g), g), (transport_model(run, g), fresh, g.inverse())):
        alignment = align(a, b, evidence="weights")
        assert alignment.group == "signed_permutation" and alignment.gauge == truth
        with pytest.raises(
            ValueError, match="orthogonal is larger than this chart's exact gauge group signed_permutation"
        ):
            align(a, b, evidence="weights", group="orthogonal")


def test_padding_changes_nothing():
    """Rows padded on the right give the same evidence as the same rows one by one."""
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
    """B's unseen rows carry another gauge, which wins if they count; without them the true one wins."""
    model, truth, trap = model_of(LLAMA), planted(LLAMA, 1), planted(LLAMA, 2)
    seen = torch.arange(0, 16)
    other = transport_model(model, truth)
    with torch.no_grad():
        for p in other.model.layers.parameters():
            p.zero_()  # cosines of 0: the blocks give no evidence
        for name in ("model.embed_tokens.weight", "lm_head.weight"):
            other.get_parameter(name)[16:] = trap.act(model.get_parameter(name)[16:])
    assert align(model, other, evidence="weights").gauge == trap
    assert align(model, other, evidence="weights", token_ids=seen).gauge == truth


@pytest.mark.parametrize("evidence", EVIDENCE)
def test_align_along_composes_its_links(evidence):
    base = model_of(LLAMA)
    plants = [SignedPermutation.random(D, gen(s)) for s in range(4)]
    models = [transport_model(noisy(base, 0.1 * k, seed=k), g) for k, g in enumerate(plants)]
    batches = batches_of()
    whole = align_along(models, batches, evidence=evidence)
    links = [align(a, b, batches, evidence=evidence) for a, b in pairwise(models)]
    gauge, margin = links[0].gauge, links[0].margin
    for link in links[1:]:
        gauge = compose(link.gauge, gauge)
        margin = torch.minimum(margin[link.gauge.perm], link.margin)  # in the next model's coordinates
    assert whole.gauge == gauge and torch.equal(whole.margin, margin)
    assert whole.gauge == compose(plants[3], plants[0].inverse())
    assert [link.gauge for link in whole.links] == [link.gauge for link in links]
    assert all(torch.equal(one.margin, link.margin) for one, link in zip(whole.links, links, strict=True))
    assert whole.links[0].links == links[0].links == (), "a link is no walk"
    opened = []
    lazy = align_along(
        [lambda k=k: opened.append(k) or models[k] for k in range(4)], batches, evidence=evidence
    )
    assert lazy.gauge == gauge and opened == [0, 1, 2, 3]
    with pytest.raises(ValueError, match=r"at least two checkpoints.*got 1"):
        align_along(models[:1], batches)


def test_print_says_in_two_lines_what_was_found():
    model, g = model_of(LLAMA), planted(LLAMA)
    other = transport_model(noisy(model, 0.5), g)
    found = align(model, other, batches_of(), sites="block1", abstain=0.02)
    below, kept = float((found.margin <= 0).double().mean()), int((found.margin >= 0.02).sum())
    assert 0 < below == found.share_without_margin < 1 and 0 < kept < D
    assert str(found).split("\n") == [
        "signed_permutation by hungarian_abs from activations at block1",
        f"kept {kept} of 32, median margin {float(found.margin.median()):.3g}, {below:.1%} of margins <= 0",
    ]
    assert str(align(model, other, evidence="weights")).startswith(
        "signed_permutation by hungarian_abs from weights\nkept 32 of 32, "
    )
    walk = align_along([model, model, other], batches_of(), evidence="both", group="permutation")
    assert str(walk).startswith(
        "permutation by hungarian_raw from weights and activations at embed, block0, block1, composed of 2"
        " links\n"
    )
    many = replace(found, sites=tuple(f"block{i}" for i in range(30)))
    assert "at 30 sites (block0 to block29)\n" in str(many)


def test_sites_may_be_named_as_modules_and_hooks():
    model, g = model_of(LLAMA), planted(LLAMA)
    other = transport_model(noisy(model, 0.1), g)
    wanted = align(model, other, batches_of(), sites=["block0", "block1"])
    found = align(model, other, batches_of(), sites=["model.layers.0", "blocks.1.hook_resid_post"])
    assert found.sites == wanted.sites == ("block0", "block1") and torch.equal(found.margin, wanted.margin)


def test_saved_gauge_records_how_it_was_recovered(tmp_path):
    model, g = model_of(LLAMA), planted(LLAMA)
    alignment = align(model, transport_model(model, g), batches_of(), sites=["block0"])
    path = alignment.gauge.save(tmp_path / "g.safetensors", alignment.provenance())
    assert load(path) == g
    kept = provenance(path)
    assert (kept["group"], kept["matcher"], kept["sites"]) == (
        "signed_permutation",
        "hungarian_abs",
        ["block0"],
    )
    assert kept["evidence"] == "activations"


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("evidence", EVIDENCE)
def test_sign_along_the_mean_of_folded_layernorm_is_recovered(seed, evidence):
    """No reader sees this sign, but directions and SAEs do; half of these plants are negative."""
    a = fold_gains(model_of(NEOX))
    planted = MeanPreservingOrthogonal.random(D, gen(seed))
    alignment = align(a, transport_model(a, planted), batches_of(n=12), evidence=evidence)
    assert torch.allclose(alignment.gauge.matrix, planted.matrix, atol=1e-3)


def test_autocast_does_not_change_the_evidence():
    a = model_of(LLAMA)
    b = transport_model(a, SignedPermutation.random(D, gen(1)))
    for evidence in EVIDENCE:
        plain = align(a, b, batches_of(), evidence=evidence)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            cast = align(a, b, batches_of(), evidence=evidence)
        assert torch.equal(plain.margin, cast.margin) and plain.gauge == cast.gauge


def test_larger_vocabulary_is_allowed_for_activations_and_for_chosen_rows():
    model = model_of(LLAMA)
    g = SignedPermutation.random(D, gen(1))
    longer = transport_model(model, g)
    longer.resize_token_embeddings(80)
    assert align(model, longer, batches_of()).gauge == g
    assert align(model, longer, evidence="weights", token_ids=torch.arange(64)).gauge == g
    with pytest.raises(ValueError, match=r"token id 79 is not.*vocabulary, 0 to 63"):
        align(model, longer, [{"input_ids": torch.full((2, 4), 79)}])


def test_larger_group_still_finds_the_true_element():
    model, g = model_of(NEOX), planted(NEOX)
    alignment = align(
        model, transport_model(model, g), batches_of(), group="signed_permutation", allow_larger=True
    )
    assert torch.equal(alignment.gauge.perm, g.perm) and torch.equal(alignment.gauge.sign, g.sign)
    smaller = align(
        model, transport_model(model, g), batches_of(), group="permutation", matcher="hungarian_abs"
    )
    assert torch.equal(smaller.gauge.perm, g.perm)


def test_coordinate_constant_at_one_site_is_placed_by_the_others():
    model, g = model_of(LLAMA), planted(LLAMA)
    with torch.no_grad():
        model.model.embed_tokens.weight[:, 13] = 0.75
    other = transport_model(model, g)
    with pytest.raises(ValueError, match="are constant at embed"):
        align(model, other, batches_of(), sites="embed")
    assert align(model, other, batches_of()).gauge == g


def test_models_are_not_changed():
    model, other = model_of(LLAMA), model_of(LLAMA, 1)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    align(model, other, batches_of(), evidence="both")
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
