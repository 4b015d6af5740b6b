"""What ``align`` refuses, and what it warns of: models, weights, batches and names that do not fit."""

import copy
import warnings

import pytest
import torch

from aligned_models import EVIDENCE, LLAMA, NEOX, model_of, planted
from gaugeport.alignment.align import align
from gaugeport.charts import chart_of
from gaugeport.pipeline.measures.gauge_groups import tiny_model
from gaugeport.transport import transport_model
from tiny_models import batches_of, gen


def test_coordinates_that_no_matrix_uses_cause_a_warning():
    model = model_of(LLAMA)
    with torch.no_grad():
        for name, _, axis in chart_of(model).matrices():
            model.get_parameter(name).movedim(axis, -1)[..., [3, 7]] = 0
    with pytest.warns(
        UserWarning, match=r"2 coordinate\(s\) of B, the first \[3, 7\], are 0 in every matrix"
    ):
        align(model_of(LLAMA), model, evidence="weights")


def test_incomparable_models_are_rejected():
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


def test_incomparable_weights_are_rejected():
    model = model_of(LLAMA)
    wider = model_of(LLAMA, intermediate_size=56)
    with pytest.raises(
        ValueError, match=r"mlp.gate_proj.weight has shape \(48, 32\) in A and \(56, 32\) in B"
    ):
        align(model, wider, evidence="weights")
    align(model, wider, batches_of())  # activations do not need equal shapes
    for a, b in (
        (model, model_of(LLAMA, tie_word_embeddings=True)),
        (model_of(LLAMA, tie_word_embeddings=True), model),
    ):
        with pytest.raises(ValueError, match="must both tie their embeddings or neither"):
            align(a, b, evidence="weights")


class Letters:
    """A tokenizer whose token is a character."""

    def __init__(self, change=str):
        self.change = change

    def encode(self, text, add_special_tokens):
        return [ord(c) for c in self.change(text)]


def test_different_tokenizers_are_rejected():
    model = model_of(LLAMA)
    align(model, model, evidence="weights", tokenizers=(Letters(), Letters()))
    with pytest.raises(ValueError, match=r"share a tokenizer.*encode .The quick.* differently from token 0"):
        align(model, model, evidence="weights", tokenizers=(Letters(), Letters(str.lower)))


def test_unknown_names_are_rejected():
    model, batches = model_of(LLAMA), batches_of()
    for sites, named in (("block2", "block2"), (["embed", "final"], "final"), ([], r"\[\]")):
        with pytest.raises(ValueError, match=rf"unknown site .*{named}.*allowed: all, embed, block0, block1"):
            align(model, model, batches, sites=sites)
    with pytest.raises(ValueError, match="unknown evidence 'gradients'; allowed: activations, weights, both"):
        align(model, model, batches, evidence="gradients")
    for group in ("B_d", "ridge"):
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
def test_group_larger_than_the_charts_needs_permission(family, group, inside):
    model = model_of(family)
    other = transport_model(model, planted(family))
    with pytest.raises(
        ValueError, match=f"{group} is larger than this chart's exact gauge group .*Allowed here: {inside}"
    ):
        align(model, other, batches_of(), group=group)
    alignment = align(model, other, batches_of(), group=group, allow_larger=True)
    assert alignment.group == group == alignment.gauge.group


@pytest.mark.parametrize("side", ["A", "B"])
def test_weights_and_activations_must_be_finite(side):
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
    """Return a copy in which coordinate ``i`` is constant at every site."""
    dead = copy.deepcopy(model)
    with torch.no_grad():
        dead.model.embed_tokens.weight[:, i] = 0.75
        for layer in dead.model.layers:
            layer.self_attn.o_proj.weight[i] = 0
            layer.mlp.down_proj.weight[i] = 0
    return dead


def test_coordinate_constant_at_every_site_is_rejected():
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


def test_too_few_tokens_cause_a_warning():
    model = model_of(LLAMA)
    with pytest.warns(UserWarning, match="only 30 tokens for 32 coordinates.*margins unreliable"):
        align(model, model, batches_of(n=2, rows=1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        align(model, model, batches_of(n=3, rows=1))


def test_batches_without_tokens_are_rejected():
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
