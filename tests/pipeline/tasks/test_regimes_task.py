"""Test the task of table b8 on every cohort, its table and figure, and the settings it refuses."""

import re
from dataclasses import asdict, replace

import pytest

from gaugeport.pipeline.config.compose import compose_config, from_config
from gaugeport.pipeline.measures.maps import MATCHER_OF_GROUP
from gaugeport.pipeline.paths import experiment_module
from gaugeport.pipeline.report import figures
from gaugeport.pipeline.stages import pairs
from gaugeport.pipeline.store.records import Record
from gaugeport.pipeline.tasks import regimes
from gaugeport.pipeline.tasks.shared import paired_vectors
from smoke_jobs import built, measured

TOY = ("model=dyck3", "data=dyck3", "training=dyck3", "data.length=64")
COHORTS = {"seeds": (), "A": ("task.cohort=A", *TOY), "B": ("task.cohort=B", *TOY)}


def job(*overrides):
    chosen = ["experiment=steering_regimes", "profile=smoke", "seed=1", *overrides]
    return from_config(compose_config(chosen), chosen).job


@pytest.fixture(scope="module")
def records(store):
    """One job of every cohort."""
    records = []
    for cohort, overrides in COHORTS.items():
        chosen = job(*overrides, "task.strengths=[0.5,2.0]", "task.controls=2")
        rows = measured(chosen, store)
        records.append(Record(cohort, "regimes", asdict(chosen), rows, 1.0, {}, 2))
    return records


def test_every_cohort_has_its_vectors_conditions_and_metrics(records):
    for record in records:
        kinds = {(r["vector"], r["site"]) for r in record.rows if r.get("vector")}
        assert len(kinds) == (3 if record.id == "seeds" else 12)
        assert {r["cohort"] for r in record.rows} == {record.id}
        conditions = {(r["arm"], r["group"]) for r in record.rows if r["metric"] == "effect"}
        assert conditions == {
            ("within", ""), ("native", ""), ("random_within", ""), ("random_cross", ""),
            ("matched", "identity"),
            ("matched", "orthogonal"), *(("cross", g) for g in ("identity", *MATCHER_OF_GROUP)),
        }  # fmt: skip
        metrics = {r["metric"] for r in record.rows}
        assert "class_distance" in metrics
        assert ("class_gap" in metrics) == (record.id == "seeds")
        shares = [r["value"] for r in record.rows if r["metric"] == "pinned_share"]
        assert (min(shares) > 0) if record.id == "A" else set(shares) == {0.0}
        for name in ("share", "matched_share"):
            assert sum(r["metric"] == f"{name}_transfer_correlation" for r in record.rows) <= 1


def test_records_give_table_and_figure(records):
    module = experiment_module("steering_regimes")
    for chosen in (records, records[:1]):
        table = module.tabulate(chosen)
        of_share, of_rotation = table["claim"].dropna().unique()
        assert "pinned subspace" in of_share and "moved by the rotation" in of_rotation
        wide = module.pivot(table)
        vectors = sum(3 if r.id == "seeds" else 12 for r in chosen)
        assert len(wide) == len(chosen) + vectors, "one row of each cohort, and one of each vector"
        toy = wide["model"].str.startswith("dyck3")
        assert wide.loc[toy, "regimes"].ne("–").all()
        of_vectors = wide[wide["vector"] != "all"]
        told = of_vectors["gap"].str.fullmatch(r"-?\d*\.\d+, [01] of 1")
        assert (told == ~of_vectors["model"].str.startswith("dyck3")).all(), "toy vectors have no classes"
        figures.plt.close(module.plot(table))


