"""The warning of a weak fit: it comes where models are unrelated, and names what is wrong and what helps."""

import copy
import warnings
from dataclasses import replace

import pytest
import torch

import gaugeport as gp
from gaugeport.alignment.align import align
from gaugeport.alignment.along import align_along
from gaugeport.alignment.doubt import WARN_FROM_SHARE, doubt
from gaugeport.charts import chart_of, fold_gains
from gaugeport.groups import GlobalSignPermutation, MeanPreservingOrthogonal, Orthogonal, SignedPermutation
from gaugeport.pipeline.measures.gauge_groups import tiny_model
from gaugeport.transport import transport_model
from tiny_models import batches_of, gen, noisy

D = 64
DRIFT = r"drifted, it helps to "


def model_of(family="llama", seed=0, **config):
    return tiny_model(family, gen(seed), D, **config)


def warnings_of(call):
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        result = call()
    return result, [str(w.message) for w in found if issubclass(w.category, UserWarning)]


@pytest.mark.parametrize("family", ["llama", "gpt_neox"])
@pytest.mark.parametrize("evidence", ["activations", "weights", "both"])
@pytest.mark.parametrize("seed", range(3))
def test_unrelated_models_are_told_apart_from_related_ones(family, evidence, seed):
    a = model_of(family, seed)
    cls = SignedPermutation if family == "llama" else GlobalSignPermutation
    related = transport_model(noisy(a, 0.2), cls.random(D, gen(seed + 10)))
    found, said = warnings_of(lambda: align(a, related, batches_of(), evidence=evidence))
    assert said == [] and found.share_without_margin < WARN_FROM_SHARE
    found, said = warnings_of(lambda: align(a, model_of(family, 100 + seed), batches_of(), evidence=evidence))
    assert len(said) == 1 and f"{found.share_without_margin:.0%} of the coordinates" in said[0]
    assert found.share_without_margin >= WARN_FROM_SHARE and "Fold the gains" not in said[0]


def test_drift_that_loses_most_coordinates_is_no_longer_silent():
    a, g = model_of(), SignedPermutation.random(D, gen(1))
    b = transport_model(noisy(a, 0.7), g)
    found, said = warnings_of(lambda: align(a, b, batches_of(), sites="block1"))
    right = (found.gauge.perm == g.perm) & (found.gauge.sign == g.sign)
    assert float(right.double().mean()) < 0.5 and len(said) == 1
    helps = r"pool all sites \(sites='all'\), .*add the weights \(evidence='both'\), compose the checkpoints"
    with pytest.warns(UserWarning, match=DRIFT + helps):
        align(a, b, batches_of(), sites="block1")
    found, said = warnings_of(lambda: align(a, b, batches_of(), evidence="both"))
    assert found.gauge == g and said == [], "what the warning advises helps"


def test_advice_leaves_out_what_was_done():
    a, b = model_of(), model_of(seed=1)
    ev = gp.evidence(a, b, batches_of(n=12), weights=True)

    def advice(**options):
        _, (said,) = warnings_of(lambda: align(ev, **options))
        return said

    assert "pool all sites" not in advice() and "pool all sites" in advice(sites=["embed", "block1"])
    assert "add the weights" in advice() and "add the weights" not in advice(evidence="both")
    assert "pool" not in advice(evidence="weights") and "tokens" not in advice(evidence="weights")
    assert "tokens" not in advice(), "1,440 tokens are enough for 64 coordinates"
    few = gp.evidence(a, b, batches_of(n=4))
    assert "use more than 480 tokens" in warnings_of(lambda: align(few))[1][0]
    assert "match in the models' own group (group='signed_permutation')" in advice(group="permutation")
    assert "own group" not in advice() and "fit a rotation (group='orthogonal', allow_larger" in advice()
    neox = warnings_of(lambda: align(model_of("gpt_neox"), model_of("gpt_neox", 1), batches_of()))[1][0]
    assert "(group='mean_preserving_orthogonal', allow_larger=True)" in neox


def test_rotations_are_not_doubted_by_margins_that_say_something_else():
    a, b = model_of(), model_of(seed=1)
    _, said = warnings_of(lambda: align(a, b, batches_of(), group="orthogonal", allow_larger=True))
    assert said == []


