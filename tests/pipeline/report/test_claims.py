"""The judge: null records must read "inconclusive", reversed ones "contradicted"."""

import itertools
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from gaugeport.pipeline.report.claims import Claim, load_claims
from gaugeport.pipeline.report.intervals import t_interval
from gaugeport.pipeline.report.judged import claim_rows, claim_sides
from gaugeport.pipeline.report.tidy import COLUMNS, aggregate, middle_site
from gaugeport.pipeline.report.verdicts import judge


def gap(direction="greater", paper=0.3, null=0.0):
    return Claim(
        id="t.gap",
        table="t",
        claim="gap",
        metric="accuracy",
        where={"setting": "default", "site": "middle", "step": "last"},
        left={"route": "trajectory"},
        right={"route": "endpoint"},
        null_value=null,
        direction=direction,
        delta=0.05,
        paper=paper,
        quote="paper A",
    )


def rows(trajectory, endpoint):
    """Per-seed rows at two sites and two steps; only the middle site's last step carries the values."""
    lines = []
    for route, values in (("trajectory", trajectory), ("endpoint", endpoint)):
        for seed, value in enumerate(values):
            for site in ("embed", "block0", "block1"):
                for step in (5, 10):
                    here = site == "block1" and step == 10
                    where = {
                        "table": "t",
                        "profile": "mini",
                        "model": "m",
                        "seed": seed,
                        "setting": "default",
                    }
                    measured = {"metric": "accuracy", "value": value if here else -9.0}
                    lines.append({**where, "route": route, "site": site, "step": step, **measured})
    return pd.DataFrame(lines).reindex(columns=COLUMNS)


def differences(claim, frame):
    return claim_sides(claim, frame)["difference"].to_dict()


def judged(claim, values, profile):
    """Judge a claim on a value per seed, all compared with one anchor."""
    by_pair = values if isinstance(values, dict) else {(0, seed): v for seed, v in enumerate(values)}
    return judge(claim, by_pair, profile)


NOISE = np.array([-0.02, 0.03, 0.0, 0.01, -0.02])


def test_clear_gap_is_reproduced_and_paired_by_seed():
    values = differences(gap(), rows(0.9 + NOISE, 0.6 + NOISE))
    assert list(values.values()) == pytest.approx([0.3] * 5)
    assert judged(gap(), values, "mini")[0] == "reproduced"


def test_null_records_are_inconclusive():
    assert judged(gap(), differences(gap(), rows(0.6 + NOISE, 0.6 - NOISE)), "mini")[0] == "inconclusive"
    assert judged(gap(), [0.0] * 5, "mini")[0] == "inconclusive", "no gap and no spread"


def test_reversed_records_contradict():
    assert judged(gap(), differences(gap(), rows(0.6 + NOISE, 0.9 + NOISE)), "mini")[0] == "contradicted"
    assert judged(gap("less"), [0.3, 0.31, 0.29, 0.3, 0.3], "mini")[0] == "contradicted"


def test_interval_that_includes_null_is_inconclusive():
    values = [0.5, -0.1, 0.4, 0.0, 0.2]
    assert t_interval(values)[1] < 0 < np.mean(values)
    assert judged(gap(), values, "mini")[0] == "inconclusive"


def test_claim_by_construction_says_so_at_any_n_and_can_still_fail():
    claim = replace(gap(), by_construction=True)
    for n, profile in ((5, "mini"), (5, "paper"), (4, "mini"), (1, "real")):
        assert judged(claim, [0.3] * n, profile)[0] == "by construction"
    assert judged(claim, [0.0] * 5, "mini")[0] == "inconclusive"
    assert judged(claim, [-0.3] * 5, "mini")[0] == "contradicted"
    assert judged(claim, [-0.3] * 4, "mini")[0] == "not the direction (n = 4)"


@pytest.mark.parametrize("quote", ["not in the papers", "–"])
def test_what_the_papers_do_not_claim_is_supported_and_not_reproduced(quote):
    ours = replace(gap(), quote=quote)
    assert judged(ours, [0.3] * 5, "mini")[0] == "supported"
    assert judged(ours, [-0.3] * 5, "mini")[0] == "contradicted"


def test_a_claim_about_a_count_is_judged_by_the_seeds_and_not_by_their_mean():
    counted = replace(gap("less"), counted=True)
    assert judged(counted, [-0.1] * 6, "mini")[0] == "reproduced", "6 of 6: the exact interval starts at .54"
    assert judged(counted, [-0.1] * 5, "mini")[0] == "inconclusive", "5 of 5: it starts at .48"
    most = [-0.01] * 3 + [5.0] * 3
    assert judged(counted, most, "mini")[0] == "inconclusive", "3 of 6"
    assert judged(counted, [0.1] * 6, "mini")[0] == "contradicted"
    assert judged(counted, [-0.1, -0.1, 9.0], "mini")[0] == "direction only (n = 3)", "two of three"
    # one seed far off moves a mean, and is one in a count
    assert judged(counted, [-0.1] * 11 + [9.0], "mini")[0] == "reproduced"
    assert judged(replace(counted, counted=False), [-0.1] * 11 + [9.0], "mini")[0] == "inconclusive"


