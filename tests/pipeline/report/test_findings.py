"""experiments/FINDINGS.md is its template with the figures of the kept tables, and what it concludes holds
there."""

import re

import pytest

from findings_module import load

EXPRESSION = re.compile(r"\{\{(.*?)\}\}", re.DOTALL)
CODE = re.compile(r"\{\{.*?\}\}|\{%.*?%\}|\{#.*?#\}", re.DOTALL)
FIGURE = re.compile(r"(?<![\w.,/-])[−-]?(?:\d*\.\d+(?:e-?\d+)?|\d+e-\d+|\d+ %)")
SETTINGS = {
    "3e-3",
    "7e-3",
    "8e-3",
    "1.5e-2",
    "3e-2",
    "1e-4",
    ".99",
    "99 %",
    "95 %",
    "30 %",
    "20 %",
    "5 %",
    "2 %",
}
SETTINGS |= {"2e-5", "1e-3"}  # the real profile's other rates
SETTINGS |= {"10 %", ".1", ".3"}  # noise, in standard deviations
"""What a text may type: learning rates, thresholds, shares of a run and levels of intervals and tests."""


NAMES = ("name", "steps", "text", 'id.partition(".")[0]')
"""Variables of the template that are words, not figures."""

findings = load()
claim = findings.claim
MODELS = {
    "tinyllama": {"group": "signed_permutation", "matcher": "hungarian_abs"},
    "qwen": {"group": "signed_permutation", "matcher": "hungarian_abs"},
    "pythia": {"group": "global_sign_permutation", "matcher": "hungarian_raw"},
}
SITE = {"metric": "signed_accuracy", "evidence": "site", "site": "block2", "step": 1500}
RATE = "fine-tuning learning rate"
UNSIGNED = {"model": "tinyllama", "group": "permutation", "matcher": "hungarian_abs", "target": "identical"}
MERGED = {"model": "tinyllama", "target": "finetuned", "planted": "none", "matched": "none", "scaling": 1.0}
NEOX = {"metric": "explained_variance", "model": "pythia", "site": "block2"}


def value(table, **where):
    return findings.selector(table)(where).value


def rows(table, **where):
    return findings.selector(table)(where)


def holds_zero(figure):
    return figure.low < 0 < figure.high


def recovered(model, route):
    return value("a3", model=model, setting="default", route=route, **SITE, **MODELS[model])


def explained(group, **where):
    return value("b5", group=group, **{**NEOX, "setting": "default", **where})


def between_checkpoints(group, setting):
    return value("b9", group=group, setting=setting, **NEOX)


def decoders(steps, init="same", metric="decoder_max_above"):
    at = {"model": "pythia", "place": "middle", "setting": "unit", "lr": 1e-4}
    return value("d11", **at, steps=steps, init=init, metric=metric)


def patching(**where):
    return rows("b3", metric="predictor_pearson", predictor="attribution_patching", **where)


def correlations_of_patching():
    """Those that the text names."""
    return [
        patching(cohort="A"),
        patching(cohort="B"),
        patching(cohort="seeds", ablated="stream"),
        patching(cohort="seeds", ablated="update"),
    ]


def gap(vector):
    return value("b8", model="pythia", vector=vector, metric="class_gap")


def resumed(arm):
    where = {"model": "tinyllama", "setting": "lr=0.003", "metric": "divergence", "step": 50}
    return value("a8", arm=arm, **where)


def rejected(statistic, alternative):
    return rows("b6", metric="rejection_rate", statistic=statistic, alternative=alternative)


