"""What FINDINGS.md says of the toy that is trained to its end holds in the kept tables."""

import functools
import json
import lzma
import math

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


def explained(group, cohort="A", site="resid_mid_1"):
    where = {"setting": "relu_l1", "metric": "explained_variance", "init": None}
    return on_toy("b5", **where, group=group, cohort=cohort, site=site)


def predicted(predictor, cohort):
    return on_toy("b3", setting="default", cohort=cohort, metric="predictor_pearson", predictor=predictor)


ROTATION = {"setting": "default", "group": "orthogonal", "haar": "orthogonal"}


def far(cohort, **where):
    return findings.selector("b6", "toy")(ROTATION, metric="distance_from_identity", cohort=cohort, **where)


def random_from(cohort, site):
    where = {"metric": "null_low", "statistic": "distance_from_identity", "cohort": cohort, "site": site}
    return on_toy("b6", **ROTATION, **where)


def partners(init, steps):
    where = {"cohort": "A", "place": "middle", "setting": "unit", "lr": 1e-4, "metric": "decoder_max_above"}
    return on_toy("d11", **where, init=init, steps=steps)


@functools.cache
def kept_records():
    archive = findings.REFERENCE / "toy" / "records.jsonl.xz"
    return [json.loads(line) for line in lzma.decompress(archive.read_bytes()).decode().splitlines()]


def of_every_pair(task, setting, **where):
    """Return what was measured of every pair of cohort A, in the rows that have the given values."""
    pairs = [r for r in kept_records() if r["task"] == task and r["config"]["setting"] == setting]
    rows = [row for r in pairs if r["config"]["task"]["cohort"] == "A" for row in r["rows"]]
    return [row["value"] for row in rows if all(row.get(key) == value for key, value in where.items())]


def raw_of_every_pair(site):
    """Return what the paper's SAE explains, unchanged, of the other seed of every pair of cohort A."""
    where = {"metric": "explained_variance", "group": "identity", "site": site, "init": None}
    return of_every_pair("universality", "relu_l1", **where)


def firing_of_every_pair():
    where = {"metric": "firing_pearson", "group": "identity", "site": "resid_mid_1"}
    return of_every_pair("firing", "relu_l1", **where)


def columns(cohort, group="orthogonal"):
    """Return the share of the toy's decoder columns that have a partner in the other seed's."""
    where = {"setting": "relu_l1", "site": "resid_mid_1", "init": "own", "metric": "decoder_max_above"}
    return on_toy("b5", **where, cohort=cohort, group=group)


def changed_verdicts():
    """Return the claims with five seeds at mini and at toy whose verdicts differ; mini matches no figures."""
    kept = (findings.kept("claims", profile).set_index("metric") for profile in ("mini", "toy"))
    mini, toy = (claims.replace({"verdict": {"matched": "reproduced"}}) for claims in kept)
    both = [claim for claim in toy.index if min(mini.at[claim, "n"], toy.at[claim, "n"]) >= 5]
    assert len(both) >= 10
    return {claim for claim in both if mini.at[claim, "verdict"] != toy.at[claim, "verdict"]}


CONCLUSIONS = {
    "It has the paper's Bar B": lambda: all(
        2.7e-4 / 2 < on_toy("b1", setting="default", cohort=c, metric="bar_b", variant="real") < 2 * 2.7e-4
        for c in "AB"
    ),
    "No pair of its seeds passes Bar B, and no alignment passes Bar P": lambda: (
        min(of_every_pair("cross_seed", "default", metric="bar_b")) > 1e-4
        and min(of_every_pair("cross_seed", "default", metric="bar_p_floor")) > 1e-4
    ),
    "over its threshold of 1e-4": lambda: all(
        on_toy("b2", setting="default", cohort=c, metric="bar_b") > 1e-4 for c in "AB"
    ),
    "Bar C, below .99, is": lambda: all(
        on_toy("b2", setting="default", cohort=c, metric="bar_c_pearson", alignment="cayley") < 0.99
        for c in "AB"
    ),
    "the paper's SAE fails on another seed, and the rotation restores part of it": lambda: (
        explained("identity") < 0 < explained("orthogonal") < explained("self") - 0.05
    ),
    "cohort A: all pairs of 5 seeds": lambda: (
        len(of_every_pair("cross_seed", "default", metric="bar_b")) == math.comb(5, 2)
    ),
    "b5 and b7; all pairs of 5 seeds of cohort A": lambda: (
        len(raw_of_every_pair("resid_mid_1")) == len(firing_of_every_pair()) == math.comb(5, 2)
    ),
    "Raw EV is below 0 in each pair": lambda: max(raw_of_every_pair("resid_mid_1")) < 0,
    "above 0 in 4 of 10 pairs": lambda: (
        [value > 0 for value in sorted(raw_of_every_pair("resid_post_1"))] == [False] * 6 + [True] * 4
    ),
    "the interval of their mean contains 0": lambda: (
        findings.claim("b5.raw_below_the_mean", "toy").low
        < 0
        < findings.claim("b5.raw_below_the_mean", "toy").high
    ),
    "Behind the last block cohort A, which shares the unembeddings, loses less": lambda: (
        explained("identity", site="resid_post_1") > explained("identity") + 1
    ),
    "negative on 3 of 5 as in the paper": lambda: (
        on_toy(
            "b3",
            setting="default",
            cohort="A",
            metric="predictor_negative",
            predictor="attribution_patching",
        )
        == 0.6
    ),
    "because it floors the cross-entropy": lambda: (
        on_toy("b1", setting="l1", metric="bar_b", variant="real")
        > 2 * on_toy("b1", setting="default", cohort="A", metric="bar_b", variant="real")
    ),
    "Rotated, decoder columns match as the paper's do": lambda: (
        min(columns("A"), columns("B")) > 0.96 and columns("A", "identity") < 0.2
    ),
    "Cohort B stays at": lambda: explained("orthogonal", cohort="B", site="resid_post_1") < 0,
    "Attribution patching has either sign, integrated gradients are right": lambda: (
        predicted("attribution_patching", "A") < 0 < predicted("attribution_patching", "B")
        and predicted("integrated_gradients", "A") > 0.999
    ),
    "Seeds that share nothing are nearly a random rotation apart": lambda: (
        far("B").least > 0.95 > far("A").most
    ),
    "it is nearer than 95 % of random ones": lambda: all(
        (far("B", site=site).value < random_from("B", site)) == (site in ("resid_pre_0", "resid_mid_0"))
        for site in ("resid_pre_0", "resid_mid_0", "resid_post_0", "resid_mid_1", "resid_post_1")
    ),
    "Length hardly hurts": lambda: (
        on_toy("b11", longest=48, lengths="longer", metric="depth_accuracy") > 0.99
    ),
    "A shared start and few steps make decoder columns alike here too": lambda: (
        partners("same", 200) > 0.98 and partners("own", 200) < 0.02 and partners("same", 4000) < 0.9
    ),
    "Of the claims that have five seeds at both, three get another verdict": lambda: (
        changed_verdicts() == {"b5.raw_below_the_mean", "b5.noise_over_raw", "b5.shared_start"}
    ),
    "but the difference is": lambda: 0 < findings.claim("b5.shared_start", "toy").value < 0.01,
    "makes Bar B smaller, Bar P larger and raw EV lower": lambda: (
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
