"""The task of table b8 on every cohort, its table and figure, and the settings it refuses."""

from dataclasses import asdict

import pytest

from gaugeport.pipeline.config.compose import compose_config, from_config
from gaugeport.pipeline.measures.maps import MATCHER_OF_GROUP
from gaugeport.pipeline.paths import experiment_module
from gaugeport.pipeline.report import figures
from gaugeport.pipeline.stages import pairs
from gaugeport.pipeline.store.records import Record
from gaugeport.pipeline.store.store import Store
from gaugeport.pipeline.tasks import regimes
from gaugeport.pipeline.tasks.shared import paired_vectors
from smoke_jobs import built, measured

TOY = ("model=dyck3", "data=dyck3", "training=dyck3", "data.length=64")
COHORTS = {"seeds": (), "A": ("task.cohort=A", *TOY), "B": ("task.cohort=B", *TOY)}


def job(*overrides):
    chosen = ["experiment=steering_regimes", "profile=smoke", "seed=1", *overrides]
    return from_config(compose_config(chosen), chosen).job


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return Store(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def records(store):
    found = []
    for cohort, overrides in COHORTS.items():
        chosen = job(*overrides, "task.strengths=[0.5,2.0]", "task.controls=2")
        rows = measured(chosen, store)
        found.append(Record(cohort, "regimes", asdict(chosen), rows, 1.0, {}, 2))
    return found


def test_the_task_runs_on_every_cohort(records):
    for record in records:
        kinds = {(r["vector"], r["site"]) for r in record.rows if r.get("vector")}
        assert len(kinds) == (3 if record.id == "seeds" else 12)
        assert {r["cohort"] for r in record.rows} == {record.id}
        arms = {(r["arm"], r["group"]) for r in record.rows if r["metric"] == "effect"}
        assert arms == {
            ("within", ""), ("native", ""), ("random_within", ""), ("random_cross", ""),
            ("matched", "identity"),
            ("matched", "orthogonal"), *(("cross", g) for g in ("identity", *MATCHER_OF_GROUP)),
        }  # fmt: skip
        metrics = {r["metric"] for r in record.rows}
        assert ("class_gap" in metrics) == (record.id == "seeds") and "class_distance" in metrics
        shares = [r["value"] for r in record.rows if r["metric"] == "pinned_share"]
        assert (min(shares) > 0) if record.id == "A" else set(shares) == {0.0}
        for name in ("share", "matched_share"):
            assert sum(r["metric"] == f"{name}_transfer_correlation" for r in record.rows) <= 1


def test_its_table_and_figure_are_made_of_the_records(records):
    module = experiment_module("steering_regimes")
    for chosen in (records, records[:1]):
        table = module.tabulate(chosen)
        (claim,) = table.loc[table["claim"].notna(), "claim"].unique() if "claim" in table else [None]
        assert "pinned subspace" in claim
        wide = module.pivot(table)
        cohorts = len(chosen)
        assert len(wide) == cohorts + sum(3 if r.id == "seeds" else 12 for r in chosen)
        assert wide["regimes"].ne("–").all()
        figures.plt.close(module.plot(table))


def test_strings_and_sentences_measured_are_others_than_those_built_from(store, monkeypatch):
    drawn = []
    real = paired_vectors.heldout
    monkeypatch.setattr(paired_vectors, "heldout", lambda *a: drawn.append(real(*a)) or drawn[-1])
    chosen = job(*COHORTS["A"])
    a = pairs.load_side(chosen, built(chosen, store).folders, "anchor")
    paired_vectors.dyck_vectors(chosen, a, a)
    build, test = ({tuple(r) for r in d["input_ids"].tolist() if sum(x > 2 for x in r) > 8} for d in drawn)
    assert len(drawn) == 2 and not build & test


@pytest.mark.parametrize(
    ("overrides", "words"),
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
        (["seed=0"], "compares a seed with seed 0 of its cohort; allowed: seed=1, 2"),
    ],
)
def test_bad_settings_name_what_is_allowed(overrides, words):
    with pytest.raises(ValueError) as e:
        regimes.TASK.stages(job(*overrides))
    assert words in str(e.value)