CONCLUSIONS = {
    "up to lr 7e-3 every route recovers all coordinates": lambda: all(
        rows("d5", **{RATE: rate}, metric="signed_accuracy", step=1500).least > 0.995
        for rate in (0.003, 0.007)
    ),
    "the gap grows with the learning rate": lambda: claim("d5.gap_is_drift").low > 0,
    "the base explains most of the gap": lambda: all(
        recovered(model, "via_base") - recovered(model, "endpoint")
        > 0.5 * (recovered(model, "trajectory") - recovered(model, "endpoint"))
        for model in MODELS
    ),
    "weights recover all coordinates": lambda: claim("c2.weights_recover").low > 0.99,
    "margins sort": lambda: claim("c3.top_half").low > 0,
    "a refusal direction without signs does not flip": lambda: holds_zero(
        rows("a6", **UNSIGNED, route="endpoint", metric="odd_retention")
    ),
    "B_d does what the true gauge does": lambda: claim("a4.finetuned_bd_at_the_oracle").high < 0.01,
    "B's own sentiment effect is not kept": lambda: claim("a5.bd_keeps_native").high < 0.9,
    "gains reverse the order of task arithmetic": lambda: (
        value("a7", **MERGED, setting="default", matcher="oracle", metric="loss_task_arithmetic")
        > value("a7", **MERGED, setting="default", matcher="none", metric="loss_task_arithmetic")
    ),
    "folded gains restore the order": lambda: (
        value("a7", **MERGED, setting="folded", matcher="oracle", metric="loss_task_arithmetic")
        < value("a7", **MERGED, setting="folded", matcher="none", metric="loss_task_arithmetic")
    ),
    "a resumed run needs signs": lambda: (
        resumed("signed") < 10 * resumed("neuron_permuted") < 0.1 < resumed("permutation_only")
    ),
    "between seeds O(d) fits better than B_d": lambda: claim("c1.rotations_between_seeds").low > 0,
    "an affine fit is better than the true gauge": lambda: claim("c1.few_tokens").high < 0,
    "the decoy is told apart": lambda: claim("b1.decoy").low > 0.1,
    "no pair passes Bar P": lambda: rows("b2", metric="bar_p_floor").least > 1e-4,
    "Bar C is below its threshold": lambda: claim("b2.bar_c_fails").high < 0.99,
    "no barrier joins the optima": lambda: rows("b10", metric="barrier").most < 1e-6,
    "no fall with length is resolved": lambda: holds_zero(claim("b11.long_strings")),
    "unused heads are quieter": lambda: all(
        rows("b4", cohort="A", component="model", metric=f"unused_{circuit}_over_used").high < 1
        for circuit in ("ov", "qk")
    ),
    "a rotation raises EV": lambda: claim("b5.rotation_restores").low > 0,
    "a rotation does not restore EV": lambda: claim("b5.rotation_level").high < 0.85,
    "TopK keeps most of it on unpaired axes": lambda: (
        explained("principal_axes") - explained("identity")
        > 0.8 * (explained("orthogonal") - explained("identity"))
    ),
    "ReLU and L1 do not": lambda: (
        explained("principal_axes", setting="relu_l1") < 0.5 * explained("orthogonal", setting="relu_l1")
    ),
    "O(d) is ahead of B_d on every number of tokens": lambda: all(
        explained(group="orthogonal", metric="explained_variance_by_tokens", tokens=n)
        > explained(group="signed_permutation", metric="explained_variance_by_tokens", tokens=n)
        for n in (256, 1024, 4096, 16384)
    ),
    "no correlation of attribution patching differs from zero, and three of four lean below": lambda: (
        all(map(holds_zero, correlations_of_patching()))
        and sum(found.value < 0 for found in correlations_of_patching()) == 3
    ),
    "the models are independent": lambda: (
        rows("b12", metric="independent", compared="models").least == 1
        and rows("b12", metric="identical_share", compared="models").most == 0
    ),
    "the paper's test rejects neither Haar nor permutations": lambda: all(
        rejected("naive_ks", kind).most == 0 for kind in ("haar", "permutation", "signed_permutation")
    ),
    "the tests here reject at their rate": lambda: all(
        rejected(statistic, "haar").most < 0.08
        for statistic in ("distance_from_identity", "ks_distance", "largest_entry")
    ),
    "and they reject signed permutations": lambda: all(
        rejected(statistic, "signed_permutation").least == 1
        for statistic in ("largest_entry", "distance_to_signed_permutation")
    ),
    "the distance at the input is rank": lambda: (
        rows(
            "b9",
            setting="checkpoints",
            cohort="B",
            step=3000,
            site="resid_pre_0",
            metric="supported_distance",
        ).high
        < 0.05
    ),
    "the paper's early SAE fails, and lengths bring back what a rotation does not": lambda: (
        claim("b9.raw_is_catastrophic_early").high < 0
        and claim("b9.rotation_restores_early").high < 0
        and between_checkpoints("orthogonal_scaled", "relu_l1") > 0.5
    ),
    "a shared start and little training make decoders look alike": lambda: (
        decoders(200) > 0.98 > 0.91 > decoders(1000) > 0.5 > decoders(4000)
        and max(decoders(steps, init="own") for steps in (200, 1000, 4000)) < 0.01
        and decoders(200, metric="explained_variance", init="same") > 0.3
    ),
    "a TopK SAE does not fail": lambda: (
        min(between_checkpoints("identity", setting) for setting in ("early", "checkpoints")) > 0.5
    ),
    "so these two vectors are void. For name bias they are": lambda: (
        max(gap("sentiment"), gap("number_magnitude")) < 0.1 < gap("name_bias")
    ),
    "no point is reversed on the toy": lambda: rows("b8", metric="regime_reversed", model="dyck3").most == 0,
}


def test_findings_are_the_rendered_template():
    assert findings.text_of(findings.TEMPLATE.read_text()) == findings.FINDINGS.read_text()


def test_template_types_no_figure():
    prose = CODE.sub("", findings.TEMPLATE.read_text())
    assert set(FIGURE.findall(prose)) <= SETTINGS


def test_every_figure_comes_from_a_table_or_is_marked():
    for expression in EXPRESSION.findall(findings.TEMPLATE.read_text()):
        marked = re.fullmatch(r' (?:paper|unkept)\("[^"]+"\) ', expression)
        kept = r'(?:\b|\breal_|\btoy_)[a-d]\d+\(|\bclaim\((?:"|id\b)|\bclaims \| length|\btoys \|'
        kept += r'|\btoy\.|\bleast_of\(toy|\btrial\("|\bdeepest(\("|_needed\()'
        selected = re.search(kept, expression)
        assert marked or selected or expression.strip() in NAMES, expression


@pytest.mark.parametrize("conclusion", CONCLUSIONS)
def test_conclusion_holds_in_the_kept_tables(conclusion):
    assert CONCLUSIONS[conclusion]()


def test_a_selection_of_several_rows_is_refused():
    with pytest.raises(ValueError, match=r"expected one row, got \d+: a3"):
        str(findings.selector("a3")(metric="signed_accuracy"))


def test_numbers_as_sentences_write_them():
    assert [findings.short(x) for x in (0.623, 1.0, -0.2, 0.0, -1.31, 2.427)] == [
        ".62", "1", "−.20", ".00", "−1.31", "2.43",
    ]  # fmt: skip
    assert findings.exponent(0.00293) == "2.9e-3" and findings.three(0.9956) == ".996"
