"""What FINDINGS.md concludes of paper A's figures on SmolLM2 holds in the kept tables of the profile real."""

import pytest

from findings_module import load

findings = load()
c5 = findings.selector("c5", "real")
B_D = {"group": "signed_permutation", "matcher": "hungarian_abs"}
TOKENWISE = {"length": 64, "tokens": 4096, "samples": "tokens", "metric": "signed_accuracy"}
FINE_TUNED = ("default", "lr=0.001")
"""The settings of which pairs of SmolLM2's fine-tunes are kept."""


def trained(setting, route="endpoint", **where):
    """A c5 figure of fine-tunes of SmolLM2 at block 15, the mean over the pairs of a setting."""
    where = {**TOKENWISE, "setting": setting, "noise": None, "site": "block15", "route": route, **where}
    return c5(where, B_D)


def rows_of_c5(setting, **where):
    rows = c5({"setting": setting, "noise": None, **where}).rows
    assert len(rows), f"no rows: {setting} {where}"
    return rows


def near_the_paper(setting, **where):
    """The endpoint settings of B_d within .03 of .603."""
    where = {"metric": "signed_accuracy", "route": "endpoint", **B_D, **where}
    rows = rows_of_c5(setting, **where).to_dict("records")
    return [row for row in rows if abs(row["value"] - 0.603) <= 0.03]


def on_the_trajectory(row):
    """The same setting along the trajectory."""
    key = ("setting", "evidence", "site", "length", "left_out", "tokens", "samples")
    where = {k: row[k] for k in key}
    return c5({**where, "noise": None, "metric": "signed_accuracy", "route": "trajectory", **B_D}).value


def worst(setting, route):
    """The setting at which B_d places least along a route, token by token."""
    where = {"metric": "signed_accuracy", "samples": "tokens", "route": route, **B_D}
    rows = rows_of_c5(setting, **where)
    return rows.loc[rows["value"].idxmin()]


def moved(setting, **where):
    return float(rows_of_c5(setting, metric="weight_distance", link="A to B", **where)["value"].iloc[0])


def noisy(sigma, site, left_out):
    where = {"setting": "noise", "noise": sigma, "site": site, "left_out": left_out}
    return c5(TOKENWISE, B_D, where).value


CONCLUSIONS = {
    "massive activations cost coordinates that noise alone does not": lambda: (
        all(
            noisy(0.1, site, "none") < 0.95 < 0.985 < noisy(0.1, site, "first")
            for site in ("block15", "block22")
        )
        and noisy(0.3, "block15", "none") < noisy(0.3, "block15", "first") < noisy(0.3, "block15", "massive")
    ),
    "training nearly as far as noise loses nothing at 4,096 tokens but to massive ones": lambda: (
        moved("lr=0.001") > 0.8 * moved("noise", noise=0.3)
        and trained("lr=0.001", left_out="first").value > 0.99
        and trained("lr=0.001", left_out="none").value < 0.9
        and noisy(0.3, "block15", "first") < 0.6
    ),
    "real pairs without first tokens have no gap between endpoint and trajectory": lambda: all(
        trained(setting, route, left_out="first").value > 0.99
        for setting in FINE_TUNED
        for route in ("endpoint", "trajectory")
    ),
    "at 1e-4 the endpoint is the route that loses least at its worst setting": lambda: (
        worst("default", "endpoint")["value"]
        > 0.95
        > worst("default", "trajectory")["value"]
        > worst("default", "via_base")["value"]
    ),
    "at 1e-4 the trajectory is worst at block 11, 256 tokens in rows of 16 without the first": lambda: (
        worst("default", "trajectory")[["site", "tokens", "length", "left_out"]].tolist()
        == ["block11", 256, 16, "first"]
    ),
    "with first tokens in, a trajectory loses more than its endpoint at block 15": lambda: (
        trained("lr=0.001", "trajectory", left_out="none", tokens=16384).value
        < trained("lr=0.001", "via_base", left_out="none", tokens=16384).value
        < trained("lr=0.001", left_out="none", tokens=16384).value
    ),
    "at 1e-4 the settings near 60.3 % are means of rows": lambda: (
        {row["samples"] for row in near_the_paper("default")} == {"row means"}
    ),
    "at 1e-3 they have first tokens in and few of them, and no gap to the trajectory": lambda: (
        {
            (row["left_out"], row["tokens"] <= 256, on_the_trajectory(row) < row["value"])
            for row in near_the_paper("lr=0.001")
            if row["samples"] == "tokens"
        }
        == {("none", True, True)}
    ),
    "or they are means of 32 rows, and there is a gap": lambda: (
        {
            (row["site"], row["length"], row["tokens"])
            for row in near_the_paper("lr=0.001")
            if row["samples"] == "row means" and on_the_trajectory(row) > 0.9
        }
        == {("block2", 128, 4096), ("block3", 128, 4096)}
    ),
    "noise gives 60.3 % token by token at no sigma below .3": lambda: (
        all(
            row["samples"] == "row means"
            for sigma in (0.03, 0.1)
            for row in near_the_paper("noise", noise=sigma)
        )
        and any(row["samples"] == "tokens" for row in near_the_paper("noise", noise=0.3))
    ),
    "raw matching places the share of positive signs": lambda: all(
        abs(figure - 0.6) < 0.03
        for figure in rows_of_c5(
            "default", group="permutation", matcher="hungarian_raw", metric="index_accuracy", p=0.6
        )["value"]
    ),
}


@pytest.mark.parametrize("conclusion", CONCLUSIONS)
def test_conclusion_holds_in_the_kept_tables(conclusion):
    assert CONCLUSIONS[conclusion]()