@pytest.mark.parametrize(
    ("gaps", "told_apart"), [((0.5, 0.5), 1), ((0.5, 0.09), 0), ((0.09, 0.5), 0), ((0.5, -0.5), 0)]
)
def test_vector_is_void_where_either_model_cannot_tell_its_classes_apart(records, gaps, told_apart):
    metrics = dict(zip(("class_gap", "class_gap_other"), gaps, strict=True))
    rows = [{**row, "value": metrics.get(row["metric"], row["value"])} for row in records[0].rows]
    module = experiment_module("steering_regimes")
    table = module.tabulate([replace(records[0], rows=rows)])
    shown = module.SUMMARY(module.pivot(table))
    assert len(shown) == 3 and set(shown["gap"]) == {f".{100 * gaps[0]:02.0f}, {told_apart}/1"}
    assert {(shown[name] == "void").all() for name in ("raw", "B_d", "O(d)", "own")} == {not told_apart}
    figures.plt.close(module.plot(table))


def test_void_pairs_count_in_no_figure_of_their_vector(records):
    """The slopes of the other pair alone are shown, its regimes counted, and n is 1."""
    module, pairs_of = experiment_module("steering_regimes"), []
    for seed, gap, slope in ((1, 0.5, 2.0), (2, 0.01, 100.0)):
        values = {"class_gap": 0.5, "class_gap_other": gap}
        rows = [{**row, "value": values.get(row["metric"], row["value"])} for row in records[0].rows]
        at = {"cohort": "seeds", "arm": "cross", "group": "orthogonal", "strength": 0.5, "value": slope}
        places = {(row["vector"], row["site"]) for row in rows if row["metric"] == "class_gap"}
        rows += [{**at, "metric": "ratio_slope", "vector": v, "site": site} for v, site in places]
        config = {**records[0].config, "seed": seed}
        pairs_of.append(replace(records[0], id=f"pair{seed}", config=config, rows=rows))
    both, first = (
        module.pivot(module.tabulate(chosen)).set_index("vector").drop(index="all")
        for chosen in (pairs_of, pairs_of[:1])
    )
    assert set(both["slope, O(d)"]) == {"2.00"} and set(both["n"]) == {1}
    for column in ("α = 0.5", "over random", "regimes"):
        assert list(both[column]) == list(first[column]), column


def test_vectors_are_built_and_measured_on_different_strings(store, monkeypatch):
    drawn = []
    draw = paired_vectors.heldout

    def record_strings(*args):
        drawn.append(draw(*args))
        return drawn[-1]

    monkeypatch.setattr(paired_vectors, "heldout", record_strings)
    chosen = job(*COHORTS["A"])
    a = pairs.load_side(chosen, built(chosen, store).folders, "anchor")
    paired_vectors.dyck_vectors(chosen, a, a)
    # short strings coincide by chance
    build, test = (
        {tuple(ids) for ids in strings["input_ids"].tolist() if sum(x > 2 for x in ids) > 8}
        for strings in drawn
    )
    assert not build & test


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["task.strengths=[]"], "task.strengths=[]; allowed: positive numbers"),
        (["task.strengths=[1.0,-1.0]"], "task.strengths=[1.0, -1.0]; allowed: positive numbers"),
        (["task.strengths=[1.0,1.0]"], "task.strengths=[1.0, 1.0]; allowed: positive numbers, each once"),
        (["task.controls=0"], "task.controls=0; allowed: whole numbers from 1"),
        (["task.sentences=1"], "task.sentences=1; allowed: whole numbers from 2"),
        (["task.tokens=[]"], "task.tokens=[]; allowed: whole numbers from 2"),
        (["task.cohort=C"], "task.cohort='C'; allowed: A, B, seeds, runs"),
        (["task.cohort=A"], "allowed: model=dyck3 data=dyck3 training=dyck3"),
        (["task.cohort=A", *TOY, "task.rows=0"], "task.rows=0; allowed: whole numbers from 1"),
        (
            ["seed=0"],
            "compares a seed with seed 0 of its cohort (task.anchor); allowed: any other, seed=1, 2",
        ),
    ],
)
def test_bad_setting_is_refused_with_allowed_values(overrides, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        regimes.TASK.stages(job(*overrides))
