"""Test table b6 at smoke size: the rows of its two tasks, and the table made from them."""

import math
from dataclasses import asdict, replace

import pandas as pd
import pytest
import torch

from gaugeport.pipeline.config.compose import compose_config, from_config
from gaugeport.pipeline.config.experiments import experiment
from gaugeport.pipeline.config.sweeps import jobs_of
from gaugeport.pipeline.paths import experiment_module
from gaugeport.pipeline.report import figures
from gaugeport.pipeline.rotation.haar import null as haar_null
from gaugeport.pipeline.rotation.haar import statistics
from gaugeport.pipeline.store.records import Record, schema_of
from gaugeport.pipeline.tasks import haar as haar_task
from smoke_jobs import measured

DYCK = ("model=dyck3", "data=dyck3", "training=dyck3", "data.length=64", "task.cohort=A")


def job(*overrides):
    chosen = ["experiment=haar", "profile=smoke", *overrides]
    return from_config(compose_config(chosen), chosen).job


@pytest.fixture(scope="module")
def records(store):
    """Jobs of one pair of language models and of one pair of Dyck-3 models, and the power of the tests."""
    records = []
    for i, chosen in enumerate((job("seed=1"), job("seed=1", *DYCK), job("task=haar_power"))):
        rows = measured(chosen, store)
        records.append(Record(f"{i}", chosen.task["name"], asdict(chosen), rows, 1.0, {}, schema_of("haar")))
    return records


def values(rows, metric, **where):
    """Return the values of the rows with a metric and further columns."""
    return [
        r["value"] for r in rows if r["metric"] == metric and all(r.get(k) == v for k, v in where.items())
    ]


@pytest.mark.parametrize(("which", "free", "sites"), [(0, 31, 3), (1, 32, 5)])
def test_every_site_has_statistics_null_and_controls(records, which, free, sites):
    rows = records[which].rows
    assert len({r["site"] for r in rows}) == sites
    for site in {r["site"] for r in rows}:
        of_site = [r for r in rows if r["site"] == site]
        (distance,) = values(of_site, "distance_from_identity", group="orthogonal")
        assert 0 <= distance <= math.sqrt(2)
        assert values(of_site, "orthogonality_error")[0] <= 1e-6
        assert len(values(of_site, "eigen_angle")) == free
        for name in (*statistics.TAILS, "supported_distance"):
            (p,) = values(of_site, "p_value", statistic=name, test="calibrated")
            assert 0 < p <= 1
            low, high = (values(of_site, f"null_{end}", statistic=name)[0] for end in ("low", "high"))
            assert low <= values(of_site, "null_mean", statistic=name)[0] <= high
        assert len(values(of_site, "p_value", test="naive")) == 1
        assert values(of_site, "control_far_below_haar_on_support", control="low_rank_identity") == [1]
        signed, plain = (
            values(of_site, "objective_share", group=g)[0] for g in ("signed_permutation", "permutation")
        )
        assert 0 < signed <= 1 + 1e-9 and plain <= signed + 1e-9, "a larger group attains no less"
        assert len(values(of_site, "control_distance_from_identity")) == 2
        assert 1 <= values(of_site, "rank_anchor")[0] <= free


def test_shared_embedding_gives_identity_on_the_support(records):
    """Cohort A's first site is bit for bit the same, so any distance there is due to low rank."""
    of_site = [r for r in records[1].rows if r["site"] == "resid_pre_0"]
    assert values(of_site, "supported_distance")[0] < 1e-3 and values(
        of_site, "far_below_haar_on_support"
    ) == [1]
    assert values(of_site, "distance_from_identity", group="orthogonal")[0] > 0.5


