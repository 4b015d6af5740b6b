"""The kept results: tables made of their records are the tables kept, and a subset that is run again
agrees."""

import importlib.util
import json
import lzma
import re
import shutil
from dataclasses import replace

import pandas as pd
import pytest
from numpy.testing import assert_allclose
from PIL import Image

from gaugeport.pipeline.commands.headline import Headline
from gaugeport.pipeline.commands.tables import choose, made, write_tables
from gaugeport.pipeline.config.experiments import tables_of
from gaugeport.pipeline.config.sweeps import jobs_of
from gaugeport.pipeline.execution.runner import run_all
from gaugeport.pipeline.job import job_id
from gaugeport.pipeline.report.headline import VERDICTS, load_headline
from gaugeport.pipeline.report.narrow import WIDTH
from gaugeport.pipeline.report.tables import claims_table, narrow_text, wide_text
from gaugeport.pipeline.report.tidy import select
from places import ROOT

KEPT = ROOT / "experiments" / "reference" / "mini"
SAME = ["model", "setting", "group", "matcher", "route", "evidence", "site", "step", "metric"]


@pytest.fixture(scope="module")
def make():
    spec = importlib.util.spec_from_file_location("make_reference", KEPT.parent / "make.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_what_no_table_writes_is_not_removed(make, tmp_path):
    (tmp_path / "models").mkdir()
    for name in ("b1.md", "trials.json", "models/A0.json"):
        (tmp_path / name).touch()
    make.clear(tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {"trials.json", "models"}
    assert (tmp_path / "models" / "A0.json").exists()


@pytest.fixture(scope="module")
def remade(make, tmp_path_factory):
    outputs = tmp_path_factory.mktemp("reference")
    make.unpack(KEPT / "records.jsonl.xz", outputs)
    chosen = choose([], "mini", False, ["tracker=none", f"paths.outputs={outputs}"])
    return chosen, made(chosen)


def kept(name):
    (path,) = KEPT.glob(f"{name}.csv*")
    return pd.read_csv(path, low_memory=False)


def kept_tables(folder):
    """The ids of the tables in a folder, sorted; the csv of a long one is compressed."""
    return sorted(path.name.partition(".")[0] for path in folder.glob("[a-d][0-9]*.csv*"))


def test_headline_of_the_kept_records_is_one_screen(remade):
    outputs = remade[0].outputs
    entries = [entry for entry in load_headline() if not entry.group.fetched]
    headline = Headline(entries, extra=[f"paths.outputs={outputs}"])
    headline.run()
    assert list(headline.results) == entries and not headline.failures, "every record is there"
    for entry, result in headline.results.items():
        assert result.verdict in VERDICTS and len(result.values) == len(entry.sides), entry.claim.id
    screen = headline.screen().splitlines()
    assert len(screen) <= 60 and max(map(len, screen[:-3])) <= 100, "its last lines are paths"
    with Image.open(outputs / "figures" / "headline.png") as figure:
        assert figure.width > 300


@pytest.mark.slow
def test_every_table_regenerates_from_its_records(make, remade, tmp_path):
    chosen, tables = remade
    assert sorted(tables) == sorted(chosen.jobs) == kept_tables(KEPT)
    same_as_kept(make, tables, "mini", tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("profile", ["real", "toy"])
def test_tables_of_longer_profiles_regenerate_from_their_records(make, profile, tmp_path):
    folder = KEPT.parent / profile
    make.unpack(folder / make.ARCHIVE, tmp_path)
    tables = made(choose([], profile, False, ["tracker=none", f"paths.outputs={tmp_path}"]))
    assert sorted(tables) == kept_tables(folder)
    same_as_kept(make, tables, profile, tmp_path)
    judged = set(pd.read_csv(folder / "claims.csv")["table"])
    assert {i[0] for i in judged} == {"real": {"a", "c"}, "toy": {"b", "d"}}[profile], (
        "no claim of other tables"
    )


def same_as_kept(make, tables, profile, tmp_path):
    """Assert that csv and md of all tables and of the claims are those kept of a profile."""
    folder, claims = KEPT.parent / profile, claims_table(tables, profile, tables_of(profile))
    for table in [*tables.values(), claims]:
        make.write_means(tmp_path / "means.csv", table.tidy)
        ours, theirs = (
            pd.read_csv(path, low_memory=False)
            for path in (tmp_path / "means.csv", make.means_path(folder, table))
        )
        numbers = [c for c in theirs.select_dtypes("number")]
        assert_allclose(ours[numbers], theirs[numbers], rtol=1e-5, err_msg=table.id)  # six digits
        pd.testing.assert_frame_equal(ours.drop(columns=numbers), theirs.drop(columns=numbers))
        shown = wide_text(claims) if table is claims else narrow_text(table)
        assert (folder / f"{table.id}.md").read_text() == shown, table.id


@pytest.mark.parametrize("path", sorted(KEPT.glob("[a-d][0-9]*.md")), ids=lambda path: path.stem)
def test_narrow_tables_fit_a_hundred_columns_and_a_screen(path):
    lines = path.read_text().splitlines()
    assert max(map(len, lines)) <= WIDTH and len(lines) <= 50


@pytest.mark.slow
def test_headline_uses_every_existing_record(remade, tmp_path):
    """``./run.sh`` after ``./run.sh all`` runs fewer jobs, and replaces no table by one of fewer seeds."""
    whole = remade[0]
    (tmp_path / "records").mkdir()
    for c in whole.jobs["a8"]:
        shutil.copy(whole.outputs / "records" / f"{job_id(c.job)}.json", tmp_path / "records")
    headline = choose(["a8"], "mini", True, ["tracker=none", f"paths.outputs={tmp_path}"])
    assert 0 < len(headline.asked) < len(headline.jobs["a8"]) == len(whole.jobs["a8"])
    pd.testing.assert_frame_equal(made(headline)["a8"].tidy, remade[1]["a8"].tidy)


@pytest.mark.slow
def test_reference_refuses_missing_jobs(make, remade, tmp_path):
    chosen = choose(["c4"], "mini", False, ["tracker=none", f"paths.outputs={tmp_path}"])
    (tmp_path / "records").mkdir()
    first, *others = (remade[0].outputs / "records" / f"{job_id(c.job)}.json" for c in chosen.jobs["c4"])
    for path in others:
        shutil.copy(path, tmp_path / "records")
    with pytest.raises(ValueError, match=r"c4 lacks records \(1 not run\)"):
        make.records_of(chosen, "c4", whole=True)
    shutil.copy(first, tmp_path / "records")
    assert len(make.records_of(chosen, "c4", whole=True)) == 1 + len(others)


@pytest.mark.slow
def test_headline_records_alone_make_its_tables_and_figures(remade, tmp_path):
    (tmp_path / "records").mkdir()
    whole, wanted = remade[0], [i for i, e in remade[0].experiments.items() if e.headline]
    for table in wanted:
        for c in jobs_of(whole.experiments[table], "mini", headline=True, extra=whole.extra):
            shutil.copy(whole.outputs / "records" / f"{job_id(c.job)}.json", tmp_path / "records")
    jobs = {table: [replace(c, outputs=tmp_path) for c in whole.jobs[table]] for table in wanted}
    chosen = replace(whole, jobs=jobs, wanted=wanted)
    tables = made(chosen)
    assert len(tables) > 10 and set(tables) == set(chosen.wanted) < set(remade[1])
    write_tables(chosen, tables)
    for folder, suffix in (("tables", "md"), ("tables", "csv"), ("figures", "png")):
        written = {path.stem for path in (tmp_path / folder).glob(f"*.{suffix}")}
        assert written - {"claims"} == set(tables)
    judged = pd.read_csv(tmp_path / "tables" / "claims.csv").set_index("table")["verdict"]
    for table in tables:
        assert (judged[[table]] != "not run").any(), f"no claim of {table} is judged"


@pytest.mark.slow
def test_readme_shows_the_kept_claims(make, remade):
    begin, end = make.marks("mini")
    text = (ROOT / "README.md").read_text()
    assert text.count(begin) == 1
    assert text.partition(begin)[2].partition(end)[0] == make.readme_claims(
        claims_table(remade[1], "mini", tables_of("mini"))
    )


@pytest.mark.slow
def test_decoys_cost_a_tenth_of_a_nat_and_real_models_do_not(remade):
    table = remade[1]["b1"].tidy
    bars = table[(table["metric"] == "bar_b") & table["seed"].notna() & (table["setting"] == "default")]
    wide = bars.pivot(index=["cohort", "seed"], columns="variant", values="value")
    assert len(wide) == 9 and (wide["decoy"] >= 0.1).all() and (wide["real"] < 0.1).all()
    pivot = remade[1]["b1"].pivot.set_index(["cohort", "seed", "setting"])["decoy/real"]
    for (cohort, seed), row in wide.iterrows():
        assert float(pivot[cohort, f"{seed:.0f}", "default"]) == pytest.approx(
            row["decoy"] / row["real"], abs=0.5
        )


def test_reference_readme_says_what_made_it():
    text = (KEPT / "README.md").read_text()
    for words in ("Machines (jobs): ", "Commits that measured them", "cores"):
        assert words in text
    first = lzma.decompress((KEPT / "records.jsonl.xz").read_bytes()).partition(b"\n")[0]
    versions = json.loads(first)["versions"]
    assert {"torch", "transformers"} < set(versions)
    for package in set(versions) - {"commit", "machine", "gaugeport"}:
        assert f"{package} {versions[package]}" in text
    assert re.search(r"`[0-9a-f]{7,}` \(\d+\)", text)
    assert json.loads((KEPT / "timings.json").read_text())["stage base"][0] > 10


@pytest.mark.slow
@pytest.mark.parametrize(
    ("table", "families"), [("a1", ["task.families=[llama,gemma2,gpt_neox]"]), ("a2", [])]
)
def test_rerun_subset_has_overlapping_intervals(table, families, tmp_path):
    """What trains nothing is run at every seed: a1 of a family of each kind, a2 on synthetic activations."""
    chosen = choose([table], "mini", False, ["tracker=none", f"paths.outputs={tmp_path}", *families])
    jobs = [c for c in chosen.jobs[table] if not str(c.job.task.get("activations")).startswith("real")]
    assert len(jobs) >= 5 and run_all(jobs, processes=1) == []
    ours = made(chosen)[table].tidy
    ours = ours[ours["seed"].isna() & ours["ci_low"].notna() & ours["verdict"].isna()]
    theirs = kept(table)
    keys = [c for c in [*SAME, "chart", "p", "inside"] if c in theirs and c in ours]
    both = ours.merge(theirs[theirs["verdict"].isna()], on=keys, suffixes=("", "_kept"))
    assert len(both) == len(ours) > 20
    slack = 1e-12 + 1e-5 * both["value"].abs()  # intervals of no width: a csv has six digits
    apart = both[
        (both["ci_low"] > both["ci_high_kept"] + slack) | (both["ci_high"] < both["ci_low_kept"] - slack)
    ]
    assert apart.empty, apart[[*keys, "value", "value_kept"]]


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_retrained_seed_lies_within_kept_seeds(tmp_path, remade):
    """Seed 0 of table a3's main conditions, trained again (minutes)."""
    chosen = choose(["a3"], "mini", True, ["tracker=none", f"paths.outputs={tmp_path}"])
    assert run_all(chosen.asked) == []
    at = {"setting": "default", "evidence": "site", "metric": "signed_accuracy", "model": "tinyllama"}
    ours, theirs = (select(tables["a3"].tidy, at) for tables in (made(chosen), remade[1]))
    ours, theirs = (found[found["seed"].notna()] for found in (ours, theirs))
    span = theirs.groupby(SAME)["value"].agg(["min", "max"])
    both = ours.set_index(SAME).join(span)
    assert len(both) == len(ours) > 100 and both["min"].notna().all()
    slack = (
        both["max"] - both["min"] + 1 / 128
    )  # as far again as the kept seeds lie apart, and one coordinate
    apart = both[(both["value"] < both["min"] - slack) | (both["value"] > both["max"] + slack)]
    assert apart.empty, apart
