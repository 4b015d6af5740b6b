"""What FINDINGS.md says of the toy that is trained to its end holds in the kept tables."""

import pytest

from findings_module import load

findings = load()


def on_toy(table, **where):
    return findings.selector(table, "toy")(where).value


EARLY_TOY = {
    "setting": "early",
    "cohort": "B",
    "step": 20000,
    "metric": "explained_variance",
    "group": "identity",
}


def turned(site, metric="distance_from_identity"):
    return on_toy("b9", setting="relu_l1", cohort="B", step=20000, site=site, metric=metric)


PAIR = {"setting": "default", "cohort": "A"}
CAYLEY = {"alignment": "cayley"}


def explained(group):
    where = {"setting": "relu_l1", "cohort": "A", "site": "resid_mid_1", "metric": "explained_variance"}
    return on_toy("b5", **where, group=group, init=None)


def far(cohort):
    where = {"metric": "distance_from_identity", "group": "orthogonal", "haar": "orthogonal"}
    return findings.selector("b6", "toy")(where, setting="default", cohort=cohort)


CONCLUSIONS = {
    "It has the paper's Bar B": lambda: all(
        2.7e-4 / 2 < on_toy("b1", setting="default", cohort=c, metric="bar_b", variant="real") < 2 * 2.7e-4
        for c in "AB"
    ),
    "Its seeds compute the same with other parts": lambda: (
        on_toy("b2", **PAIR, metric="bar_b") < 2e-3
        and on_toy("b2", **PAIR, metric="bar_c_pearson", **CAYLEY) < 0.9
    ),
    "no element of the paper's group comes below": lambda: on_toy("b2", **PAIR, metric="bar_p_floor") > 1e-4,
    "The paper's SAE fails on another seed, and the rotation restores part of it": lambda: (
        explained("identity") < 0 < explained("orthogonal") < explained("self") - 0.05
    ),
    "Attribution patching anti-correlates": lambda: (
        on_toy("b3", cohort="A", metric="predictor_pearson", predictor="attribution_patching") < -0.25
    ),
    "Seeds that share nothing are a random rotation apart": lambda: (
        far("B").least > 0.95 and far("A").most < 0.95
    ),
    "Length does not hurt it": lambda: (
        on_toy("b11", longest=48, lengths="longer", metric="depth_accuracy") > 0.995
    ),
    "Two directions are others than mini's": lambda: (
        findings.claim("b2.worst_tensor").value < 1 < findings.claim("b2.worst_tensor", "toy").value
        and findings.claim("b3.ap_anticorrelates").verdict == "inconclusive"
    ),
    "Bar B comes nearer to its threshold, Bar P is larger, and an SAE is worth less": lambda: (
        findings.claim("b2.behaviour_is_shared", "toy").value < findings.claim("b2.behaviour_is_shared").value
        and findings.claim("b2.bar_p_fails", "toy").value > findings.claim("b2.bar_p_fails").value
        and findings.claim("b5.raw_below_the_mean", "toy").value
        < findings.claim("b5.raw_below_the_mean").value
    ),
    "the rotation falls with depth, as in the paper": lambda: (
        turned("resid_pre_0") > turned("resid_mid_0") > turned("resid_post_1")
        and turned("resid_pre_0", "supported_distance") < 0.1
    ),
    "it explains less than the mean at every site behind the input": lambda: all(
        on_toy("b9", **EARLY_TOY, site=site) < 0
        for site in ("resid_mid_0", "resid_post_0", "resid_mid_1", "resid_post_1")
    ),
}


@pytest.mark.parametrize("conclusion", CONCLUSIONS)
def test_conclusion_is_written_and_holds_in_the_kept_tables(conclusion):
    assert conclusion in " ".join(findings.FINDINGS.read_text().split())
    assert CONCLUSIONS[conclusion]()