@pytest.mark.parametrize("family", ["llama", "gpt_neox"])
@pytest.mark.parametrize("evidence", ["activations", "weights"])
def test_rotated_copy_of_an_unfolded_original_is_blamed_on_folding(family, evidence):
    a = model_of(family, tie_word_embeddings=False)
    cls = Orthogonal if family == "llama" else MeanPreservingOrthogonal
    rotated = transport_model(fold_gains(a), cls.random(D, gen(1)))
    for sides, folded, other in (((a, rotated), "B", "A"), ((rotated, a), "A", "B")):
        _, said = warnings_of(lambda sides=sides: align(*sides, batches_of(), evidence=evidence))
        assert len(said) == 1
        assert f"The gains of {folded} are all 1 and those of {other} are not" in said[0]
        assert f"Call fold_gains({other})" in said[0] and cls.group in said[0] and "drifted" not in said[0]
    found, said = warnings_of(lambda: align(fold_gains(a), rotated, batches_of(), evidence=evidence))
    assert said == [] and found.group == cls.group, "the advice helps"


@pytest.mark.parametrize("evidence", ["activations", "weights", "both"])
def test_rotation_that_explains_what_the_gauge_does_not_is_named(evidence):
    a = fold_gains(model_of(tie_word_embeddings=False))
    b = transport_model(noisy(a, 0.02), Orthogonal.random(D, gen(1)))
    a, b = (with_gains(m) for m in (a, b))  # as if each had trained its gains a little after the rotation
    assert chart_of(a).group == chart_of(b).group == "signed_permutation"
    _, said = warnings_of(lambda: align(a, b, batches_of(), evidence=evidence))
    assert len(said) == 1 and "A rotation relates the models" in said[0] and "drifted" not in said[0]
    assert "align with group='orthogonal'" in said[0]
    _, said = warnings_of(
        lambda: align(a, model_of(seed=5, tie_word_embeddings=False), batches_of(), evidence=evidence)
    )
    assert "A rotation" not in said[0] and "drifted" in said[0]  # negative control


def with_gains(model):
    """Return a copy with gains that are nearly 1, so that only its chart calls it unfolded."""
    moved = copy.deepcopy(model)
    with torch.no_grad():
        for name in chart_of(model).names("gain"):
            p = moved.get_parameter(name)
            p.add_(1e-3 * torch.randn(p.shape, generator=gen(7)))
    return moved


def test_too_few_tokens_prove_no_rotation():
    """With fewer tokens than coordinates a rotation fits anything, unrelated models too."""
    a, b = model_of(), model_of(seed=1)
    _, said = warnings_of(lambda: align(a, b, batches_of(n=1, rows=4)))
    assert any("drifted" in message for message in said) and not any("A rotation" in m for m in said)


def test_walk_names_its_weakest_link():
    base = model_of()
    walk = [base, noisy(base, 0.1), noisy(base, 0.9, 4), noisy(base, 0.9, 4)]
    found, said = warnings_of(lambda: align_along(walk, batches_of(), sites="block1"))
    shares = [link.share_without_margin for link in found.links]
    assert shares[1] == max(shares) >= WARN_FROM_SHARE > shares[0] == shares[2]
    assert len(said) == 1 and said[0].startswith(
        "1 of the 3 links of the walk should be doubted. The weakest is"
    )
    assert "link 2, from checkpoint 2 to checkpoint 3: " in said[0]
    assert "put more checkpoints into the walk" in said[0] and "align_along" not in said[0]
    _, said = warnings_of(lambda: align_along([base, noisy(base, 0.1), base], batches_of(), sites="block1"))
    assert said == []


@pytest.mark.parametrize(("share", "warns"), [(0.0, False), (15 / 64, False), (16 / 64, True), (1.0, True)])
def test_the_rule_is_a_quarter_of_the_margins(share, warns):
    a = model_of()
    ev = gp.evidence(a, a, batches_of())
    margin = torch.ones(D, dtype=torch.float64)
    margin[: round(share * D)] = 0.0
    assert (doubt(replace(align(ev), margin=margin), ev) is not None) is warns