def test_correlations_have_fishers_interval():
    claim = replace(gap("less", null=0.99), metric="bar_c_pearson", right=None)
    r = [0.52, 0.69, 0.85, 0.92, 0.96]
    assert t_interval(r)[2] > 0.99, "a t-interval of these would not tell them from .99"
    verdict, mean, low, high, n = judged(claim, r, "mini")
    assert verdict == "reproduced" and -1 < low < mean < high < 0.99 and n == 5


def test_pairs_of_all_seeds_have_as_many_units_as_there_are_seeds():
    names = list(itertools.combinations(range(5), 2))
    verdict, mean, low, high, n = judge(gap(), dict.fromkeys(names, 0.3), "mini")
    assert (verdict, n) == ("reproduced", 5) and (low, mean, high) == pytest.approx((0.3, 0.3, 0.3))
    # ten pairs above 0 that hang on one seed: without it nothing is left, and five seeds do not tell
    of_one_seed = {pair: 0.9 if 4 in pair else 0.0 for pair in names}
    assert t_interval(list(of_one_seed.values()))[1] > 0
    assert judge(gap(), of_one_seed, "mini")[0] == "inconclusive"
    assert judge(gap(), {(0, 1): 0.3, (0, 2): 0.3, (1, 2): 0.3}, "mini")[0] == "direction only (n = 3)"
    counted = judge(replace(gap(), counted=True), dict.fromkeys(names, 0.3), "mini")
    assert (counted[0], counted[4]) == ("direction only (n = 4)", 4), "only pairs with one anchor are counted"


def test_claims_pair_their_sides_by_anchor_and_seed(monkeypatch):
    monkeypatch.setattr("gaugeport.pipeline.report.judged.load_claims", lambda: [gap()])
    of_pairs = pd.concat(
        [rows(0.9 + NOISE, 0.6 + NOISE).assign(anchor=anchor).query("seed > anchor") for anchor in range(4)]
    )
    (row,) = claim_rows("t", of_pairs).to_dict("records")
    assert row["n"] == 5 and row["value"] == pytest.approx(0.3)
    means = aggregate(of_pairs)
    assert set(means["n"]) == {5} and means["anchor"].isna().all()


def test_few_seeds_give_direction_only_and_none_gives_not_run():
    assert judged(gap(), [0.3] * 4, "mini")[0] == "direction only (n = 4)"
    assert judged(gap(), [0.3], "mini")[0] == "direction only (n = 1)"
    assert judged(gap(), [], "mini")[0] == "not run"
    for against in ([0.0], [-0.3] * 4):
        assert judged(gap(), against, "mini")[0] == f"not the direction (n = {len(against)})"
    assert judged(gap("less"), [-0.3] * 4, "mini")[0] == "direction only (n = 4)"


def test_figures_are_matched_at_paper_profile_only():
    near, better, short = (
        [0.30, 0.31, 0.29, 0.30, 0.30],
        [0.6, 0.61, 0.59, 0.6, 0.6],
        [0.1, 0.11, 0.09, 0.1, 0.1],
    )
    assert judged(gap(), near, "mini")[0] == "reproduced"
    assert judged(gap(), near, "paper")[0] == "matched"
    assert judged(gap(), better, "paper")[0] == "matched"
    assert judged(gap(), short, "paper")[0] == "reproduced"
    assert judged(gap("less", paper=-0.3), [-v for v in better], "paper")[0] == "matched"
    two_sided = Claim(**{**vars(gap()), "two_sided": True})
    assert judged(two_sided, near, "paper")[0] == "matched"
    assert judged(two_sided, better, "paper")[0] == "reproduced", "beyond the figure is no better"


def test_claim_on_chosen_setting_is_void():
    chosen = Claim(**{**vars(gap()), "unjudged": "setting chosen"})
    assert judged(chosen, [0.3] * 5, "mini")[0] == "void (setting chosen)"


def test_several_measurements_per_seed_are_refused():
    with pytest.raises(ValueError, match="one measurement per seed"):
        differences(gap(), pd.concat([rows([0.9], [0.6])] * 2))


def test_claim_rows_carry_the_verdict_and_the_paper(monkeypatch):
    monkeypatch.setattr("gaugeport.pipeline.report.judged.load_claims", lambda: [gap()])
    (row,) = claim_rows("t", rows(0.9 + NOISE, 0.6 + NOISE)).to_dict("records")
    assert (
        row["verdict"] == "reproduced"
        and row["paper"] == 0.3
        and row["site"] == "block1"
        and row["step"] == 10
    )
    assert (row["left"], row["right"]) == pytest.approx((0.9, 0.6))