def test_power_rows_hold_every_test_and_the_null_draws(records):
    rows, draws = records[2].rows, 20
    for group in statistics.GROUPS:
        rates = values(rows, "rejection_rate", haar=group, alternative="signed_permutation")
        assert len(rates) == len(statistics.TAILS) + 2
        assert len(values(rows, "null_draw", haar=group, statistic="largest_entry")) == draws
        assert len(values(rows, "null_angle", haar=group)) == haar_null.REFERENCE_MATRICES * (
            31 if group == "mean_preserving_orthogonal" else 32
        )


def test_table_pools_pairs_and_judges_distance(records):
    module = experiment_module("haar")
    table = module.tabulate(records)
    claim = table[table["metric"] == "b6.distance_is_haar"].iloc[0]
    own = values(records[0].rows, "distance_from_identity", site="block1", group="orthogonal")
    assert claim["left"] == pytest.approx(own[0]) and claim["n"] == 1 and claim["site"] == "block1"
    pooled = table[table["metric"] == "pooled_p_value"]
    language = pooled[(pooled["cohort"] == "seeds") & (pooled["test"] == "calibrated")]
    assert len(language) == 3 * len(statistics.TAILS) and (language["n"] == 1).all()
    mine = values(records[0].rows, "eigen_angle")
    null = values(records[2].rows, "null_angle", haar="mean_preserving_orthogonal")
    naive = pooled[(pooled["cohort"] == "seeds") & (pooled["test"] == "naive")]["value"].iloc[0]
    assert naive == pytest.approx(haar_null.naive_p_value(torch.tensor(mine), torch.tensor(null)))
    assert not set(module.DRAWN) & set(table[table["seed"].isna()]["metric"])
    shown = module.pivot(table)
    assert list(shown[shown["cohort"] == "seeds"]["site"]) == ["embed", "block0", "block1", "all", "paper"]
    assert list(shown[shown["cohort"] == "A"]["site"])[:3] == ["resid_pre_0", "resid_mid_0", "resid_post_0"]
    assert len(shown[shown["cohort"] == "power"]) == 2 * len(module.ALTERNATIVES)
    assert not shown.isna().any().any()


def test_rotation_shared_by_two_pairs_counts_once(records):
    """The second pair of cohort A has the first's rotation at the input, and other rotations elsewhere."""
    first = records[1]
    rows = [dict(r) for r in first.rows]
    for row in rows:
        if row["site"] != "resid_pre_0" and row["metric"] in (*statistics.TAILS, "eigen_angle"):
            row["value"] += 1e-3
    second = replace(first, id="3", config={**first.config, "seed": 2}, rows=rows)
    table = experiment_module("haar").tabulate([*records, second])
    mine = table[(table["cohort"] == "A") & table["seed"].isna() & (table["group"] == "orthogonal")]
    n = mine[mine["metric"] == "distance_from_identity"].set_index("site")["n"]
    assert n["resid_pre_0"] == 1 and (n.drop("resid_pre_0") == 2).all()
    pooled = table[(table["metric"] == "pooled_p_value") & (table["cohort"] == "A")]
    assert (pooled[pooled["test"] == "calibrated"].groupby("site")["n"].first() == n).all()
    assert pooled[pooled["test"] == "naive"]["n"].tolist() == [2 * len(n) - 1]


def test_table_and_figure_work_without_power_records(records, tmp_path):
    module = experiment_module("haar")
    for some in (records, records[:2], records[:1]):
        table = module.tabulate(some)
        assert isinstance(module.pivot(table), pd.DataFrame)
        figures.save(module.plot(table), tmp_path / "b6.png")
    assert "pooled_p_value" not in set(module.tabulate(records[:1])["metric"])


def test_sweep_covers_every_cohort_and_refuses_anchor():
    cohorts = [j.job.task.get("cohort") for j in jobs_of(experiment("b6"), "mini")]
    assert {"seeds", "A", "B", None} == set(cohorts) and cohorts.count(None) == 1
    with pytest.raises(ValueError, match=r"seed=0 .*allowed: any other, seed=1"):
        haar_task.TASK.stages(job("seed=0"))