def test_claim_about_a_model_that_was_not_run_is_not_run(monkeypatch):
    claim = Claim(**{**vars(gap()), "where": {"model": "other", "site": "middle", "step": "last"}})
    monkeypatch.setattr("gaugeport.pipeline.report.judged.load_claims", lambda: [claim])
    (row,) = claim_rows("t", rows(0.9 + NOISE, 0.6 + NOISE)).to_dict("records")
    assert row["verdict"] == "not run" and row["n"] == 0


def test_every_declared_claim_is_well_formed():
    claims = load_claims()
    assert len({c.id for c in claims}) == len(claims)
    assert {c.table for c in claims} >= {"a1", "a2", "a3", "c2"}
    with pytest.raises(ValueError, match="allowed: greater, less"):
        gap("sideways")


def test_aggregate_averages_over_seeds_only():
    means = aggregate(rows([0.9, 0.7], [0.6, 0.6]))
    last = means[(means["site"] == "block1") & (means["step"] == 10)].set_index("route")
    assert last.loc["trajectory", "value"] == pytest.approx(0.8) and last.loc["trajectory", "n"] == 2
    assert means["seed"].isna().all() and len(means) == 2 * 3 * 2


def test_middle_site():
    assert middle_site(["embed", "block0", "block1", "block2", "block3"]) == "block2"
    assert middle_site(["block0", "block1"]) == "block1"


def test_profile_real_reads_claims_on_its_own_model_as_it_is():
    claim = replace(gap(), where={"model": "tinyllama", "target": "identical", "setting": "default"})
    frame = rows(0.9 + NOISE, 0.6 + NOISE)
    frame = frame[(frame["site"] == "block1") & (frame["step"] == 10)].assign(model="smollm2", target="self")
    assert list(differences(claim, frame.assign(profile="real")).values()) == pytest.approx([0.3] * 5)
    assert differences(claim, frame.assign(profile="mini")) == {}


@pytest.mark.parametrize("profile", ["real", "toy", "paper"])
def test_figures_are_compared_on_pretrained_models_alone(profile):
    assert judged(gap(paper=0.3), list(0.3 + NOISE), profile)[0] == "matched"
    assert judged(gap(paper=0.3), list(0.3 + NOISE), "mini")[0] == "reproduced"


def test_setting_that_was_chosen_at_mini_was_declared_at_real():
    claim = replace(gap(), unjudged="learning rate chosen")
    assert judged(claim, list(0.2 + NOISE), "mini")[0] == "void (learning rate chosen)"
    assert judged(claim, list(0.1 + NOISE), "real")[0] == "reproduced"
    assert judged(claim, list(NOISE), "real")[0] == "inconclusive"


SEEDS = 8  # of five or fewer none can tell a claim about a count
EITHER_SIDE = np.array([1.0, -1.0] * (SEEDS // 2))


def records_of(claim, offset):
    """Rows per seed in which the claim's contrast lies ``offset`` beyond its null, in its direction.

    The noise is a quarter of the step, symmetric about it.
    """
    step = min(0.005, abs(claim.null_value) / 2 or 1)
    sign = 1 if claim.direction == "greater" else -1
    contrast = claim.null_value + sign * offset * step + EITHER_SIDE * step / 4
    at = {"profile": "mini", "table": claim.table}
    places = {"site": {"middle": "block1"}, "step": {"last": 10}}
    sides = {"left": contrast} if claim.right is None else {"left": 0.3 + contrast, "right": [0.3] * SEEDS}
    lines = []
    for side, values in sides.items():
        named = {"metric": claim.metric, **claim.where, **getattr(claim, side)}
        named = {column: places.get(column, {}).get(value, value) for column, value in named.items()}
        lines += [{**at, **named, "seed": seed, "value": value} for seed, value in enumerate(values)]
    where = {k: v for k, v in claim.where.items() if k in ("model", "setting")}
    lines += [{**at, **where, "metric": "other", "seed": 0, "step": 10, "site": f"block{n}"} for n in (0, 1)]
    return pd.DataFrame(lines)


@pytest.mark.parametrize("claim", [c for c in load_claims() if not c.unjudged], ids=lambda claim: claim.id)
def test_every_claim_can_hold_and_fail(claim, monkeypatch):
    monkeypatch.setattr("gaugeport.pipeline.report.judged.load_claims", lambda: [claim])
    holds = (
        "by construction" if claim.by_construction else "reproduced" if claim.is_the_papers else "supported"
    )
    for offset, verdict in ((1, holds), (0, "inconclusive"), (-1, "contradicted")):
        (row,) = claim_rows(claim.table, records_of(claim, offset)).to_dict("records")
        assert (row["verdict"], row["n"]) == (verdict, SEEDS), offset
